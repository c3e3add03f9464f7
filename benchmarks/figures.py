"""Samples of one row, and what is concluded from them: medians, paired ratios, goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.row import Row, Samples


@dataclass(frozen=True)
class Goal:
    """One goal of a row and what was measured; `is_met` is None when a form it needs was not run."""

    text: str
    measured: str
    is_met: bool | None


@dataclass
class Figures:
    """All samples of a row: form key → metric → (round, value) pairs, in seconds or bytes."""

    row: Row
    n_workers: int = 1
    samples: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # form key, or "row" → why there are no samples
    seconds: float = 0.0  # wall time of the whole row

    def add(self, key: str, round_index: int, samples: Samples) -> None:
        for metric, values in samples.items():
            kept = self.samples.setdefault(key, {}).setdefault(metric, [])
            kept.extend((round_index, value) for value in values)

    def drop(self, key: str, note: str) -> None:
        """Forget a form: a wrong or failed run makes its other times worthless too."""
        self.samples.pop(key, None)
        self.notes[key] = note

    def has(self, key: str, metric: str = "time") -> bool:
        return bool(self.samples.get(key, {}).get(metric))

    def values(self, key: str, metric: str = "time") -> list[float]:
        return [value for _, value in self.samples[key][metric]]

    def median(self, key: str, metric: str = "time") -> float:
        return statistics.median(self.values(key, metric))

    def ratio(self, key: str, other: str, metric: str = "time", other_metric: str | None = None) -> float:
        """Median over rounds of `key` ÷ `other` in the same round.

        Runs of one round lie seconds apart, so a slow phase of the machine hits both and cancels out;
        a ratio of two medians over minutes would not cancel it.
        """
        ours, theirs = self._by_round(key, metric), self._by_round(other, other_metric or metric)
        return statistics.median(ours[i] / theirs[i] for i in sorted(ours.keys() & theirs.keys()))

    def _by_round(self, key: str, metric: str) -> dict[int, float]:
        rounds: dict[int, list[float]] = {}
        for index, value in self.samples[key][metric]:
            rounds.setdefault(index, []).append(value)
        return {index: statistics.median(values) for index, values in rounds.items()}

    def best(self, kinds: Iterable[str], metric: str = "time") -> str | None:
        """Key of the form with the smallest median among those of the given kinds, None without any."""
        wanted = set(kinds)
        keys = [f.key for f in self.row.forms if f.kind in wanted and self.has(f.key, metric)]
        return min(keys, key=lambda key: self.median(key, metric), default=None)

    # Goals. Each returns "not measured" rather than failing where a form is missing.

    def at_most(self, text: str, key: str, limit: float, metric: str = "time") -> Goal:
        """Goal: the median of `key` is at most `limit` seconds or bytes."""
        if not self.has(key, metric):
            return self._unmeasured(text, key)
        median = self.median(key, metric)
        return Goal(text, format_value(median, self.row.units[metric]), median <= limit)

    def ratio_at_most(self, text: str, key: str, other: str | None, limit: float, **metrics: str) -> Goal:
        """Goal: the paired ratio of `key` to `other` is at most `limit`."""
        metric = metrics.get("metric", "time")
        for needed, its_metric in ((key, metric), (other, metrics.get("other_metric", metric))):
            if needed is None or not self.has(needed, its_metric):
                return self._unmeasured(text, needed)
        ratio = self.ratio(key, other, **metrics)  # type: ignore[arg-type]
        return Goal(text, f"{ratio:.2f} × {other}", ratio <= limit)

    def _unmeasured(self, text: str, key: str | None) -> Goal:
        return Goal(text, f"{key or 'any peer'} was not measured", None)


def format_value(value: float, unit: str) -> str:
    """Show seconds or bytes in a row's unit, with three significant digits."""
    if unit.startswith("GB/s of "):
        return f"{_digits(float(unit.removeprefix('GB/s of ')) / value / 1e9)} GB/s"
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6, "MB": 1e-6, "bytes": 1.0, "items": 1.0}[unit]
    return f"{_digits(value * scale)} {'µs' if unit == 'us' else unit}"


def format_range(values: list[float], unit: str) -> str:
    """Smallest to largest as shown: a short time is a high speed."""
    ends = [min(values), max(values)]
    if unit.startswith("GB/s"):
        ends.reverse()
    return " - ".join(format_value(end, unit) for end in ends)


def _digits(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"
