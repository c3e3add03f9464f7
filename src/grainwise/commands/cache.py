"""`grainwise cache ls|show|clear`: results of tasks that are kept."""

from __future__ import annotations

import time

import click


@click.group()
def cache() -> None:
    """See and forget results of tasks that are kept."""


@cache.command("ls")
def list_tasks() -> None:
    """List the tasks whose results are kept."""
    from grainwise.flow import cache_store

    store = cache_store()
    rows = store.summary()
    if not rows:
        click.echo(f"No results are kept in {store.folder}.")
        return
    width = max(len(task) for task, *_ in rows)
    click.echo(f"{'TASK':{width}}  {'RESULTS':>9}  {'BYTES':>13}  LATEST")
    for task, n_results, n_bytes, _, latest_s in rows:
        click.echo(f"{task:{width}}  {n_results:>9,}  {n_bytes:>13,}  {_when(latest_s)}")


@cache.command("show")
@click.argument("task")
@click.option("--limit", type=click.IntRange(1), default=20, help="So many results at most; 20 by default.")
def show(task: str, limit: int) -> None:
    """List the results of TASK that are kept, the latest first."""
    from grainwise.flow import cache_store

    rows = cache_store().entries(task, limit)
    if not rows:
        raise click.ClickException(f"no results of {task!r} are kept - see `grainwise cache ls`")
    for key, n_bytes, made_s in rows:
        click.echo(f"{key.hex()}  {n_bytes:>13,} bytes  {_when(made_s)}")


@cache.command("clear")
@click.argument("task", required=False)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
def clear(task: str | None, is_sure: bool) -> None:
    """Forget the results of TASK, or all."""
    from grainwise.flow import cache_store

    store = cache_store()
    if not is_sure:
        click.confirm(
            f"Forget {'all results' if task is None else f'the results of {task}'} in {store.folder}?",
            abort=True,
        )
    n_cleared = store.clear(task)
    click.echo(f"forgot {n_cleared:,} results")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
