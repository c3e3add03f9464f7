"""Patterns of what a copy of a folder leaves out, as a .gitignore has them."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = (".git", ".venv", "venv", "__pycache__")
"""Left out of every copy unless a later pattern says otherwise (`!venv`)."""


class Patterns:
    """Some lines of patterns: of all that match a path, the last one decides.

    Args:
        lines: with `*`, `?`, `[...]`, `**`, a leading `!`, `/` in front or in the middle for paths from the
            folder on, and `/` at the end for folders only.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for rule in map(_rule, lines) if rule is not None]

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Say whether a path, relative and with `/`, is left out."""
        for is_out, is_for_folders, expression in reversed(self._rules):
            if (is_folder or not is_for_folders) and expression.match(path):
                return is_out
        return False


def _rule(line: str) -> tuple[bool, bool, re.Pattern[str]] | None:
    line = line.rstrip("\r\n")
    if not line.endswith("\\ "):
        line = line.rstrip(" ")
    if not line or line.startswith("#"):
        return None
    is_out = not line.startswith("!")
    line = line[0 if is_out else 1 :]
    is_for_folders = line.endswith("/")
    line = line.rstrip("/")
    if line.startswith("./"):
        line = line[1:]
    if not line:
        return None
    anywhere = "" if "/" in line else "(?:.*/)?"
    return is_out, is_for_folders, re.compile(anywhere + _expression(line.removeprefix("/")) + r"\Z", re.S)


def _expression(pattern: str) -> str:
    """Return a regular expression for a pattern."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
            continue
        if pattern[at:] == "**" and (at == 0 or pattern[at - 1] == "/"):
            parts.append(".+")
            break
        letter = pattern[at]
        at += 1
        if letter == "*":
            parts.append("[^/]*")
        elif letter == "?":
            parts.append("[^/]")
        elif letter == "[" and "]" in pattern[at + 1 :]:
            end = pattern.index("]", at + 1)
            inside = pattern[at:end].replace("\\", "\\\\")
            parts.append(f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]")
            at = end + 1
        elif letter == "\\" and at < len(pattern):
            parts.append(re.escape(pattern[at]))
            at += 1
        else:
            parts.append(re.escape(letter))
    return "".join(parts)
