"""Where tasks run: in workers, or on the spot."""
