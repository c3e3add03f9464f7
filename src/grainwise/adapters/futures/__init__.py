"""The `concurrent.futures` interface."""
