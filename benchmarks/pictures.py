"""`python -m benchmarks.pictures`: draw the pictures of docs/internals/granularity.md from measured data.

| picture | data in `results/` | made by |
|---|---|---|
| `efficiency.svg` | `grain.json`: the samples of row F8 | `python -m benchmarks --rows F8 --output benchmarks/results/grain.md` |
| `tail.svg` | `timeline.json`: batches of a real run | `python -m benchmarks.timeline` |
| `scale.svg` | `scale.json`: the simulator on 1 to 4,096 workers | `python -m benchmarks.scale` |
| `calibration.svg` | `calibration.json`: real and predicted makespans | `python -m benchmarks.calibrate` |

A picture whose data is missing is left as it is, with a note.
"""  # noqa: E501 - commands in a table

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import f08_grain
from benchmarks.svg import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Axis,
    Bar,
    Line,
    Picture,
)

RESULTS = Path(__file__).resolve().parent / "results"
PICTURES = Path(__file__).resolve().parent.parent / "docs" / "internals" / "pictures"
SHARES = [(n / 5, f"{20 * n} %") for n in range(6)]
SHOWN = {
    "limit: one message per process": ("even shares, no library", GREY),
    "pool: map": ("Pool.map", ORANGE),
    "pool: apply_async loop": ("Pool, naive loop", RED),
    "joblib: delayed": ("joblib, naive", GREEN),
    "ray: naive loop": ("Ray, naive loop", PINK),
    "ray: batches of 50 ms by hand": ("Ray, batches by hand", SKY),
}
"""Forms of row F8 beside our own and the best peer."""
TAIL_S = 0.045
SHRUNK_BLUES = ("#a9cbe6", "#6ea6d3", "#3a7fb9", "#1b5a93", "#0b3c6f")
"""For batches of one task, and for larger and larger ones."""


def efficiency(data: dict[str, Any]) -> Picture:
    """Makespan against grain, as the share of the workers' time that went into tasks."""
    row = next(row for row in data["rows"] if row["id"] == "F8")
    samples, workers = row["samples"], row["workers"]

    def share(key: str, metric: str) -> float | None:
        """Serial time ÷ (workers × this form's), the median over the rounds that have both."""
        serial = dict(samples[f08_grain.SERIAL][metric])
        own = dict(samples.get(key, {}).get(metric, []))
        both = sorted(serial.keys() & own.keys())
        return statistics.median(serial[i] / own[i] / workers for i in both) if both else None

    def points(key: str) -> list[tuple[float, float]]:
        found = [(grain_s, share(key, metric)) for metric, grain_s in f08_grain.GRAINS_S.items()]
        return [(grain_s, min(value, 1.1)) for grain_s, value in found if value is not None]

    tuned = [key for key, kind in row["kinds"].items() if kind == "tuned" and key in samples]
    best = [
        (grain_s, min(1.1, max(value for key in tuned if (value := share(key, metric)) is not None)))
        for metric, grain_s in f08_grain.GRAINS_S.items()
    ]
    lines = [Line(name, points(key), color) for key, (name, color) in SHOWN.items() if points(key)]
    lines.append(Line("best peer tuned by hand", best, FAINT, is_dashed=True))
    lines.append(Line("grainwise, naive loop", points(f08_grain.OURS), BLUE, is_bold=True))
    header = data["header"]
    ticks = [(grain_s, metric) for metric, grain_s in f08_grain.GRAINS_S.items()]
    return Picture(
        "The same work, cut finer and finer",
        f"Share of {workers} workers' time that went into tasks. {where(header)}",
        Axis("length of one task", 1e-6, 1e-1, ticks, True),
        Axis("efficiency", 0.0, 1.1, SHARES),
        lines,
    )


def where(header: dict[str, Any]) -> str:
    """What it was measured on, and a word if that was not quiet."""
    said = f"{header['CPUs']}, {header['Python']}."
    return f"{said} Other programs were running." if "warning" in header else said


def tail(data: dict[str, Any]) -> Picture:
    """Batches of the last moments of a run, by worker."""
    end_s = max(batch["end_s"] for batch in data["batches"])
    begin_s = end_s - TAIL_S
    workers = sorted({batch["worker"] for batch in data["batches"]})
    bars = []
    for batch in data["batches"]:
        if batch["end_s"] > begin_s:
            count = batch["n_tasks"]
            hint = (
                f"{count} of {batch['n_sent']} tasks sent, {1e3 * (batch['end_s'] - batch['begin_s']):.2f} ms"
            )
            bars.append(
                Bar(
                    workers.index(batch["worker"]),
                    1e3 * (batch["begin_s"] - end_s),
                    1e3 * (batch["end_s"] - end_s),
                    ORANGE if batch["again"] else shade(count),
                    str(count),
                    hint,
                )
            )
    key = [(SHRUNK_BLUES[-1], "large batch"), (SHRUNK_BLUES[0], "small batch")]
    if any(bar.color == ORANGE for bar in bars):
        key.append((ORANGE, "taken back, sent again"))
    ratio = data["took_s"] * data["n_workers"] / data["work_s"]
    ticks = [(float(at), f"{at}" if at else "end") for at in range(-40, 1, 10)]
    return Picture(
        "Batches shrink towards the end",
        f"{data['n_tasks']:,} tasks of 0.1 to 0.5 ms on {data['n_workers']} workers; numbers are tasks. "
        f"{ratio:.2f} × the ideal in all.",
        Axis("milliseconds before the end of the run", -1e3 * TAIL_S, 0.0, ticks),
        Axis("", 0.0, 1.0, ()),
        bars=bars,
        rows=[f"worker {n + 1}" for n in range(len(workers))],
        key=key,
        height=330,
    )


def shade(count: int) -> str:
    """Darker for larger batches, one step for each doubling."""
    return SHRUNK_BLUES[min(len(SHRUNK_BLUES) - 1, max(0, count.bit_length() - 1))]


def scale(data: dict[str, Any]) -> Picture:
    """Efficiency against workers in the simulator, and what the bound promises."""
    colors = dict(zip((1e-5, 1e-4, 1e-3, 1e-2), (RED, ORANGE, BLUE, GREEN)))
    names = {1e-5: "10 µs", 1e-4: "100 µs", 1e-3: "1 ms", 1e-2: "10 ms"}
    lines = []
    for grain_s, name in names.items():
        cases = [case for case in data["cases"] if case["grain_s"] == grain_s]
        points = [(float(case["workers"]), case["ideal_s"] / case["took_s"]) for case in cases]
        lines.append(Line(f"tasks of {name}", points, colors[grain_s], is_bold=grain_s == 1e-3))
    promised: dict[float, float] = {}
    for case in data["cases"]:
        worst = case["ideal_s"] / case["bound_s"]
        promised[case["workers"]] = min(worst, promised.get(case["workers"], 1.0))
    lines.append(Line("the bound, at its worst", sorted(promised.items()), FAINT, is_dashed=True))
    most = max(case["n_tasks"] for case in data["cases"])
    ticks = [(float(4**n), f"{4**n:,}") for n in range(7)]
    return Picture(
        "The policy from 1 to 4,096 workers",
        f"Simulated: {data['work_s']:g} s of work for each worker, up to {most / 1e6:,.0f} million tasks.",
        Axis("workers", 1.0, 4096.0, ticks, True),
        Axis("efficiency", 0.0, 1.1, SHARES),
        lines,
    )


def calibration(data: dict[str, Any]) -> Picture:
    """Predicted makespan against the real one."""
    lines = []
    colors = {1: BLUE, 2: ORANGE, 4: GREEN}
    for workers in sorted({case["workers"] for case in data["cases"]}):
        cases = [case for case in data["cases"] if case["workers"] == workers]
        points = [(case["grain_s"], 1 + case["error"]) for case in cases]
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        lines.append(Line(name, points, colors.get(workers, PINK), is_bold=workers == 1))
    for share in (0.9, 1.1):
        lines.append(Line(f"{share - 1:+.0%}", [(1e-6, share), (1e-3, share)], FAINT, is_dashed=True))
    ticks_s = [(1e-6, "1 µs"), (1e-5, "10 µs"), (1e-4, "100 µs"), (1e-3, "1 ms")]
    ticks = [(n / 10, f"{n / 10:g}") for n in range(6, 15, 2)]
    return Picture(
        "What the simulator predicts of the engine",
        f"Median of {len(data['cases'][0]['runs'])} runs each. {where(data['header'])}",
        Axis("length of one task", 1e-6, 1e-3, ticks_s, True),
        Axis("predicted ÷ real", 0.6, 1.4, ticks),
        lines,
    )


DRAWN: dict[str, tuple[str, Callable[[dict[str, Any]], Picture]]] = {
    "efficiency.svg": ("grain.json", efficiency),
    "tail.svg": ("timeline.json", tail),
    "scale.svg": ("scale.json", scale),
    "calibration.svg": ("calibration.json", calibration),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the data")
    parser.add_argument("--output", type=Path, default=PICTURES, help="folder for the pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, (source, draw) in DRAWN.items():
        path = options.results / source
        if path.exists():
            (options.output / name).write_text(draw(json.loads(path.read_text())).to_svg())
        else:
            print(f"{name}: no {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
