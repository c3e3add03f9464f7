"""What the doctor derives and says; what it measures is measured once, for its plausibility."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from grainwise.cli import main
from grainwise.doctor import facts
from grainwise.doctor.measure import COSTS, FEW, MANY, MORE, OTHERS, Measured, Times, derive
from grainwise.doctor.show import MEANINGS, seconds, show_advice, show_costs, show_facts, show_policy
from grainwise.grain.costs import Costs

TIMES = Times(
    few_s=20e-6 + FEW * 0.3e-6,
    more_s=20e-6 + MORE * 0.3e-6,
    lone_s=30.3e-6,
    cold_s=80.3e-6,
    awake_s=35e-6,
    asleep_s=80e-6,
    submit_s=0.5e-6,
    many_s=30e-6 + MANY * 0.3e-6,
)


def measured(times: Times = TIMES) -> Measured:
    return Measured(derive(times), derive(times))


def test_figures_are_the_differences_of_what_was_timed() -> None:
    figures = derive(TIMES)
    assert figures == pytest.approx(
        {
            "submit_s": 0.5e-6,
            "finish_s": 0.3e-6,
            "message_s": 15e-6,
            "round_trip_s": 60e-6,
            "batch_s": 20e-6,
            "item_s": 0.3e-6,
            "cold_s": 40e-6,
            "awake_s": 15e-6,
        }
    )
    assert tuple(figures) == COSTS + OTHERS


def test_figures_of_a_busy_machine_are_never_negative() -> None:
    odd = TIMES._replace(few_s=1e-3, more_s=1e-6, lone_s=1e-3, cold_s=0.0, asleep_s=0.0, many_s=0.0)
    assert min(derive(odd).values()) >= 0.0


def test_a_simulator_gets_the_least_costs_and_cold_messages() -> None:
    both = Measured(derive(TIMES), {**derive(TIMES), "batch_s": 1e-6})
    assert (both.costs().batch_s, both.costs().message_s) == pytest.approx((20e-6, 15e-6))
    assert (both.world().batch_s, both.world().message_s) == pytest.approx((1e-6, 40e-6))


def test_every_cost_of_the_policy_is_measured_and_explained() -> None:
    assert set(COSTS) == set(Costs.__slots__)
    assert set(MEANINGS) == set(COSTS + OTHERS)


def test_table_shows_measured_beside_assumed() -> None:
    lines = show_costs(measured(), Costs())
    assert len(lines) == 1 + len(COSTS + OTHERS)
    message = next(line for line in lines if "message_s" in line)
    assert message.split()[1:7] == ["15", "µs", "15", "µs", "15", "µs"]
    assert next(line for line in lines if "awake_s" in line).split()[5] == "-"


def test_policy_is_shown_as_measured_and_as_it_runs() -> None:
    slow = measured(TIMES._replace(few_s=1e-3, more_s=1e-3))  # a batch costs a millisecond
    full, shortest, _ = show_policy(2, slow, Costs())[1:]
    assert full.split()[-4:] == ["40", "ms", "5", "ms"]
    assert shortest.split()[-4:] == ["20", "ms", "400", "µs"]


def test_advice_names_what_is_far_off() -> None:
    assert show_advice(measured(), Costs(), is_busy=False) == []
    busy, slow = show_advice(measured(TIMES._replace(lone_s=300e-6)), Costs(), is_busy=True)
    assert "quiet" in busy
    assert slow.startswith("message_s is 10.0 times what is assumed")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.0, "2 s"), (0.0123, "12.3 ms"), (15e-6, "15 µs"), (3.04e-7, "304 ns"), (0.0, "0 ns")],
)
def test_seconds_are_shown_in_a_unit_that_suits(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_facts_stand_in_a_column() -> None:
    assert show_facts([("a", "x"), ("long", "y")]) == ["  a     x", "  long  y"]


def test_facts_name_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_TAKE_BACK", "locks")
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "3")
    monkeypatch.setenv("GRAINWISE_SPILL_DIR", "off")
    found = dict(facts.find_facts())
    assert found["taking tasks back"] == "by locks, as GRAINWISE_TAKE_BACK says"
    assert found["CPUs"].endswith("num_cpus=3 is set")
    assert "ObjectStoreFullError" in found["object store"]
    assert "GRAINWISE_NUM_CPUS=3" in found["variables"]


def test_command_measures_and_shows_all() -> None:
    done = CliRunner().invoke(main, ["doctor", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    for word in (
        "CPUs",
        "object store",
        "taking tasks back",
        "unchanged arguments",
        *COSTS,
        "a full batch takes",
    ):
        assert word in done.output
