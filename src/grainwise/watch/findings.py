"""What only the user can change: one small rule for each, with its threshold and its reason.

A rule is quiet unless it is sure: it looks at totals, its thresholds lie far from noise, and it estimates
what the matter costs, so that the three most costly ones are shown. Left out because nothing here can tell
them from honest work: many small files, results that are only passed on, a program that submits slowly.
"""

from __future__ import annotations

from .augmented import augmented
from .show import count, seconds, share, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .report import Report

MAX_FINDINGS = 3
WORTH_S = 5e-3
WORTH_SHARE = 0.01
"""What costs less, in seconds or as a share of the time with work under way, is not worth a line."""
ALWAYS = frozenset(("captures", "globals", "spills", "retries"))
"""Kinds that are, because time is not all that they cost."""
WRONG = frozenset(("globals",))
"""Kinds that come first, because what the program computes is most likely not what was meant."""

LONE_WAITS = 10
"""A few waits for a single task are how one tries things out."""
LONE_SHARE = 0.5
WAITS_CPU = 0.2
"""Less processor time than this share: no crowded machine makes a task that computes look like that."""
WAITS_TASK_S = 1e-3
"""Shorter tasks wait for nothing that matters."""
RETURNED_BYTES = 10_000_000
TINY_TASKS = 20_000
TINY_S = 2e-6
SUBMIT_S = 0.5e-6
"""What a `.remote()` call costs the program (benchmark F2)."""
REDEFINED = 50
REDEFINE_S = 1e-3
"""Pickling a function here and loading it in each worker, about."""
STRAGGLER_TIMES = 5.0
STRAGGLER_EXCESS = 1.25
"""Longer than the other tasks, and than all tasks would take if they were spread evenly."""
LONG_S = 0.2
"""Run time, in seconds, from which on a missing CPU is felt."""
CROWD = 1.5
SPILLED_BYTES = 10_000_000
DISK_BYTES_S = 0.5e9
RETRIES = 5
RETRY_SHARE = 0.05


class Finding:
    """Something that only the user can change.

    Attributes:
        kind: one word for it, for programs.
        text: what was seen, in one sentence; fix: what to do, in one line.
        lost_s: an estimate of the seconds that it costs.
    """

    __slots__ = ("fix", "kind", "lost_s", "text")

    def __init__(self, kind: str, text: str, fix: str, lost_s: float) -> None:
        self.kind = kind
        self.text = text
        self.fix = fix
        self.lost_s = lost_s

    def __repr__(self) -> str:
        return f"<Finding {self.kind}: {self.text}>"


Finding.__module__ = "grainwise"


def find(report: Report) -> list[Finding]:
    """Return the findings, the most costly first, at most three."""
    found = [finding for rule in RULES for finding in rule(report)]
    least_s = max(WORTH_S, WORTH_SHARE * report.active_s)
    found = [each for each in found if each.lost_s >= least_s or each.kind in ALWAYS]
    found.sort(key=lambda finding: (finding.kind in WRONG, finding.lost_s), reverse=True)
    return found[:MAX_FINDINGS]


# -- how tasks are submitted -----------------------------------------------------------------------------


def get_in_loop(report: Report) -> Iterator[Finding]:
    """`get` right behind each submission: nothing ever runs beside anything else."""
    if (
        report.num_cpus >= 2
        and report.num_lone_waits >= LONE_WAITS
        and report.lone_wait_s > LONE_SHARE * report.active_s
    ):
        yield Finding(
            "get_in_loop",
            f"`get` or `wait` was called {count(report.num_lone_waits)} times for the only task under way: "
            f"one task ran at a time.",
            "Submit all first, then get all: refs = [f.remote(x) for x in items]; get(refs)",
            report.lone_wait_s * (1 - 1 / report.num_cpus),
        )


def redefined(report: Report) -> Iterator[Finding]:
    """A function defined or decorated inside the loop: pickled, sent and loaded each time."""
    for (name, where), (num, pack_s) in report.exports.items():
        if num >= REDEFINED:
            yield Finding(
                "redefined",
                f"`{name}`{_at(where)} was defined {count(int(num))} times: each definition is pickled, sent "
                f"and loaded again.",
                "Define it once, outside the loop, and pass what differs as an argument.",
                pack_s + num * REDEFINE_S,
            )


def globals_(report: Report) -> Iterator[Finding]:
    """A function that adds to a global variable, of which each worker has a copy."""
    for (name, where), code in report.codes.items():
        for variable in augmented(code):
            yield Finding(
                "globals",
                f"`{name}`{_at(where)} adds to the global variable `{variable}`: each worker has a copy of "
                f"its own, and the program's stays as it was.",
                "Return what is to be added, or keep the sum in an actor.",
                0.0,
            )


def captures(report: Report) -> Iterator[Finding]:
    """A function that takes large data along, where an argument would be stored once."""
    by_place: dict[tuple[str, str], list[float]] = {}
    for capture in report.captures:
        by_place.setdefault((capture.function, capture.where), []).append(capture.pack_s)
    for capture in report.captures:
        costs_s = by_place.pop((capture.function, capture.where), None)
        if costs_s is not None:
            what = f"`{capture.variable}` ({capture.kind}), " if capture.variable else ""
            yield Finding(
                "captures",
                f"`{capture.function}`{_at(capture.where)} takes {what}{size(capture.nbytes)} along with its "
                f"code.",
                "Pass it as an argument: arguments are stored once, and recognised when they come again.",
                sum(costs_s),
            )


def tiny(report: Report) -> Iterator[Finding]:
    """Tasks that cost less than a call of `.remote()`: no engine can gain anything there."""
    for log in report.functions:
        mean_s = log.run_s / log.num_tasks
        if log.num_tasks >= TINY_TASKS and mean_s < TINY_S and not log.is_mapped:
            yield Finding(
                "tiny",
                f"`{log.name}` runs {seconds(mean_s)} a task; submitting one costs about "
                f"{seconds(SUBMIT_S)}.",
                f"grainwise.map({log.name}, items) submits by the slice; or do more in each task.",
                log.num_tasks * SUBMIT_S,
            )


def too_few(report: Report) -> Iterator[Finding]:
    """Fewer tasks than CPUs."""
    num_tasks = sum(log.num_tasks for log in report.functions)
    if 0 < num_tasks < report.num_cpus and not report.num_in_place:
        longest_s = max(log.worst_s for log in report.functions)
        if longest_s >= LONG_S:
            yield Finding(
                "too_few",
                f"{_tasks(num_tasks)} on {report.num_cpus:g} CPUs: the others had nothing to do.",
                "Cut the work into more tasks: three or four for each CPU even out.",
                longest_s * (1 - num_tasks / report.num_cpus),
            )


# -- what tasks do ---------------------------------------------------------------------------------------


def waits(report: Report) -> Iterator[Finding]:
    """A function that waits, for a network or a disk, and holds a CPU meanwhile."""
    for log in report.functions:
        if (
            not log.is_method
            and log.num_tasks > report.num_cpus / max(log.num_cpus, 0.01)
            and log.num_cpus > WAITS_CPU
            and log.timed_s >= WAITS_TASK_S * log.num_tasks
            and log.cpu_s < WAITS_CPU * log.timed_s
            and log.waited_s < WAITS_CPU * log.run_s
        ):
            yield Finding(
                "waits",
                f"`{log.name}` waits {share(1 - log.cpu_s / log.timed_s)} of its time and holds "
                f"{_cpus(log.num_cpus)} meanwhile.",
                "@remote(num_cpus=0.1) lets ten of them run on each CPU.",
                (log.timed_s - log.cpu_s) / report.num_cpus,
            )


def actor_waits(report: Report) -> Iterator[Finding]:
    """A method that waits, while other calls wait for it: they arrive several at a time."""
    for log in report.functions:
        if (
            log.is_method
            and log.num_tasks >= max(LONE_WAITS, 2 * log.num_batches)
            and log.timed_s >= WAITS_TASK_S * log.num_tasks
            and log.cpu_s < WAITS_CPU * log.timed_s
            and log.waited_s < WAITS_CPU * log.run_s
        ):
            yield Finding(
                "actor_waits",
                f"`{log.name}` waits {share(1 - log.cpu_s / log.timed_s)} of its time, and other calls wait "
                f"for it: an actor runs one at a time.",
                "`async def` and `await`, or @remote(max_concurrency=10), lets them wait together.",
                log.timed_s - log.cpu_s,
            )


def returns_much(report: Report) -> Iterator[Finding]:
    """A task that takes longer to hand its result over than to compute it."""
    for log in report.functions:
        compute_s = log.run_s - log.pack_s
        if log.result_bytes >= RETURNED_BYTES and log.pack_s > compute_s:
            yield Finding(
                "returns_much",
                f"`{log.name}` returns more than it computes: "
                f"{size(log.result_bytes // log.num_tasks)} a task take "
                f"{seconds(log.pack_s / log.num_tasks)} to hand over, "
                f"{seconds(compute_s / log.num_tasks)} to compute.",
                "Return less (a sum, a path), or do the next step in the same task.",
                log.pack_s / report.num_cpus,
            )


def straggler(report: Report) -> Iterator[Finding]:
    """One task that the whole run waits for."""
    for log in report.functions:
        others = log.num_tasks - 1
        if (
            report.num_cpus >= 2
            and others >= 3
            and log.worst_s >= LONG_S
            and log.worst_s > STRAGGLER_EXCESS * report.run_s / report.num_cpus
            and log.worst_s > STRAGGLER_TIMES * (log.run_s - log.worst_s) / others
        ):
            yield Finding(
                "straggler",
                f"One `{log.name}` took {seconds(log.worst_s)} of the {seconds(report.active_s)}; the "
                f"{count(others)} others {seconds(max(0.0, log.run_s - log.worst_s) / others)} on average.",
                "Split that one, or submit the longest first.",
                log.worst_s - report.run_s / report.num_cpus,
            )


def crowded(report: Report) -> Iterator[Finding]:
    """Tasks with threads of their own that want more CPUs than there are."""
    for log in report.functions:
        used = log.cpu_s / log.timed_s if log.timed_s >= LONG_S else 0.0
        at_once = min(log.num_tasks, report.num_cpus // max(log.num_cpus, 1.0))
        if used > CROWD * max(log.num_cpus, 1.0) and used * at_once > CROWD * report.available_cpus:
            yield Finding(
                "crowded",
                f"`{log.name}` uses {used:.1f} CPUs and asks for {log.num_cpus:g}: its threads get in each "
                f"other's way.",
                f"Limit its threads (n_jobs=1 or the like), or ask for them: @remote(num_cpus={round(used)})",
                log.run_s / report.num_cpus * (1 - 1 / used),
            )


# -- what was asked for ----------------------------------------------------------------------------------


def asks_too_much(report: Report) -> Iterator[Finding]:
    """A function that reserves CPUs which it does not use, so that fewer run at once."""
    for log in report.functions:
        used = log.cpu_s / log.timed_s if log.timed_s >= LONG_S else 0.0
        wanted = max(1, round(used))
        if (
            log.num_tasks >= 2
            and used >= WAITS_CPU
            and used < log.num_cpus / CROWD
            and report.num_cpus // wanted > report.num_cpus // log.num_cpus
        ):
            yield Finding(
                "asks_too_much",
                f"`{log.name}` asks for {log.num_cpus:g} CPUs and uses {used:.1f}: only "
                f"{report.num_cpus // log.num_cpus:g} could run at once.",
                f"@remote(num_cpus={wanted})",
                log.run_s / (report.num_cpus // log.num_cpus) - log.run_s / (report.num_cpus // wanted),
            )


def one_cpu(report: Report) -> Iterator[Finding]:
    """A session that was told to use half of the CPUs or less."""
    if (
        2 * report.num_cpus <= report.available_cpus
        and report.num_tasks > report.num_cpus
        and report.run_s >= LONG_S
    ):
        yield Finding(
            "one_cpu",
            f"The session was told to use {report.num_cpus:g} of {report.available_cpus} CPUs.",
            "Leave num_cpus out of init() (and GRAINWISE_NUM_CPUS unset) to use them all.",
            report.run_s / report.num_cpus - report.run_s / report.available_cpus,
        )


def spills(report: Report) -> Iterator[Finding]:
    """Objects that went to disk."""
    if report.spilled_bytes >= SPILLED_BYTES:
        enough = report.capacity_bytes + report.spilled_bytes
        yield Finding(
            "spills",
            f"{size(report.spilled_bytes)} went to disk: the store holds {size(report.capacity_bytes)}.",
            f"Drop refs when you are done with them, or init(object_store_memory={enough:.2g})",
            report.spilled_bytes / DISK_BYTES_S,
        )


def retries(report: Report) -> Iterator[Finding]:
    """Tasks that run again and again."""
    if report.num_retries < max(RETRIES, RETRY_SHARE * report.num_tasks):
        return
    worst = max(report.functions, key=lambda log: log.num_retries, default=None)
    if worst is not None and worst.num_retries:
        why = f"; {_crashes(report.num_crashes)}" if report.num_crashes else ""
        fix = "Mend what it raises: each retry costs a whole run."
        if report.num_crashes:
            fix = "options(max_retries=0) shows the first crash; short of memory, a larger num_cpus helps."
        yield Finding(
            "retries",
            f"{count(report.num_retries)} of {_tasks(report.num_tasks)} were run again, most of them "
            f"`{worst.name}`{why}.",
            fix,
            sum(log.num_retries * log.run_s / log.num_tasks for log in report.functions),
        )


RULES: tuple[Callable[[Report], Iterator[Finding]], ...] = (
    get_in_loop,
    redefined,
    globals_,
    captures,
    tiny,
    too_few,
    waits,
    actor_waits,
    returns_much,
    straggler,
    crowded,
    asks_too_much,
    one_cpu,
    spills,
    retries,
)


def _at(where: str) -> str:
    """Return a place as " (file.py:12)", the file without its folders."""
    return f" ({where.replace(chr(92), '/').rsplit('/', 1)[-1]})" if where else ""


def _tasks(num: int) -> str:
    return "1 task" if num == 1 else f"{count(num)} tasks"


def _cpus(num: float) -> str:
    return "a CPU" if num == 1 else f"{num:g} CPUs"


def _crashes(num: int) -> str:
    return "1 worker died" if num == 1 else f"{count(num)} workers died"
