"""The engine in a worker process."""
