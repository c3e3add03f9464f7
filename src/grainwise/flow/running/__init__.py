"""What runs graphs: the scheduler, where it has tasks run, what it remembers."""
