"""`python -m grainwise.as_ray script.py ARGS`: run an unchanged Ray script here. See `runner`."""

from __future__ import annotations

import sys

from .runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
