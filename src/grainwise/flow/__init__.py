"""Typed tasks, workflows and reusable environments."""
