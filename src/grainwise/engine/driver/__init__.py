"""The engine in the user's program."""
