"""Environments: what they are, the virtual environments and folders that they are made of, and their cache."""
