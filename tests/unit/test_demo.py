"""The demo's pure parts: what is said of measured times, how it is laid out, what packages are missed."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from grainwise.cli import main
from grainwise.demo import show
from grainwise.demo.stage import ASCII, BOXES, MOST_CELLS, WIDTH, Line, Stage, bar, glyphs_for, table
from grainwise.demo.story import Parts, Reasons, Story, Times, _noted, ratio, seconds, split, timed, verdict

REASONS = Reasons("both CPUs work", "it copies once", "each makes a ref", "the workers count")


def times(plain_s: float, pool_s: float, grainwise_s: float) -> Times:
    """Times of which half of grainwise's went into waiting."""
    return Times(plain_s, pool_s, Parts(grainwise_s / 8, grainwise_s / 4, grainwise_s / 2, grainwise_s / 8))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def double(number: int) -> int:
    return 2 * number


def by_hand(numbers: list[int]) -> list[int]:
    return [double(number) for number in numbers]


def story() -> Story[list[int], list[int]]:
    return Story(
        name="numbers",
        title="Double some numbers",
        prepare=lambda is_quick: [1, 2] if is_quick else [1, 2, 3],
        describe=lambda numbers: f"{len(numbers)} numbers",
        count_tasks=len,
        task=double,
        plain=by_hand,
        pool=by_hand,
        naive=by_hand,
        finding=str,
        reasons=REASONS,
        by_itself="nothing",
    )


def told(line: Line) -> str:
    out = io.StringIO()
    Stage(out, {}).closing([line], total_s=12.0)
    return out.getvalue()


def test_verdict_says_why_grainwise_is_ahead() -> None:
    assert verdict(times(plain_s=3.6, pool_s=8.0, grainwise_s=2.0), REASONS) == [
        "grainwise is 1.8 × as fast as plain Python, because both CPUs work.",
        "grainwise is 4.0 × as fast as Pool, because it copies once.",
    ]


def test_verdict_says_that_plain_python_or_pool_wins_and_why() -> None:
    assert verdict(times(plain_s=1.0, pool_s=0.5, grainwise_s=1.5), REASONS) == [
        "Plain Python wins: it is 1.5 × as fast as grainwise.",
        "Pool wins: it is 3.0 × as fast as grainwise.",
        "Of grainwise's 1.50 s, 750 ms went into waiting for the results: the workers count.",
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (Parts(2.0, 0.0, 0.1, 0.1), "2.00 s went into starting the workers."),
        (Parts(0.1, 2.0, 0.1, 0.0), "2.00 s went into handing over the calls: each makes a ref."),
        (Parts(0.1, 0.0, 2.0, 0.1), "2.00 s went into waiting for the results: the workers count."),
        (Parts(0.1, 0.1, 0.0, 2.0), "2.00 s went into putting the results together and ending the workers."),
    ],
)
def test_being_behind_is_explained_by_the_largest_measured_part(parts: Parts, expected: str) -> None:
    assert verdict(Times(1.0, 5.0, parts), REASONS)[-1] == f"Of grainwise's 2.20 s, {expected}"


def test_no_reason_is_given_where_none_is_known() -> None:
    reasons = Reasons("both CPUs work", None, "each makes a ref", "the workers count")
    assert verdict(times(3.0, 3.0, 1.0), reasons)[1] == "grainwise is 3.0 × as fast as Pool."


def test_split_names_every_part() -> None:
    assert split(Parts(0.05, 0.2, 2.3, 0.4)) == (
        "50 ms starting, 200 ms handing over the calls, 2.30 s waiting for results, 400 ms after that"
    )


@pytest.mark.parametrize("other_s", [0.95, 1.0, 1.06])
def test_close_times_are_level(other_s: float) -> None:
    assert verdict(times(other_s, other_s, grainwise_s=1.0), REASONS) == [
        "grainwise and plain Python are level.",
        "grainwise and Pool are level.",
    ]


@pytest.mark.parametrize(
    ("other_s", "expected"),
    [(0.4, "0.40 ×"), (0.996, "1.0 ×"), (1.84, "1.8 ×"), (9.96, "10 ×"), (123.4, "123 ×")],
)
def test_ratio(other_s: float, expected: str) -> None:
    assert ratio(other_s, grainwise_s=1.0) == expected


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0.0004, "0 ms"),
        (0.0841, "84 ms"),
        (0.9996, "1.00 s"),
        (2.2149, "2.21 s"),
        (9.996, "10.0 s"),
        (61.0, "61.0 s"),
    ],
)
def test_seconds(duration_s: float, expected: str) -> None:
    assert seconds(duration_s) == expected


def test_bar_grows_by_eighths_and_is_cut_off_with_an_arrow() -> None:
    assert bar(2.5, BOXES) == "██▌"
    assert bar(0.0, BOXES) == "▏"
    assert bar(0.0, ASCII) == "#"
    assert bar(MOST_CELLS, BOXES) == "█" * MOST_CELLS
    assert bar(MOST_CELLS + 0.1, BOXES) == "█" * (MOST_CELLS - 1) + "▶"
    assert bar(9e9, ASCII) == "#" * (MOST_CELLS - 1) + ">"


def test_table_is_aligned() -> None:
    assert table(("story", "tasks"), [("words", "12,888"), ("a photo", "64")]) == [
        "story      tasks",
        "────────────────",
        "words     12,888",
        "a photo       64",
    ]


def test_closing_names_each_story_and_fits_the_width() -> None:
    text = told(Line("argument", 1_000_000, times(100.0, 0.5, 1000.0), is_equal=True))
    row = next(line for line in text.splitlines() if "argument" in line)
    assert " ".join(row.split()) == "argument 1,000,000 100.0 s 500 ms 1000.0 s 0.10 × 0.00 × equal"
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Plain Python won 1 of 1." in text


def test_closing_shouts_when_results_differ() -> None:
    assert "DIFFER" in told(Line("words", 1, times(1.0, 1.0, 1.0), is_equal=False))


@pytest.mark.parametrize(
    ("environ", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_only_where_it_is_wanted(environ: dict[str, str], has_colour: bool) -> None:
    out = Terminal()
    Stage(out, environ).heading(1, 4, "words", "Tiny tasks")
    assert ("\x1b[" in out.getvalue()) is has_colour


def test_no_colour_off_a_terminal() -> None:
    out = io.StringIO()
    Stage(out, {}).heading(1, 4, "words", "Tiny tasks")
    assert "\x1b[" not in out.getvalue()


def test_ascii_where_the_encoding_has_no_boxes() -> None:
    assert glyphs_for("utf-8") is glyphs_for(None) is BOXES
    assert glyphs_for("ascii") is glyphs_for("latin-1") is glyphs_for("no such") is ASCII

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stage = Stage(stream, {})
    stage.heading(1, 1, "photo", "A photo of 2 × 2")
    stage.fact("found", "1.00 ± 0.01 × 2")
    stage.ran(1.0, 1.0, is_ours=True)
    stage.closing([Line("photo", 64, times(1.0, 1.0, 1.0), is_equal=True)], total_s=1.0)


def test_code_is_the_source_of_what_runs() -> None:
    assert story().code()[:5] == [
        "def double(number: int) -> int:",
        "    return 2 * number",
        "",
        "def by_hand(numbers: list[int]) -> list[int]:",
        "    return [double(number) for number in numbers]",
    ]


def test_timed_returns_the_result_and_its_time() -> None:
    result, taken_s = timed(by_hand, [1, 2])
    assert result == [2, 4]
    assert taken_s >= 0


def test_noting_a_function_gives_it_back_also_when_the_form_fails() -> None:
    namespace: dict[str, Any] = {"get": double}
    moments: list[float] = []

    def form() -> None:
        with _noted(namespace, "get", double) as noted:
            assert namespace["get"](4) == 8
            moments.extend(noted)
            raise ValueError("the form failed")

    with pytest.raises(ValueError, match="the form failed"):
        form()
    assert namespace == {"get": double}
    assert moments == sorted(moments)
    assert len(moments) == 2


def test_missing_packages_are_named_with_what_to_do() -> None:
    assert show.missing(list(show.STORIES), is_found=lambda module: True) is None
    assert show.missing(["words"], is_found=lambda module: False) is None

    only_pillow = show.missing(list(show.STORIES), is_found=lambda module: module != "PIL")
    assert only_pillow is not None
    assert only_pillow.startswith("photo and forest need pillow, which is not installed here.")
    assert "pip install 'grainwise[demo]'" in only_pillow
    assert only_pillow.endswith("grainwise demo --story words --story argument")

    one_story = show.missing(["argument"], is_found=lambda module: module != "numpy")
    assert one_story is not None
    assert one_story.startswith("argument needs numpy, which is not installed here.")

    everything = show.missing(list(show.STORIES), is_found=lambda module: False)
    assert everything is not None
    assert everything.startswith(
        "argument, photo and forest need numpy, scikit-learn and pillow, which are not"
    )
    assert everything.endswith("grainwise demo --story words")


def test_command_refuses_before_it_runs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "missing", lambda names: f"{names} need a package: pip install")
    monkeypatch.setattr(show, "show", lambda names, is_quick: pytest.fail("must not run"))
    outcome = CliRunner().invoke(main, ["demo", "--story", "photo", "--story", "words", "--story", "photo"])
    assert outcome.exit_code == 1
    assert outcome.output == "Error: ['photo', 'words'] need a package: pip install\n"


@pytest.mark.parametrize("is_equal", [True, False])
def test_command_ends_with_an_error_when_results_differ(
    is_equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], bool]] = []

    def told(names: list[str], is_quick: bool) -> bool:
        calls.append((names, is_quick))
        return is_equal

    monkeypatch.setattr(show, "missing", lambda names: None)
    monkeypatch.setattr(show, "show", told)
    outcome = CliRunner().invoke(main, ["demo", "--quick"])
    assert outcome.exit_code == (0 if is_equal else 1)
    assert calls == [(["words", "argument", "photo", "forest"], True)]


@pytest.mark.parametrize("name", show.STORIES)
def test_each_story_is_complete_and_its_code_fits_the_width(name: str) -> None:
    for module in show.STORIES[name]:
        pytest.importorskip(module)
    told_story: Story[Any, Any] = __import__(f"grainwise.demo.{name}", fromlist=["STORY"]).STORY
    assert told_story.name == name
    code = told_story.code()
    assert max(map(len, code)) <= WIDTH - len("  │ ")
    for form in (told_story.plain, told_story.pool, told_story.naive):
        assert any(line.startswith(f"def {form.__name__}(") for line in code)


def test_data_files_are_what_scikit_learn_loads() -> None:
    for module in ("numpy", "PIL", "sklearn"):
        pytest.importorskip(module)
    import numpy as np
    from sklearn.datasets import load_breast_cancer, load_sample_image

    from grainwise.demo import bundled

    assert np.array_equal(bundled.measurements(), load_breast_cancer().data)
    for name in ("china.jpg", "flower.jpg"):
        assert np.array_equal(bundled.picture(name), load_sample_image(name))


def test_words_are_cleaned() -> None:
    from grainwise.demo.words import count_words

    text = "Drawing &eacute;tudes: the parsedBodies of HTTPServers, quickly; draw_away!"
    assert count_words(text) == {
        "draw": 2, "etude": 1, "pars": 1, "body": 1, "http": 1, "server": 1, "quick": 1, "away": 1,
    }  # fmt: skip


def test_a_story_of_arrays_needs_no_scikit_learn_in_the_program() -> None:
    """Otherwise the template would import it before it forks the first worker."""
    for module in ("numpy", "PIL", "sklearn"):
        pytest.importorskip(module)
    code = (
        "import sys; from grainwise.demo import argument, photo; "
        "argument.STORY.prepare(True); photo.STORY.prepare(True); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
