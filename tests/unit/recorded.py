"""Records made by hand, on a clock that only moves when it is told to."""

from __future__ import annotations

from types import SimpleNamespace

from grainwise.watch.events import BatchLog, Record
from grainwise.watch.report import Report

Usage = tuple[float, float, float, float, float, int, int, float]


class Clock:
    """Says what it was set to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class SentByHand:
    """What the record reads of a batch, of functions of these names."""

    def __init__(self, worker: int, names: list[str], sent_s: float, run: object = None) -> None:
        self.worker = worker
        specs = [SimpleNamespace(name=name, actor=None) for name in names]
        self.spec = specs[0]
        self.parts = [*enumerate(specs)] if names[1:] else None
        self.run = run
        self.sent_s = sent_s
        self.log: BatchLog | None = None


class Session:
    """A session whose events come from a test. Times are in seconds since its beginning."""

    def __init__(self, num_cpus: float = 2.0) -> None:
        self.clock = Clock()
        self.record = Record(num_cpus, self.clock)
        self.start_s = self.clock.now_s

    def at(self, time_s: float) -> None:
        self.clock.now_s = self.start_s + time_s

    def send(self, worker: int, name: str, count: int, at_s: float) -> SentByHand:
        self.at(at_s)
        return SentByHand(worker, [name], self.record.sent(count))

    def report(
        self, batch: SentByHand, count: int, begin_s: float, at_s: float, run_s: float, *,
        worst_s: float = 0.0, waited_s: float = 0.0, cpu_s: float = -1.0, pack_s: float = 0.0,
        result_bytes: int = 0, num_own: int = 0, own_s: float = 0.0, is_end: bool = True,
    ) -> None:  # fmt: skip
        self.at(at_s)
        usage: Usage = (
            self.start_s + begin_s, self.start_s + at_s, waited_s, cpu_s, pack_s, result_bytes, num_own, own_s
        )  # fmt: skip
        times = [(0, count, run_s, worst_s or run_s / count)]
        self.record.reported(batch.worker, batch, count, times, usage, is_end)

    def batch(
        self, name: str, count: int, begin_s: float, at_s: float, *, worker: int = 1,
        run_s: float | None = None, worst_s: float = 0.0, waited_s: float = 0.0, cpu_s: float = -1.0,
        pack_s: float = 0.0, result_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Have a batch sent, begun at once, and ended."""
        log = self.send(worker, name, count, begin_s)
        if run_s is None:
            run_s = at_s - begin_s
        self.report(
            log, count, begin_s, at_s, run_s, worst_s=worst_s, waited_s=waited_s, cpu_s=cpu_s, pack_s=pack_s,
            result_bytes=result_bytes,
        )  # fmt: skip

    def told(self, available_cpus: int = 2) -> Report:
        return Report(self.record, available_cpus)
