"""The progress of a `map`: a bar where somebody can see it, or calls of the user's function.

In terminals and notebooks by tqdm, once it has taken longer than a second; never in logs, pipes and files.
"""

from __future__ import annotations

import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DELAY_S = 1.0
"""A shorter map shows nothing."""
INTERVAL_S = 0.1
"""A function of the user's is called so often at most."""


class Progress:
    """Shows how many items are done.

    Args:
        wish: None shows a bar after a second, True at once, False never; a function is called with
            (done, total) instead, total being None where it is not known.
        total: how many items there are, None if unknown.
        name: what is mapped.
    """

    def __init__(self, wish: Callable[[int, int | None], object] | bool | None, total: int | None, name: str):
        self._total = total
        self._name = name
        self._call = wish if callable(wish) else None
        self._is_on = wish is not False and (self._call is not None or can_be_seen())
        self._bar: Any = None
        self._done = self._shown = 0
        self._begin = monotonic()
        self._next = self._begin + (DELAY_S if wish is None else 0.0)

    def update(self, done: int) -> None:
        """Note how many items are done."""
        self._done = done
        if self._is_on and monotonic() >= self._next:
            self._show()

    def close(self, *, is_complete: bool) -> None:
        """Show the end, if anything was shown before or a function is to be called."""
        if not self._is_on:
            return
        if self._bar is not None or (self._call is not None and (self._done != self._shown or is_complete)):
            self._show()
        self._is_on = False
        if self._bar is not None:
            with self._bar.get_lock():
                self._bar.close()

    def _show(self) -> None:
        done = self._done
        self._next = monotonic() + INTERVAL_S
        if self._call is not None:
            self._call(done, self._total)
        else:
            if self._bar is None:
                self._bar = _open_bar(self._total, self._name)
                self._bar.start_t -= monotonic() - self._begin  # it began before it was seen
            self._bar.update(done - self._shown)
        self._shown = done


def can_be_seen() -> bool:
    """Say whether this is a terminal or a notebook."""
    if is_notebook():
        return True
    try:
        return bool(sys.stderr.isatty())
    except Exception:
        return False


def is_notebook() -> bool:
    """Say whether a notebook shows what this process displays."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def write_beside_bars(stream: Any, text: str) -> None:
    """Write whole lines to a stream, above the bars that are open in a terminal: ours, or the user's tqdm.

    Also when none is open: tqdm does not count a bar that is about to be opened or closed. Those of ours are
    opened and closed under the lock that is taken here.
    """
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None:
        stream.write(text)
    else:
        with tqdm.external_write_mode(file=stream):
            stream.write(text)


def _open_bar(total: int | None, name: str) -> Any:
    bar = _bar_class()
    with bar.get_lock():
        return bar(total=total, desc=name, unit=" items", unit_scale=total is not None and total > 100_000)


def _bar_class() -> Any:
    if is_notebook():
        try:
            from tqdm import notebook

            # Without ipywidgets it imports all the same, and its bars fail half made.
            if getattr(notebook, "IProgress", None) is not None:
                return notebook.tqdm
        except ImportError:
            pass
    from tqdm import tqdm

    return tqdm
