"""What a call or an actor needs beside CPUs: amounts of resources, and the placement group they come from.

*Needs* are a plain tuple, so that they are part of a spec's key, travel in any frame and can be pickled:

    (amounts, group, bundle, captures)

    amounts    ((name, units), ...) in the order of names, CPUs left out: see `NumCpus` of the options
    group      the placement group's identity in hexadecimal digits; "" for none, NO_GROUP for by no means one
    bundle     the index of a bundle of it, -1 for any
    captures   what the task submits goes to the same group

Amounts are counted in ten-thousandths (`UNIT`), so that three times a third of a GPU never is more than one
and nothing drifts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from ..errors import InfeasibleTaskError

    Amounts: TypeAlias = "tuple[tuple[str, int], ...]"
    Needs: TypeAlias = "tuple[Amounts, str, int, bool]"

UNIT = 10_000
NOTHING: Needs = ((), "", -1, False)
NO_GROUP = "-"
"""Not even the group of the task that submits it."""


def to_units(amount: float) -> int:
    """Return an amount in ten-thousandths, the nearest one."""
    return round(amount * UNIT)


def to_amount(units: int) -> float:
    """Return what so many ten-thousandths are."""
    return units / UNIT


def amounts_of(quantities: Mapping[str, float]) -> Amounts:
    """Return quantities as amounts; what is 0 is left out."""
    return tuple(sorted((name, to_units(value)) for name, value in quantities.items() if to_units(value)))


def with_cpus(amounts: Amounts, num_cpus: float) -> Amounts:
    """Return amounts with CPUs among them."""
    return (("CPU", to_units(num_cpus)), *amounts) if num_cpus else amounts


def normal(needs: Needs) -> Needs:
    """Return needs as the engine has them: by no means a group is no group."""
    return (needs[0], "", -1, False) if needs[1] == NO_GROUP else needs


def is_special(needs: Needs) -> bool:
    """Say whether calls with these needs are admitted one by one: see `driver.reserved`."""
    return bool(needs[0]) or needs[1] not in ("", NO_GROUP)


def describe(amounts: Iterable[tuple[str, int]]) -> str:
    """Return amounts for a message: `CPU=2, GPU=0.5, memory=1,000,000`."""
    return ", ".join(f"{name}={_shown(to_amount(units))}" for name, units in amounts) or "nothing"


def _shown(amount: float) -> str:
    return str(int(amount)) if amount == int(amount) else f"{amount:g}"


def infeasible(what: str, name: str, units: int, totals: Mapping[str, float]) -> InfeasibleTaskError:
    """Return the error of what asks for more of a resource than there is.

    Args:
        what: "task 'f'".
        name: the resource.
        units: how much of it is asked for.
        totals: what there is of all.
    """
    from ..errors import InfeasibleTaskError

    option = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}.get(name)
    amount = _shown(to_amount(units))
    asked = f"{option}={amount}" if option else f"resources={{{name!r}: {amount}}}"
    have = _shown(totals[name]) if name in totals else "nothing of the kind"
    text = f"{what} asks for {asked} - expected at most {have}, which is what the engine has"
    if name != "CPU":
        shown = ((each, to_units(amount)) for each, amount in totals.items() if not each.startswith("node:"))
        text += f" - in all it has {describe(shown)}"
    return InfeasibleTaskError(text)


def told(amounts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Return amounts as users know them."""
    return {name: to_amount(units) for name, units in amounts}
