"""The `grainwise` command.

The only module that imports click: `import grainwise` never does. Each command imports its own work when it
runs.
"""

from __future__ import annotations

import sys

import click

from grainwise.demo.show import STORIES


@click.group()
@click.version_option(package_name="grainwise", prog_name="grainwise", message="%(prog)s %(version)s")
def main() -> None:
    """Run naive parallel Python as if an expert had tuned it."""


@main.command()
@click.option(
    "--story",
    "names",
    type=click.Choice(list(STORIES)),
    multiple=True,
    help="Tell only this story; may be given several times. Without it: all of them.",
)
@click.option("--quick", "is_quick", is_flag=True, help="Take small inputs: quicker, and less telling.")
def demo(names: tuple[str, ...], is_quick: bool) -> None:
    """Time naive code on real input: plain Python, multiprocessing.Pool, grainwise.

    Takes less than two minutes on 2 CPUs. Ends with an error when results differ.
    """
    from grainwise.demo import show

    chosen = list(dict.fromkeys(names)) or list(STORIES)
    if lacking := show.missing(chosen):
        raise click.ClickException(lacking)
    if not show.show(chosen, is_quick):
        sys.exit(1)
