"""Run a row: start a child per system, then let the forms take turns, A B C A B C and so on.

Guarantees: one form runs at a time; a form that fails, hangs or returns a wrong result gets a note instead
of a figure and never stops the others; no process of a child outlives its row.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.figures import Figures
from benchmarks.row import Form, Row
from benchmarks.systems import SYSTEMS, missing_packages

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 120.0
SETTLE_S = 0.1  # lets background processes of the last system finish what they still do after a result


@dataclass(frozen=True)
class Options:
    """What the command line asked for; `peers` are the systems to run beside ours and the limits."""

    n_workers: int
    is_quick: bool
    peers: frozenset[str]


class ChildError(Exception):
    """A child failed to start, to answer in time, or reported an error; the text may be a traceback."""


class Child:
    """The parent's side of one child process (the other side is `benchmarks.child`)."""

    def __init__(self, row: Row, host: str, options: Options, scratch: Path) -> None:
        self._marker = uuid.uuid4().hex
        self._buffer = b""
        commands_read, self._commands = os.pipe()
        self._replies, replies_write = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        settings = {
            "row": row.id,
            "host": host,
            "workers": options.n_workers,
            "quick": options.is_quick,
            "scratch": str(scratch),
            "descriptors": [commands_read, replies_write],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", json.dumps(settings)],
            cwd=ROOT,
            env=child_environment(self._marker, scratch),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(commands_read, replies_write),
        )
        os.close(commands_read)
        os.close(replies_write)
        try:
            self._receive(START_TIMEOUT_S)
        except ChildError:
            self.stop()
            raise

    @property
    def marker(self) -> str:
        return self._marker

    def ask(self, what: str, form: Form, timeout_s: float | None = None) -> dict[str, Any]:
        """Send one command about `form` and wait for the answer."""
        message = json.dumps({"do": what, "form": form.key}) + "\n"
        try:
            os.write(self._commands, message.encode())
        except BrokenPipeError:
            raise ChildError(self._death()) from None
        return self._receive(timeout_s or form.timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            wait_s = max(0.0, min(0.5, deadline - time.monotonic()))
            if select.select([self._replies], [], [], wait_s)[0]:
                chunk = os.read(self._replies, 65536)
                if not chunk:
                    raise ChildError(self._death())
                self._buffer += chunk
            elif self._process.poll() is not None:
                raise ChildError(self._death())
            elif time.monotonic() >= deadline:
                self._kill()
                raise ChildError(f"no result after {timeout_s:.0f} s, stopped")
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildError(reply["error"])
        return reply

    def _death(self) -> str:
        self._process.wait(10)
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        return f"ended with code {self._process.returncode}\n{log}"

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask the child to end, wait, and kill whatever it left behind."""
        try:
            os.write(self._commands, b'{"do": "stop"}\n')
            self._process.wait(15)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        self._kill()
        for descriptor in (self._commands, self._replies):
            os.close(descriptor)
        self._log.close()

    def _kill(self) -> None:
        # Daemons of a system (Ray's) end a moment after their driver: give them that moment.
        for _ in range(20):
            if not memory.marked_pids(self._marker):
                break
            if self._process.poll() is None:
                break
            time.sleep(0.1)
        for pid in memory.marked_pids(self._marker):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.kill()
        self._process.wait()


def child_environment(marker: str, scratch: Path) -> dict[str, str]:
    """This process's environment plus the child's marker, with the repository importable for workers.

    Temporary files of every system go to `scratch`, which is removed after the row.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch), memory.MARKER: marker}


def run_row(row: Row, options: Options) -> Figures:
    """Measure all forms of a row; whatever could not run is in the notes."""
    figures = Figures(row, options.n_workers)
    started = time.monotonic()
    missing = missing_packages(row.requires)
    if missing:
        figures.notes["row"] = f"skipped: not installed: {', '.join(missing)}"
        return figures
    forms = [form for form in row.forms if not _reason_to_skip(row, form, options, figures)]
    # A short name: Ray's socket paths in it must stay under 108 bytes.
    with tempfile.TemporaryDirectory(prefix="gb-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        if row.prepare is not None:
            _say(f"{row.id}: preparing the input")
            settings = json.dumps({"prepare": True, "row": row.id, "scratch": folder})
            environment = child_environment(uuid.uuid4().hex, scratch)
            command = [sys.executable, "-m", "benchmarks.child", settings]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                figures.notes["row"] = f"skipped: the input could not be made: {_last_line(done.stderr)}"
                return figures
        if row.is_fresh_each_round:
            _run_fresh(row, forms, options, scratch, figures)
        else:
            _run_alternating(row, forms, options, scratch, figures)
        if row.measures_memory:
            _measure_memory(row, forms, options, scratch, figures)
    figures.seconds = time.monotonic() - started
    return figures


def _reason_to_skip(row: Row, form: Form, options: Options, figures: Figures) -> str:
    """Why a form does not run ("" if it does); the reason is noted too."""
    missing = missing_packages(SYSTEMS[form.system][1])
    if form.system not in options.peers:
        reason = "left out by --peers"
    elif missing:
        reason = f"skipped: not installed: {', '.join(missing)}"
    elif row.n_rounds(form, options.is_quick) == 0:
        reason = "left out by --quick"
    else:
        return ""
    figures.notes[form.key] = reason
    return reason


def _run_alternating(row: Row, forms: list[Form], options: Options, scratch: Path, figures: Figures) -> None:
    """All children live for the whole row and idle while it is not their turn."""
    children: dict[str, Child] = {}

    def child_of(form: Form) -> Child | None:
        name = form.key if row.has_own_children else form.host
        if name in children and children[name].has_ended():
            children.pop(name).stop()  # a form of the same system has brought it down
        if name not in children:
            _say(f"{row.id}: starting {name}")
            with _noting(figures, form.key):
                children[name] = Child(row, form.host, options, scratch)
        return children.get(name)

    try:
        for form in forms:
            child_of(form)  # before the first round, so that no start disturbs a run
        for round_index in range(0 if options.is_quick else -row.warm_ups, max(row.rounds, row.quick_rounds)):
            for form in forms:
                if form.key in figures.notes or round_index >= row.n_rounds(form, options.is_quick):
                    continue
                child = child_of(form)
                if child is not None:
                    _take_turn(row, form, child, round_index, figures)
    finally:
        for child in children.values():
            child.stop()


def _run_fresh(row: Row, forms: list[Form], options: Options, scratch: Path, figures: Figures) -> None:
    """Every turn has a child of its own, which ends with it."""
    for round_index in range(max(row.rounds, row.quick_rounds)):
        for form in forms:
            if round_index < row.n_rounds(form, options.is_quick) and form.key not in figures.notes:
                with _noting(figures, form.key):
                    child = Child(row, form.host, options, scratch)
                    try:
                        _take_turn(row, form, child, round_index, figures)
                    finally:
                        child.stop()


def _take_turn(row: Row, form: Form, child: Child, round_index: int, figures: Figures) -> None:
    with _noting(figures, form.key):
        child.ask("set_up", form)
        time.sleep(SETTLE_S)
        samples = child.ask("run", form)["samples"]
        if round_index >= 0:
            figures.add(form.key, round_index, samples)
        shown = ", ".join(f"{name} {values[0]:.6g}" for name, values in samples.items() if values)
        _say(f"{row.id} round {round_index + 1}: {form.key}: {shown}")


def _measure_memory(row: Row, forms: list[Form], options: Options, scratch: Path, figures: Figures) -> None:
    """Sample the footprint of one run of each form, in a fresh child; sampling would spoil its time."""
    if not memory.can_measure():
        return
    for form in forms:
        if form.key in figures.notes or (options.is_quick and not form.kind.startswith("ours")):
            continue
        with _noting(figures, form.key):
            child = Child(row, form.host, options, scratch)
            try:
                child.ask("set_up", form)
                with memory.Sampler(child.marker) as sampler:
                    child.ask("run_untimed", form)
                extra_bytes = float(sampler.peak_bytes - sampler.before_bytes)
                figures.add(form.key, 0, {"peak memory": [extra_bytes]})
                _say(f"{row.id} memory: {form.key}: {extra_bytes / 1e6:.0f} MB")
            finally:
                child.stop()


@contextmanager
def _noting(figures: Figures, key: str) -> Iterator[None]:
    try:
        yield
    except ChildError as error:
        figures.drop(key, f"failed: {_last_line(str(error))}")
        _say(f"{key} failed: {error}")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no message"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
