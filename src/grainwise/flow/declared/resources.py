"""Resources: how many CPUs and how much memory a task asks for, and may have at most."""

from __future__ import annotations

import dataclasses
from typing import Any

_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
_DECIMAL = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


@dataclasses.dataclass
class Resources:
    """What a task asks for (`requests`) or may have at most (`limits`).

    In `task(resources=...)` a pair is (request, limit), and a single value is both.

    Attributes:
        cpu: CPUs: `2`, `0.5`, `"500m"`.
        mem: bytes of memory: `1024`, `"256Mi"`, `"1Gi"`, `"1G"`.
        gpu: GPUs: `1`, `"1"`.
        ephemeral_storage: bytes of disk.

    Raises:
        AssertionError: a value is neither number, text nor a pair of them.
        ValueError: a pair does not have two values.
    """

    cpu: str | int | float | list[Any] | tuple[Any, ...] | None = None
    mem: str | int | list[Any] | tuple[Any, ...] | None = None
    gpu: str | int | list[Any] | tuple[Any, ...] | None = None
    ephemeral_storage: str | int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            parts = value if isinstance(value, (list, tuple)) else [value]
            if isinstance(value, (list, tuple)) and len(value) != 2:
                raise ValueError(
                    f"Resources({field.name}={value!r}) expected one value, or two: request and limit"
                )
            for part in parts:
                kinds = (str, int, float) if field.name == "cpu" else (str, int)
                if part is not None and (isinstance(part, bool) or not isinstance(part, kinds)):
                    raise AssertionError(
                        f"Resources({field.name}={value!r}) expected numbers or text, got {part!r:.50}"
                    )

    def has_pairs(self) -> bool:
        """Say whether a value is a pair."""
        return any(isinstance(getattr(self, f.name), (list, tuple)) for f in dataclasses.fields(self))

    def part(self, index: int) -> Resources:
        """Return the requests (0) or limits (1) of what may have pairs."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Resources(
            **{name: v[index] if isinstance(v, (list, tuple)) else v for name, v in values.items()}
        )


@dataclasses.dataclass
class ResourceSpec:
    """Requests and limits."""

    requests: Resources
    limits: Resources


def read_cpus(value: Any) -> float | None:
    """Return CPUs as a number: "125m" is 0.125.

    Raises:
        ValueError: the text is no such number.
    """
    if value is None or value == "":
        return None
    try:
        text, unit = (
            (value[:-1], value[-1]) if isinstance(value, str) and value[-1:].isalpha() else (value, "")
        )
        cpus = float(text) * (0.001 if unit == "m" else _DECIMAL[unit] if unit else 1)
    except (ValueError, KeyError):
        raise ValueError(f'Resources(cpu={value!r}) expected a number such as 2, "0.5" or "500m"') from None
    if not 0 <= cpus < float("inf"):
        raise ValueError(f"Resources(cpu={value!r}) expected at least 0")
    return cpus


def read_bytes(value: Any) -> int | None:
    """Return a size in bytes: "1Ki" is 1024, "1k" is 1000.

    Raises:
        ValueError: the text is no such size.
    """
    if value is None or value == "":
        return None
    text, factor = value, 1.0
    if isinstance(value, str):
        for units in (_BINARY, _DECIMAL, {"m": 0.001}):
            unit = next((unit for unit in units if value.endswith(unit)), None)
            if unit is not None:
                text, factor = value[: -len(unit)], units[unit]
                break
    try:
        size = float(text) * factor
    except ValueError:
        raise ValueError(f'Resources(mem={value!r}) expected a size such as 1024, "256Mi" or "1G"') from None
    if not 0 <= size < float("inf"):
        raise ValueError(f"Resources(mem={value!r}) expected at least 0")
    return int(size)
