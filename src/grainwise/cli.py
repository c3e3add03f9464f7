"""The `grainwise` command.

With `commands`, the only module that imports click: `import grainwise` never does. Each command imports its
own work when it runs.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from grainwise.demo.show import STORIES


class Commands(click.Group):
    """Commands of which some are modules of their own, imported when they are called."""

    ELSEWHERE = {
        "cache": "See and forget results of tasks that are kept.",
        "map": "Map a Python function over the lines or rows of a file.",
        "run": "Run a workflow, task or map of a file.",
        "runs": "See and forget what runs did.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return sorted([*super().list_commands(ctx), *self.ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None if there is none of this name."""
        if cmd_name not in self.ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(f"grainwise.commands.{cmd_name}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, self.ELSEWHERE[name] if own is None else own.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands)
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


@main.command()
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, help="Measure so often; 5 by default.")
def doctor(rounds: int) -> None:
    """Say what this machine offers, and what messages cost on it.

    Measures the costs that the sizes of batches rest on, beside those that are assumed, in a few seconds.
    """
    from grainwise.config import available_cpus
    from grainwise.doctor.facts import find_facts, is_busy
    from grainwise.doctor.measure import measure
    from grainwise.doctor.show import show_advice, show_costs, show_facts, show_policy
    from grainwise.grain.costs import Costs

    was_busy, assumed = is_busy(), Costs()
    click.echo("This machine\n")
    click.echo("\n".join(show_facts(find_facts())))
    click.echo(f"\nWhat messages cost ({rounds} rounds)\n")
    measured = measure(rounds)
    click.echo("\n".join(show_costs(measured, assumed)))
    num_cpus = available_cpus()
    click.echo(f"\nWhat that makes of batches, with {num_cpus} CPUs\n")
    click.echo("\n".join(show_policy(num_cpus, measured, assumed)))
    if advice := show_advice(measured, assumed, is_busy=was_busy):
        click.echo("\n" + "\n".join(advice))


@main.group()
def env() -> None:
    """See and end the background hosts of reusable environments."""


@env.command("ls")
def list_environments() -> None:
    """List the environments that are warm."""
    from grainwise.flow.hosts.listing import list_hosts, show_hosts

    click.echo("\n".join(show_hosts(list_hosts())))


@env.command("stop")
@click.argument("name")
def stop_environment(name: str) -> None:
    """End the hosts of an environment, by its NAME or a fingerprint; what runs there fails."""
    from grainwise.flow.hosts import HostError, stop

    try:
        stopped = stop(name)
    except HostError as error:
        raise click.ClickException(str(error)) from None
    if not stopped:
        raise click.ClickException(f"no environment {name!r} is warm - see `grainwise env ls`")
    for status in stopped:
        click.echo(f"stopped {status.name} {status.fingerprint}, process {status.pid}")
