"""What a submission is made of: functions, specs, calls, and their wire forms.

Function   the pickled function, identified by its content: shipped to a worker once
TaskSpec   a function with its options: the *key* of the policy, and the queue of its unsent refs
ObjectRef  one call: carries the bare argument until it is sent (`objects.ref`)
Call       what does not fit into a bare argument: several arguments, packed ones, refs, several results
"""

from __future__ import annotations

import itertools
from collections import deque

from ...objects.codec import CALL_WIRE, PACKED_WIRE, Packed
from ...objects.ref import PACKED, READY, ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..driver.actor import Actor
    from ..driver.environment import Environment
    from ..driver.runs import Run
    from ..driver.streams import Stream
    from ..needs import Needs

# Messages to a worker: a tuple that begins with one of these.
RUN = 0  # seq, flags, values, parts: (end, function id, sub-block hint, num_returns, task name), first index
FUNCTION = 1  # function id, packed wire, the batch that it is sent for, its first item there
VALUES = 2  # token, what the worker asked for
FREE = 3  # ranges of its arenas, and how often each had come
EXIT = 5
FORGET = 6  # function id
ACT = 7  # class name, facts of the actor, None or for calls that run at once: async?, how many, groups
CANCEL_CALL = 8  # seq, index: a call of such an actor
EQUIP = 12  # resources, GPUs, placement group: what the calls that follow have

# Messages from a worker.
RESULTS = 16  # seq, start, values, all plain?, times: (part, run count, total s, worst s), stopped at, usage
READY_TO_RUN = 17  # the first message
SUBMIT = 18  # children
WANT = 19  # token, identities, how many, (seq, index) or None, main thread?, can it not go on without?
UNWANT = 20  # token
RETURNED = 21  # borrowed blobs, dropped refs
PUT = 22  # identity, wire
CANCEL_REF = 23  # identity, force, recursive
DONE = 28  # (seq, index, part, value, seconds) of each of some calls of an actor, in any order
FIND_ACTOR = 25  # identity for the answer, name (or the actor's identity; None: list all), namespace
KILL_ACTOR = 26  # identity, whether it may restart
LEAVING = 27  # the actor ends itself: why
ASK = 32  # identity for the answer, what, arguments: see `driver.questions`
YIELDED = 40  # seq, index, number of the first, values that a generator has yielded
PAUSED = 41  # seq, index, identity of what it waits for, how many values: a generator is far ahead
TAKE = 42  # identity of a stream, identities for its next values, how many were taken, one for an answer or 0
PRINTED = 24  # something was printed; the results of its tasks come next

# Flags of RUN.
EACH = 1  # report each item before the next begins
IN_PLACE = 2  # run on top of the blocked task that waits for it
EAGER = 4  # somebody waits for single results: report after each sub-block
LENDS_CPU = 16  # its items may run tiny children of their own themselves
FUSED = 8  # some items take results of others in the same batch
RAW = 32  # items are values as they are: a tuple is an argument, not the wire of a call
STARRED = 64  # items are tuples of arguments
CALLS = 1 << 17  # (never sent) some items are `Call`s
CAREFUL = 1 << 16  # (never sent) not LOOSE: one of the items may have killed a worker
CREATES = 256  # its only item makes the actor of this worker
LOOSE = 128  # which item runs need not be published while they are tiny

# Wire forms, beside those of `objects.codec`.
REF_WIRE = 3  # identity of a ref
MULTI_WIRE = 4  # one wire for each of several results
LOCAL_WIRE = 5  # index of the item of the same batch whose result it is
STREAM_WIRE = 7  # how many values a generator has yielded in all
SHORT_WIRE = 8  # one wire for each of the first results, error wire for the others
SLICE_WIRE = 6  # packed source, its form, first, behind the last: the items of a batch, see `slices`

_numbers = itertools.count(1)
dead_functions: deque[bytes] = deque()
"""Identities of functions that are gone: workers may forget them."""
dead_keys: deque[int] = deque()
"""Numbers of specs that are gone: the policy may forget them."""


class Function:
    """A function as workers receive it.

    Attributes:
        id: hash of the pickled content, so that equal functions are shipped once.
        packed: the pickled function; captured arrays are stored like large arguments.
        name: for messages.
        code: its code object, for the names of its parameters; None where it has none.
    """

    __slots__ = ("__weakref__", "code", "id", "name", "packed")

    def __init__(self, identity: bytes, packed: Packed, name: str, code: Any) -> None:
        self.id = identity
        self.packed = packed
        self.name = name
        self.code = code

    def __del__(self) -> None:
        dead_functions.append(self.id)


class TaskSpec:
    """A function with the options of its calls.

    Attributes:
        number: the policy's key.
        open: refs that were submitted and not sent. Submitters append, the state-lock holder pops.
        send_at: a submitter that finds the queue this long calls `wake`. Written by the state-lock holder.
        variants: specs of the same calls with large arguments, by size class and home.
        cost: number of the spec whose estimates it shares.
        home: number of the worker that has their largest argument.
        batching: tasks per batch as the user wants it, 0 for as many as is good.
        has_calls: some ref of this spec carries a `Call`.
        sends_children: its tasks leave all children to other workers, since one of them killed its worker.
        has_killed: a task of it has killed a worker: never again on top of another task.
        run: where items without refs come from and their results go, see `driver.runs`; None for calls.
        actor: whose method it is, see `driver.actors`; None for tasks. Specs of one actor share one queue.
        environment: of its tasks' processes, None for the program's own.
        method: its name; group: the concurrency group that it runs in.
        needs: what its calls take beside CPUs, see `driver.reserved`; None for nothing.
    """

    __slots__ = (
        "__weakref__",
        "actor",
        "batching",
        "cost",
        "environment",
        "function",
        "group",
        "has_calls",
        "has_killed",
        "home",
        "max_retries",
        "method",
        "name",
        "needs",
        "num_cpus",
        "num_returns",
        "number",
        "open",
        "retry_exceptions",
        "run",
        "send_at",
        "sends_children",
        "variants",
    )

    def __init__(
        self,
        function: Function,
        *,
        num_cpus: float,
        num_returns: int,
        max_retries: int,
        retry_exceptions: Any,
        name: str,
        batching: int = 0,
        cost: int = 0,
        home: int | None = None,
        needs: Needs | None = None,
    ) -> None:
        self.needs = needs
        self.number = next(_numbers)
        self.cost = cost or self.number
        self.home = home
        self.variants: dict[tuple[int, int | None], TaskSpec] | None = None
        self.batching = batching
        self.function = function
        self.num_cpus = num_cpus
        self.num_returns = num_returns
        self.max_retries = max_retries
        self.retry_exceptions = retry_exceptions
        self.name = name
        self.open: deque[ObjectRef[Any]] = deque()
        self.send_at = 1
        self.has_calls = False
        self.has_killed = False
        self.sends_children = False
        self.run: Run | None = None
        self.actor: Actor | None = None
        self.environment: Environment | None = None
        self.method = ""
        self.group = ""

    def variant(self, cost: int, home: int | None) -> TaskSpec:
        """Return a spec of the same calls, for some with large arguments: see `cost` and `home`."""
        made = TaskSpec(
            self.function,
            num_cpus=self.num_cpus,
            num_returns=self.num_returns,
            max_retries=self.max_retries,
            retry_exceptions=self.retry_exceptions,
            name=self.name,
            batching=self.batching,
            cost=cost,
            home=home,
            needs=self.needs,
        )
        made.has_calls = True
        made.environment = self.environment
        made.has_killed = self.has_killed
        made.sends_children = self.sends_children
        return made

    def __del__(self) -> None:
        dead_keys.append(self.number)


class Call:
    """The arguments of one call that don't fit into a bare atom.

    Attributes:
        args: atoms, `Packed` values, and refs whose values the task receives.
        kw_names: names of the last arguments.
        outs: the refs of the results when there are several.
        nbytes: what travels inline.
        caller: the uid of the worker that has submitted it, 0 for the driver: actors keep the order of each.
        parent: the worker's uid, batch and index whose task submitted this, for `cancel(recursive=True)`.
        is_sent: it has left the queue; where: the worker's uid and the batch that it went with.
        wants: tasks that it waits for.
        tied: refs among the arguments whose values it takes from its own batch.
        stream: where the values of a generator go.
    """

    __slots__ = (
        "args", "caller", "is_sent", "kw_names", "nbytes", "outs", "parent", "stream", "tied", "wants",
        "where",
    )  # fmt: skip

    def __init__(self, args: tuple[Any, ...], kw_names: tuple[str, ...], nbytes: int) -> None:
        self.args = args
        self.kw_names = kw_names
        self.nbytes = nbytes
        self.outs: tuple[ObjectRef[Any], ...] | None = None
        self.caller = 0
        self.parent: tuple[int, int, int] | None = None
        self.is_sent = False
        self.where: tuple[int, int] | None = None
        self.wants = 0
        self.tied: tuple[ObjectRef[Any], ...] = ()
        self.stream: Stream | None = None

    def dependencies(self) -> list[ObjectRef[Any]]:
        """Return the refs whose values this call needs."""
        return [arg for arg in self.args if isinstance(arg, ObjectRef)]

    def wire(
        self, lend: Callable[[Packed], tuple[Any, ...]], places: dict[ObjectRef[Any], int] | None = None
    ) -> tuple[Any, ...]:
        """Return what travels.

        Args:
            lend: turns packed values into their wire form for one worker.
            places: where the refs of the same batch are, for those whose values are not there yet.
        """
        self.tied = ()
        args: list[Any] = []
        for arg in self.args:
            if arg.__class__ is Packed:
                arg = lend(arg)
            elif isinstance(arg, ObjectRef):
                state = arg._state
                if state == READY:
                    arg = arg._value
                elif state == PACKED:
                    arg = lend(arg._value)
                elif places is not None:
                    self.tied += (arg,)
                    arg = (LOCAL_WIRE, places[arg])
                else:
                    raise AssertionError("a call was sent before its arguments were there")
            args.append(arg)
        return (CALL_WIRE, args, self.kw_names)


def packed_wire(packed: Packed, blobs: list[Any], refs: list[int]) -> tuple[Any, ...]:
    """Return the wire form of a packed value, given descriptors of its blobs and identities of its refs."""
    return (PACKED_WIRE, packed.stream, packed.pieces, blobs, refs)


def function_identity(packed: Packed) -> bytes:
    """Return the hash of a pickled function's content, captured arrays included."""
    try:
        from _blake2 import blake2b  # hashlib would load all of OpenSSL
    except ImportError:
        from hashlib import blake2b
    digest = blake2b(digest_size=16)
    for piece in (packed.stream, *packed.pieces):
        if isinstance(piece, bytes):
            digest.update(piece)
        elif piece is not None:
            digest.update(packed.blobs[piece[0]].view(piece[1], piece[2]))
    return digest.digest()


def argument_name(position: int, count: int, names: tuple[str, ...], code: Any) -> str:
    """Return how messages call an argument: by its parameter where that is known, else by its position."""
    first = count - len(names)
    if position >= first:
        return f"argument {names[position - first]!r}"
    if code is not None and position < code.co_argcount:
        return f"argument {code.co_varnames[position]!r}"
    return f"argument {position}"
