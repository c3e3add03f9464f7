"""What runs: tasks, dynamic workflows, maps of tasks."""
