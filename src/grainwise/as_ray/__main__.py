"""`python -m grainwise.as_ray script.py ARGS`: run an unchanged Ray script here.

`python -m grainwise.as_ray -m package.module ARGS` runs a module.
"""

from __future__ import annotations

import sys

from . import install_as_ray

USAGE = "usage: python -m grainwise.as_ray SCRIPT.py [ARGS...]\n       python -m grainwise.as_ray -m MODULE [ARGS...]"


def main(arguments: list[str]) -> int:
    """Run a script or module as `__main__`, with the stand-in installed."""
    import os
    import runpy

    if not arguments or arguments[0] in ("-h", "--help") or (arguments[0] == "-m" and len(arguments) < 2):
        stream = sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr
        stream.write(f"{USAGE}\n\nRuns a program that says `import ray`, unchanged, without Ray.\n")
        return 0 if stream is sys.stdout else 2
    install_as_ray()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    script = arguments[0]
    if not os.path.exists(script):
        sys.stderr.write(f"grainwise.as_ray: there is no file {script!r}\n")
        return 2
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
