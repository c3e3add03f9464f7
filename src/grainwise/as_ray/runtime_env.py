"""`ray.runtime_env`: the dictionary that `runtime_env=` takes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RuntimeEnv(dict[str, "Any"]):
    """A runtime environment as a dictionary; None and `_validate` are left out."""

    def __init__(self, **fields: Any) -> None:
        fields.pop("_validate", None)
        super().__init__({name: value for name, value in fields.items() if value is not None})


class RuntimeEnvConfig(dict[str, "Any"]):
    """Settings of how an environment is made."""


__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
