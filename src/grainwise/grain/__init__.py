"""When to send tasks and how many: pure, without clock, thread or process."""
