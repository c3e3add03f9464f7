"""Environments: what they are, the folders and virtual environments that they are made of, a cache."""
