"""Errors of a `map` that name their item: by its number, and as it looks."""

from __future__ import annotations

from ..objects.codec import Packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..engine.driver.runs import Failed

_REPR_LIMIT = 200


def show_item(failed: Failed) -> str:
    """Return a failed item as messages show it."""
    from ..engine.wire.slices import Slice, items_of
    from ..engine.wire.tasks import Call
    from ..objects.codec import unpack
    from ..objects.ref import ObjectRef

    item = failed.item
    try:
        if isinstance(item, Slice):
            (item,) = items_of(unpack(item.packed), item.form, item.start, item.stop)
        elif item.__class__ is Call:
            args = [unpack(arg) if arg.__class__ is Packed else arg for arg in item.args]
            args = ["a ref" if isinstance(arg, ObjectRef) else arg for arg in args]
            item = args[0] if len(args) == 1 else tuple(args)
    except Exception:
        return "that can't be shown"
    return shorten(item)


def shorten(item: Any) -> str:
    """Return a value as messages show it, cut at 200 characters."""
    import reprlib

    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = cut.maxlong = _REPR_LIMIT
    try:
        return cut.repr(item)[:_REPR_LIMIT]
    except Exception:
        return f"a {type(item).__name__} that can't be shown"


def name_item(error: BaseException, index: int, shown: str) -> BaseException:
    """Enter index and item in an error: as attributes, and as a note that its traceback shows."""
    note = f"in item {index} of the map: {shown}"
    state = vars(error)
    state.setdefault("index", index)
    state.setdefault("item", shown)
    add_note = getattr(error, "add_note", None)  # Python 3.11
    if add_note is not None:
        add_note(note)
    else:
        from ..errors import RemoteTraceback

        before = "" if error.__cause__ is None else str(error.__cause__).rstrip()
        error.__cause__ = RemoteTraceback(f"{before}\n{note}" if before else note)
    return error
