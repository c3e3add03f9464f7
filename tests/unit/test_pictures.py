"""The pictures of the documentation: geometry, text, and what is drawn of which data."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest

from benchmarks import pictures
from benchmarks.rows import f08_grain
from benchmarks.svg import BOTTOM, LEFT, TOP, Axis, Bar, Line, Picture, spread

SVG = "{http://www.w3.org/2000/svg}"
UNIT = Axis("", 0.0, 1.0, [(0.0, "none"), (1.0, "all")])


def parse(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture.to_svg())


def texts(picture: Picture) -> list[str]:
    return [each.text or "" for each in parse(picture).iter(f"{SVG}text")]


def test_axes_map_values_to_shares() -> None:
    assert Axis("", 10.0, 20.0, ()).share(15.0) == 0.5
    assert Axis("", 1e-6, 1e-2, (), is_log=True).share(1e-4) == pytest.approx(0.5)


def test_lines_go_from_corner_to_corner() -> None:
    picture = Picture("a", "b", UNIT, UNIT, [Line("up", [(0.0, 0.0), (1.0, 1.0)], "#000")])
    assert (picture.at_x(0.0), picture.at_y(0.0)) == (LEFT, picture.height - BOTTOM)
    assert picture.at_y(1.0) == TOP
    (path,) = parse(picture).iter(f"{SVG}path")
    assert path.attrib["d"].startswith(f"M{LEFT:.1f},{picture.height - BOTTOM:.1f} L")


def test_words_are_escaped_and_all_there() -> None:
    picture = Picture("a < b & c", "how", UNIT, UNIT, [Line("one & only", [(0.0, 0.5)], "#000")])
    assert {"a < b & c", "how", "one & only", "none", "all"} <= set(texts(picture))


def test_a_line_without_points_is_left_out() -> None:
    picture = Picture("a", "b", UNIT, UNIT, [Line("empty", [], "#000"), Line("full", [(0.0, 0.5)], "#000")])
    assert "empty" not in texts(picture)


def test_labels_keep_their_distance_and_order() -> None:
    spots = spread({0: 100.0, 1: 101.0, 2: 99.0, 3: 300.0}, 17.0, 0.0, 310.0)
    assert sorted(spots, key=lambda i: spots[i]) == [2, 0, 1, 3]
    ordered = sorted(spots.values())
    assert all(later - earlier >= 17.0 for earlier, later in pairwise(ordered))


def test_labels_at_the_bottom_move_up() -> None:
    spots = spread({0: 300.0, 1: 305.0, 2: 310.0}, 17.0, 0.0, 310.0)
    assert spots == {2: 310.0, 1: 293.0, 0: 276.0}


def test_bars_are_cut_at_the_axis_and_named_where_there_is_room() -> None:
    bars = [Bar(0, -5.0, 0.5, "#111", "12"), Bar(1, 0.5, 0.51, "#222", "34", hint="short")]
    picture = Picture("a", "b", UNIT, UNIT, bars=bars, rows=["x", "y"])
    cut, short = [each for each in parse(picture).iter(f"{SVG}rect") if each.get("rx")]
    assert float(cut.attrib["x"]) == LEFT
    assert short.find(f"{SVG}title") is not None
    assert "12" in texts(picture)
    assert "34" not in texts(picture)


def row_f8() -> dict[str, Any]:
    metrics = list(f08_grain.GRAINS_S)
    times = {f08_grain.SERIAL: 2.0, f08_grain.OURS: 1.0, "pool: map": 1.25, "pool: map, chunks": 1.1}
    samples = {key: {metric: [[0, took_s]] for metric in metrics} for key, took_s in times.items()}
    kinds = {"pool: map": "tuned", "pool: map, chunks": "tuned", f08_grain.OURS: "ours"}
    row = {"id": "F8", "workers": 2, "samples": samples, "kinds": kinds}
    return {"header": {"CPUs": "2", "Python": "3"}, "rows": [row]}


def test_efficiency_is_serial_time_by_workers_time() -> None:
    lines = {line.name: dict(line.points) for line in pictures.efficiency(row_f8()).lines}
    assert lines["grainwise, naive loop"][1e-3] == pytest.approx(1.0)
    assert lines["Pool.map"][1e-3] == pytest.approx(0.8)
    assert lines["best peer tuned by hand"][1e-3] == pytest.approx(2.0 / 2.2)
    assert "joblib, naive" not in lines


def test_tail_shows_the_last_moments_only() -> None:
    def batch(begin_s: float, n_tasks: int, again: bool = False) -> dict[str, Any]:
        times = {"begin_s": begin_s, "end_s": begin_s + 1e-3}
        return {"worker": 7, **times, "n_tasks": n_tasks, "n_sent": n_tasks, "again": again}

    batches = [batch(0.0, 40), batch(0.5, 8), batch(0.501, 1, again=True)]
    run = {"n_tasks": 49, "n_workers": 1, "took_s": 0.5, "work_s": 0.5, "batches": batches}
    bars = pictures.tail(run).bars
    assert [bar.text for bar in bars] == ["8", "1"]
    assert bars[0].color == pictures.shade(8) != pictures.shade(1)
    assert bars[1].color == pictures.ORANGE
    assert bars[1].end == pytest.approx(0.0)


def test_scale_shows_each_grain_and_the_worst_promise() -> None:
    def case(grain_s: float, workers: int, took_s: float, bound_s: float) -> dict[str, Any]:
        times = {"ideal_s": 2.0, "took_s": took_s, "bound_s": bound_s}
        return {"grain_s": grain_s, "workers": workers, "n_tasks": 10, **times}

    cases = [case(1e-3, 1, 2.0, 2.5), case(1e-3, 4, 2.5, 4.0), case(1e-4, 1, 2.1, 8.0)]
    lines = {line.name: line.points for line in pictures.scale({"work_s": 2.0, "cases": cases}).lines}
    assert lines["tasks of 1 ms"] == [(1.0, 1.0), (4.0, 0.8)]
    assert lines["the bound, at its worst"] == [(1, 0.25), (4, 0.5)]
