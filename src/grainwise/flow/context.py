"""What a task can ask about where it runs: `current_context()`."""

from __future__ import annotations

import datetime
import logging
import os
import tempfile
from typing import Any


class ExecutionId:
    """Names a run: project, domain and name."""

    def __init__(self, project: str = "local", domain: str = "local", name: str = "local") -> None:
        self.project = project
        self.domain = domain
        self.name = name

    def __str__(self) -> str:
        return f"ex:{self.project}:{self.domain}:{self.name}"


class Secrets:
    """Secrets, from variables `_FSEC_<GROUP>_<KEY>` or files in `/etc/secrets/<group>/<key>`."""

    def get(self, group: str | None = None, key: str | None = None, **_: Any) -> str:
        """Return a secret.

        Raises:
            ValueError: it is nowhere.
        """
        names = [part for part in (group, key) if part]
        variable = "_FSEC_" + "_".join(names).upper()
        if variable in os.environ:
            return os.environ[variable]
        path = os.path.join(os.sep, "etc", "secrets", *(name.lower() for name in names))
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        raise ValueError(
            f"secret {'/'.join(names)!r} was not found - expected the variable {variable} or {path}"
        )


class ExecutionParameters:
    """What a task can ask about where it runs.

    Attributes:
        execution_id: of the run.
        execution_date: when this process first asked, in UTC.
        logging: a logger.
        secrets: see `Secrets`.
    """

    def __init__(self) -> None:
        self.execution_id = ExecutionId()
        self.task_id: Any = None
        self.execution_date = datetime.datetime.now(datetime.timezone.utc)
        self.logging = logging.getLogger("grainwise.flow")
        self.secrets = Secrets()
        self.checkpoint: Any = None
        self._folder: Any = None

    @property
    def working_directory(self) -> str:
        """A folder of this process; it is removed at its end."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="grainwise-flow-")
        return str(self._folder.name)


_current: ExecutionParameters | None = None


def current_context() -> ExecutionParameters:
    """Return what a task can ask about where it runs."""
    global _current
    if _current is None:
        _current = ExecutionParameters()
    return _current
