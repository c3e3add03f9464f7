"""`grainwise run FILE ENTITY --input value`: run a workflow, task or map of a file."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Any

import click

from .inputs import options_of, read_file, summary_of, values_in
from .loading import entities_of, find_entity, load_module
from .outputs import show_outputs

INTERRUPTED = 130


@click.command(
    "run",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--resume", metavar="RUN", help="Go on with a run that failed or was interrupted: its id, or last."
)
@click.option("--inputs-file", metavar="PATH", help="Take inputs from a file of JSON or YAML.")
@click.option("--inline", "is_inline", is_flag=True, help="Run in this process: for a debugger.")
@click.option("--no-record", "is_unrecorded", is_flag=True, help="Keep no record of the run.")
@click.option("--json", "is_json", is_flag=True, help="Print the outputs as JSON.")
@click.option(
    "--env", "variables", metavar="NAME=VALUE", multiple=True, help="Set a variable, here and in workers."
)
@click.option("--help", "is_help", is_flag=True, help="Show this message and exit.")
@click.argument("file", required=False)
@click.argument("entity", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(file: str | None, entity: str | None, arguments: tuple[str, ...], **own: Any) -> None:
    """Run ENTITY, a workflow, task, map or launch plan of FILE, and print its outputs.

    Inputs are options: `grainwise run flow.py train --epochs 3 --rates '[0.1, 0.2]'`. Lists, dictionaries and
    dataclasses are JSON, or @PATH for a file of it; `@PATH` alone, in the place of an option, is a file of
    inputs. `grainwise run FILE --help` lists what can be run, `grainwise run FILE ENTITY --help` its inputs.
    The options below may also stand behind ENTITY.

    Exits with 0 if all went well, 1 if the run failed, 2 if the command is wrong, 130 if it was interrupted.
    """
    ctx = click.get_current_context()
    if own["is_help"] or (file is None and own["resume"] is None):
        click.echo(ctx.get_help())
        ctx.exit(0 if own["is_help"] else 2)
    for each in own["variables"]:
        _set_variable(each)
    if file is None:
        file, entity = _origin_of(own["resume"])
    module = load_module(file)
    if entity is None or entity.startswith("-"):
        _list_entities(ctx, file, module, is_asked=entity == "--help")
        return
    found = find_entity(module, entity)
    made = _command_of(found, entity, own)
    values, chosen = _parse(made, ctx, found, arguments, own)
    for each in chosen["variables"]:
        _set_variable(each)
    ctx.exit(_run(found, values, chosen, os.path.abspath(file) if os.path.exists(file) else file, entity))


def _set_variable(text: str) -> None:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"--env expected NAME=VALUE, got {text!r}")
    os.environ[name] = value


def _origin_of(run: str) -> tuple[str, str]:
    """Return the file and entity of a run that is to be resumed."""
    from grainwise.flow.record.reading import RecordError, find_run, reading

    try:
        with reading() as connection:
            info = find_run(connection, run)
    except RecordError as error:
        raise click.UsageError(str(error)) from None
    if info.file is None or info.entity is None:
        raise click.UsageError(
            f"run {info.run_id} was not started by `grainwise run` - resume it in its program, with "
            f"flow.resume({info.run_id!r})"
        )
    return info.file, info.entity


def _list_entities(ctx: click.Context, file: str, module: Any, *, is_asked: bool) -> None:
    found = entities_of(module)
    click.echo(f"What `grainwise run {file}` can run:\n" if found else f"There is nothing to run in {file}.")
    width = max(map(len, found), default=0)
    for name, value in found.items():
        summary = summary_of(value.interface.docs).partition("\n")[0]
        click.echo(f"  {name:{width}}  {value.kind:8}  {summary}".rstrip())
    ctx.exit(0 if is_asked else 2)


# -- options of the entity -------------------------------------------------------------------------------


def _command_of(entity: Any, name: str, own: dict[str, Any]) -> click.Command:
    """Return a command with an option for each input, and those of `run` whose names no input has."""
    options = options_of(entity.interface)
    taken = {spelling for option in options for spelling in (*option.opts, *option.secondary_opts)}
    shared = [
        option for option in run.params
        if isinstance(option, click.Option) and option.name != "is_help" and not taken & set(option.opts)
    ]  # fmt: skip
    help_text = summary_of(entity.interface.docs) or f"Run the {entity.kind} {entity.name}."
    return click.Command(
        name, params=[*options, *shared, click.Argument(["files"], nargs=-1, metavar="[@FILE]...")],
        help=help_text,
    )  # fmt: skip


def _parse(
    made: click.Command, ctx: click.Context, entity: Any, arguments: tuple[str, ...], own: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and the options of `run`, of those before and behind the entity."""
    with made.make_context(f"run FILE {made.name}", list(arguments), parent=ctx.parent) as inner:
        parsed = inner.params
        chosen = {name: parsed.get(name) or value for name, value in own.items()}
        values: dict[str, Any] = {}
        files = [chosen["inputs_file"]] if chosen["inputs_file"] else []
        for each in parsed["files"]:
            if not each.startswith("@"):
                raise click.UsageError(
                    f"got {each!r} - expected options, or @FILE for a file of inputs", inner
                )
            files.append(each[1:])
        for path in files:
            values.update(_inputs_in(path, entity, inner))
        values.update(values_in(parsed, entity.interface))
        if chosen["resume"] is None:
            values = _checked(entity, values, inner)
        return values, chosen


def _inputs_in(path: str, entity: Any, ctx: click.Context) -> dict[str, Any]:
    from .inputs import from_json

    try:
        read = read_file(path)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"the inputs can't be read: {error}", ctx) from None
    if not isinstance(read, dict):
        raise click.UsageError(
            f"{path} expected an object with inputs by name, got {type(read).__name__}", ctx
        )
    known = entity.interface.inputs
    try:
        return {
            name: from_json(known[name].annotation, value) if name in known else value
            for name, value in read.items()
        }
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}", ctx) from None


def _checked(entity: Any, values: dict[str, Any], ctx: click.Context) -> dict[str, Any]:
    from grainwise.flow.errors import CallError, TypeMismatchError

    try:
        checked: dict[str, Any] = entity.interface.check_call((), values)
    except (CallError, TypeMismatchError) as error:
        raise click.UsageError(str(error), ctx) from None
    return checked


# -- the run ---------------------------------------------------------------------------------------------


class _Watch:
    """Hears which run it is."""

    run_id = ""

    def run_started(self, run_id: str, *_: Any) -> None:
        """Note the first: others are within it."""
        self.run_id = self.run_id or run_id


def _run(entity: Any, values: dict[str, Any], chosen: dict[str, Any], file: str, name: str) -> int:
    """Run it, print what it gives, and return the exit code."""
    from grainwise import flow
    from grainwise.flow.record import attached, places

    if chosen["is_unrecorded"]:
        if chosen["resume"]:
            raise click.UsageError("--resume and --no-record exclude each other")
        os.environ[places.VARIABLE] = places.OFF
    attached.set_origin(file, name)
    watch = _Watch()
    flow.add_recorder(watch)
    resumption: Any = None
    try:
        with ExitStack() as stack:
            if chosen["is_inline"]:
                stack.enter_context(flow.inline())
            if chosen["resume"]:
                resumption = _claim(chosen["resume"], entity, stack)
                values = _checked(
                    entity, {**(resumption.inputs or {}), **values}, click.get_current_context()
                )
            result = _call(entity, values)
    except KeyboardInterrupt:
        _tell_end(watch.run_id, "interrupted")
        return INTERRUPTED
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        _tell_failure(error, watch.run_id)
        return 1
    finally:
        flow.remove_recorder(watch)
    if resumption is not None:
        click.echo(
            f"run {watch.run_id}: {resumption.n_nodes} nodes and {resumption.n_elements} elements of maps "
            f"were done already",
            err=True,
        )
    text = show_outputs(entity, result, is_json=chosen["is_json"])
    if text is not None:
        click.echo(text)
    return 0


def _claim(run_id: str, entity: Any, stack: ExitStack) -> Any:
    from grainwise import flow
    from grainwise.flow.record.reading import find_run, reading

    try:
        with reading() as connection:
            info = find_run(connection, run_id)
        if info.name != entity.name:
            raise click.UsageError(f"run {info.run_id} is one of {info.name!r}, not of {entity.name!r}")
        return stack.enter_context(flow.resume(info.run_id))
    except flow.RecordError as error:
        raise click.UsageError(str(error)) from None


def _call(entity: Any, values: dict[str, Any]) -> Any:
    if entity.kind != "task":
        return entity(**values)
    from grainwise.flow.running.alone import TaskAlone
    from grainwise.flow.running.start import run_entity

    return run_entity(TaskAlone(entity), values)


def _tell_failure(error: Exception, run_id: str) -> None:
    import traceback

    text = str(getattr(error, "traceback_text", "")) or "".join(traceback.format_exception(error))
    click.echo(text.rstrip(), err=True)
    cause = getattr(error, "cause", None) or error
    _tell_end(run_id, f"failed: {type(cause).__name__}: {cause}")


def _tell_end(run_id: str, what: str) -> None:
    from grainwise.flow.record.places import record_folder

    sys.stdout.flush()
    click.echo(f"run {run_id} {what}".replace("run  ", "the run "), err=True)
    if run_id and record_folder() is not None:
        click.echo(f"see it: grainwise runs show {run_id[:8]}", err=True)
        click.echo(f"go on: grainwise run --resume {run_id[:8]}", err=True)
