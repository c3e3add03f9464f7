"""What a function takes, so that a call with other arguments fails where it is made.

A signature travels with handles of actors, so it is a short text, such as `"a,b=,*,c"`: names in the notation
of Python, `=` for a default. Only the shape of a call matters: how many arguments, and which names. A shape
that has passed once is known, so checking costs one lookup.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Parameter
    from inspect import Signature as Bindable
    from typing import Any

MAX_SHAPES = 256
"""Shapes that are remembered: calls with `**kwargs` of ever new names must not fill the memory."""
_POSITIONAL, _VARIADIC = 0x04, 0x08  # inspect.CO_VARARGS, CO_VARKEYWORDS


def describe(function: Any, *, skips_first: bool) -> str | None:
    """Return the signature of a function as text; None where Python does not know it.

    Args:
        function: the function itself: what a decorator has wrapped may take other arguments.
        skips_first: it is a method, whose first argument is not the caller's.
    """
    bound = getattr(function, "__func__", None)
    if bound is not None and not skips_first:
        return describe(bound, skips_first=True)
    code = getattr(function, "__code__", None)
    if code is None or not hasattr(function, "__defaults__") or hasattr(function, "__signature__"):
        return _describe_any(function, skips_first=skips_first)
    count = code.co_argcount
    names = code.co_varnames
    required = count - len(function.__defaults__ or ())
    words = [name if at < required else f"{name}=" for at, name in enumerate(names[:count])]
    if code.co_posonlyargcount:
        words.insert(code.co_posonlyargcount, "/")
    if skips_first:
        if count:
            del words[0]
            if words[:1] == ["/"]:
                del words[0]
        elif not code.co_flags & _POSITIONAL:
            return None  # it can't be called at all: it says so itself
    at = count + code.co_kwonlyargcount
    if code.co_flags & _POSITIONAL:
        words.append(f"*{names[at]}")
        at += 1
    elif code.co_kwonlyargcount:
        words.append("*")
    defaults = function.__kwdefaults__ or {}
    words += [
        f"{name}=" if name in defaults else name for name in names[count : count + code.co_kwonlyargcount]
    ]
    if code.co_flags & _VARIADIC:
        words.append(f"**{names[at]}")
    return ",".join(words)


def _describe_any(function: Any, *, skips_first: bool) -> str | None:
    import inspect

    try:
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (ValueError, TypeError):
        return None
    if skips_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        del parameters[0]
    words: list[str] = []
    is_open = False  # positional-only parameters came last
    is_named = False  # only names come from here on
    for parameter in parameters:
        kind = parameter.kind
        if is_open and kind is not parameter.POSITIONAL_ONLY:
            words.append("/")
        is_open = kind is parameter.POSITIONAL_ONLY
        if kind is parameter.KEYWORD_ONLY and not is_named:
            words.append("*")
        is_named = is_named or kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
        words.append(f"{stars}{parameter.name}{'' if parameter.default is parameter.empty else '='}")
    return ",".join([*words, "/"] if is_open else words)


class Signature:
    """Checks calls against a signature; safe in any thread.

    Args:
        text: as `describe` gives it; None accepts every call.
        name: of the function, for messages.
    """

    __slots__ = ("_made", "_name", "_shapes", "_text", "least", "most")

    def __init__(self, text: str | None, name: str) -> None:
        self._text = text
        self._name = name
        self._made: Any = None
        self._shapes: set[tuple[Any, ...]] = set()
        self.least, self.most = _limits(text)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call that the function can't take.

        Raises:
            TypeError: an argument is missing, or there is one too many, as Python says it.
        """
        count = len(args)
        if not kwargs and self.least <= count <= self.most:
            return
        shape = (count, *kwargs)
        if shape in self._shapes or self._text is None:
            return
        if self._made is None:
            self._made = _bindable(self._text)
        try:
            self._made.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() can't be called like that - {error}") from None
        if len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)


def _limits(text: str | None) -> tuple[int, int]:
    """Return how many arguments without names will do: at least and at most; (1, 0) if no number will."""
    if text is None:
        return 0, 1 << 62
    least = most = 0
    is_named = False
    for word in text.split(",") if text else ():
        if word == "/" or word.startswith("**"):
            continue
        if word.startswith("*"):
            is_named = True
            most = most if word == "*" else 1 << 62
        elif is_named:
            if not word.endswith("="):
                return 1, 0
        else:
            most += 1
            least += not word.endswith("=")
    return least, most


def _bindable(text: str) -> Bindable:
    import inspect

    kind: Any = inspect.Parameter
    words = text.split(",") if text else []
    current = kind.POSITIONAL_ONLY if "/" in words else kind.POSITIONAL_OR_KEYWORD
    made: list[Parameter] = []
    for word in words:
        name = word.lstrip("*").rstrip("=")
        if word == "/":
            current = kind.POSITIONAL_OR_KEYWORD
        elif word == "*":
            current = kind.KEYWORD_ONLY
        elif word.startswith("**"):
            made.append(kind(name, kind.VAR_KEYWORD))
        elif word.startswith("*"):
            made.append(kind(name, kind.VAR_POSITIONAL))
            current = kind.KEYWORD_ONLY
        else:
            made.append(kind(name, current, default=None if word.endswith("=") else kind.empty))
    return inspect.Signature(made)


def signature_of(function: Callable[..., Any], name: str) -> Signature:
    """Return what checks the calls of a plain function."""
    return Signature(describe(function, skips_first=False), name)
