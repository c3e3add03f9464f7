"""What is sent: serialization, shared memory, deduplication, refs."""
