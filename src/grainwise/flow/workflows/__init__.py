"""Workflows: traced from a function, put together by hand, and their launch plans."""
