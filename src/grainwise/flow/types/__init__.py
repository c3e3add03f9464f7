"""Annotations become closures that check, and convert, the values of tasks."""
