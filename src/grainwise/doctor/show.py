"""What the doctor says, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..grain.costs import Costs
from ..grain.policy import Policy
from .measure import COSTS, OTHERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measure import Measured

MEANINGS = {
    "submit_s": "the driver submits one task",
    "finish_s": "the driver sends one task and takes its result",
    "message_s": "the driver sends or receives one message",
    "round_trip_s": "from a result to the worker's next batch, all asleep",
    "batch_s": "the worker begins and ends a batch",
    "item_s": "the worker reads one task and writes its result",
    "cold_s": "as message_s, some milliseconds after the last one",
    "awake_s": "as round_trip_s, nobody asleep",
}
FAR = 3.0
"""A cost that is off by so much is worth a word."""


def show_facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each fact."""
    width = max(len(name) for name, _ in facts)
    return [f"  {name:{width}}  {value}" for name, value in facts]


def show_costs(measured: Measured, assumed: Costs) -> list[str]:
    """Return the table of costs, measured beside assumed."""
    lines = [f"  {'':12}  {'median':>10}  {'least':>10}  {'assumed':>10}"]
    for name in COSTS + OTHERS:
        expected = seconds(getattr(assumed, name)) if name in COSTS else "-"
        least, median = seconds(measured.least[name]), seconds(measured.median[name])
        lines.append(f"  {name:12}  {median:>10}  {least:>10}  {expected:>10}  {MEANINGS[name]}")
    return lines


def show_policy(num_cpus: float, measured: Measured, assumed: Costs) -> list[str]:
    """Return what the policy makes of the costs: as they were measured, and as it runs."""
    lines = [f"  {'':26}  {'measured':>10}  {'assumed':>10}"]
    here, there = Policy(num_cpus, measured.costs()), Policy(num_cpus, assumed)
    rows = [
        ("a full batch takes", seconds(here.quantum_s), seconds(there.quantum_s)),
        ("the shortest worth sending", seconds(here.floor_s), seconds(there.floor_s)),
        ("or so many tasks", f"{here.full_batch:,}", f"{there.full_batch:,}"),
    ]
    return lines + [
        f"  {name:26}  {measured_is:>10}  {assumed_is:>10}" for name, measured_is, assumed_is in rows
    ]


def show_advice(measured: Measured, assumed: Costs, *, is_busy: bool) -> list[str]:
    """Return what to make of it; nothing where all is as assumed."""
    lines = []
    if is_busy:
        lines.append("Other programs keep the CPUs busy: measure again on a quiet machine.")
    for name in COSTS:
        ratio = measured.least[name] / getattr(assumed, name)
        if ratio > FAR:
            lines.append(
                f"{name} is {ratio:.1f} times what is assumed: batches are shorter than is good here."
            )
    return lines


def seconds(value: float) -> str:
    """Show a short time with three digits and a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
