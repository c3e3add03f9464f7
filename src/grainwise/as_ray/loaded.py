"""Importing this installs the stand-in: workers' templates import it where the program has."""

from __future__ import annotations

from . import finder

finder.install()
