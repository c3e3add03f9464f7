"""The process that hosts one system and runs one form at a time when told to.

    parent ── {"do": "run", "form": key, "round": 3} ──► child: time it, check the result
           ◄──────── {"samples": {"time": [0.51]}} ─────

The child idles while the others run. Systems with many background processes (Ray) thus never share a
driver process with another system, and each can be killed with all its descendants, which are found by
the marker in their environment.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.row import Bench, Row, Run
from benchmarks.rows import load_row
from benchmarks.systems import SYSTEMS


class Host:
    """The child's side: one started system and the forms set up so far."""

    def __init__(self, row: Row, host: str, options: dict[str, Any], closing: ExitStack) -> None:
        _, _, start = SYSTEMS[host]
        self._row = row
        self._runs: dict[str, Run] = {}
        self._bench = Bench(
            system=closing.enter_context(start(options["workers"])),
            n_workers=options["workers"],
            is_quick=options["quick"],
            scratch=Path(options["scratch"]),
            closing=closing,
        )

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        form = self._row.find(command["form"])
        if form.key not in self._runs:
            self._runs[form.key] = form.set_up(self._bench)
        if command["do"] == "set_up":
            return {}
        if command["do"] == "run_untimed":
            self._row.check(self._runs[form.key]())
            return {}
        return {"samples": self._row.measure(form, self._runs[form.key], self._row.check, self._bench)}


def serve(options: dict[str, Any], commands: Any, replies: Any) -> None:
    """Start the system, then obey commands until the parent closes its end or says stop."""

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    with ExitStack() as closing:
        try:
            host = Host(load_row(options["row"]), options["host"], options, closing)
        except BaseException:
            reply({"error": traceback.format_exc()})
            raise
        reply({"ready": True})
        for line in commands:
            command = json.loads(line)
            if command["do"] == "stop":
                break
            try:
                reply(host.obey(command))
            except BaseException:
                reply({"error": traceback.format_exc()})


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("prepare"):
        prepare = load_row(options["row"]).prepare
        assert prepare is not None
        prepare(Path(options["scratch"]))
        return
    for descriptor in options["descriptors"]:
        os.set_inheritable(descriptor, False)  # else Ray's daemons would hold the pipes open
    commands, replies = options["descriptors"]
    with os.fdopen(commands) as from_parent, os.fdopen(replies, "w") as to_parent:
        serve(options, from_parent, to_parent)


if __name__ == "__main__":
    main()
