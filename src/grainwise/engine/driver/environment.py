"""One environment as the driver sees it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...errors import GrainwiseError
    from ..environments.prepared import Prepared
    from ..processes.template_handle import TemplateHandle

NEW = 0
MAKING = 1  # a thread makes it, or finds it in the cache
THERE = 2
FAILED = 3


class Environment:
    """A runtime environment of a session. Changes under the engine's turn.

    Attributes:
        text: what it says, and `inherited` by what its tasks submit; see `environments.spec`.
        state: NEW, MAKING, THERE or FAILED; error: why, and since when, in monotonic seconds.
        prepared: what its template is started with.
        template: the process, where there is one.
        used_at: when a worker of it was busy last, in monotonic seconds.
        num_start_failures: of its processes, in a row.
    """

    __slots__ = (
        "__weakref__", "error", "failed_at", "num_start_failures", "prepared", "state", "template", "text",
        "used_at",
    )  # fmt: skip

    def __init__(self, text: str, prepared: Prepared) -> None:
        self.text = text
        self.state = NEW
        self.error: GrainwiseError | None = None
        self.failed_at = 0.0
        self.prepared = prepared
        self.template: TemplateHandle | None = None
        self.used_at = 0.0
        self.num_start_failures = 0

    def fields(self) -> dict[str, Any]:
        """Return what it says."""
        from ..environments.spec import fields

        return fields(self.text)

    def is_made(self) -> bool | None:
        """Say whether it could be made; None while that is not known."""
        return {THERE: True, FAILED: False}.get(self.state)

    def settings(self, own: dict[str, Any], modules: list[str]) -> dict[str, Any]:
        """Return what its template is told, given what that of the program's own environment is told."""
        from ..environments.spec import HOOK
        from ..environments.virtual import OWN_PTH

        made = self.prepared
        told = dict(own)
        told.update(
            runtime_env=self.text,
            has_hook=HOOK in self.fields(),
            modules=modules,
            path=made.path_over(own["path"]),
            first_path=made.first_path(),
            folder=made.folder,
            python_path=made.python_path(os.environ.get("PYTHONPATH", "")),
            site_folders=made.site_folders,
            own_pth=OWN_PTH,
        )
        if made.prefix:
            told["prefix"] = (made.prefix, made.prefix)
        return told
