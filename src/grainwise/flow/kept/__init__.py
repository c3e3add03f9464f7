"""Results of tasks on disk, and what they are found by."""
