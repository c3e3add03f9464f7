"""Runs all scripts and prints a table: `python examples/patterns [--quick|--long] [--ray] [NAME ...]`.

With `--ray` the same scripts run on Ray as well, where it is installed:
`import grainwise as ray` means Ray then.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NO_SCRIPTS = ("side_by_side", "__main__")
ON_RAY = (
    "import runpy, sys, ray; sys.modules['grainwise'] = ray; sys.argv = sys.argv[1:]; sys.path.insert(0, "
    f"{str(FOLDER)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def figures(name, *, on_ray=False):
    """Run a script; return its figures, None where it fails."""
    script = str(FOLDER / f"{name}.py")
    program = ["-c", ON_RAY, script] if on_ray else [script]
    options = ["--json", *(option for option in ("--quick", "--long") if option in sys.argv)]
    try:
        done = subprocess.run(
            [sys.executable, *program, *options], capture_output=True, text=True, timeout=100, check=True
        )
    except subprocess.SubprocessError as error:
        print(f"{name}{' on Ray' * on_ray}: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
        return None
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def ms(found, key):
    """Return a time in milliseconds as text."""
    return f"{1000 * found[key]:,.0f}" if found else "fails"


def main():
    """Print the table, a row at a time."""
    with_ray = "--ray" in sys.argv
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    names = names or [path.stem for path in sorted(FOLDER.glob("*.py")) if path.stem not in NO_SCRIPTS]
    theirs = ["Ray, naive", "Ray, recommended"] if with_ray else []
    heads = ["script", *theirs, "naive", "recommended", "ratio", "report"]
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 2) + "---|")
    for name in names:
        found = figures(name)
        row = [f"[{name}]({name}.py)"]
        if with_ray:
            on_ray = figures(name, on_ray=True)
            row += [ms(on_ray, "naive_s"), ms(on_ray, "recommended_s")]
        row += [ms(found, "naive_s"), ms(found, "recommended_s")]
        if found:
            row += [f"{found['naive_s'] / found['recommended_s']:.2f}", ", ".join(found["findings"])]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
