"""`python -m benchmarks`: run rows, write the table after each."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import machine, report
from benchmarks.alternate import Options, run_row
from benchmarks.rows import ROWS, load_row
from benchmarks.systems import PEERS

RESULTS = Path(__file__).resolve().parent / "results"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, e.g. F1,F2 (default: all)")
    parser.add_argument(
        "--peers",
        default=",".join(PEERS),
        help="which peers beside grainwise, plain Python and the limits; 'none' for none (default: all)",
    )
    parser.add_argument("--workers", type=int, default=machine.n_cpus(), help="worker processes per system")
    parser.add_argument("--quick", action="store_true", help="few rounds, without the slowest forms")
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="Markdown file to write, the JSON goes beside it (default: benchmarks/results/latest.md)",
    )
    options = parser.parse_args(arguments)
    options.rows = _names(parser, "row", options.rows, tuple(ROWS))
    options.peers = () if options.peers == "none" else _names(parser, "peer", options.peers, PEERS)
    return options


def _names(parser: argparse.ArgumentParser, what: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            parser.error(f"unknown {what} {name!r}: expected some of {', '.join(known)}")
    return names


def main() -> None:
    arguments = parse()
    output = arguments.output or RESULTS / ("quick.md" if arguments.quick else "latest.md")
    peers = frozenset({"serial", "limit", "grainwise", *arguments.peers})
    options = Options(arguments.workers, arguments.quick, peers)
    header = machine.describe()
    if machine.is_busy():
        header["warning"] = "other programs were running at the start: run it again on a quiet machine"
        print(header["warning"], file=sys.stderr)
    started, (ticks, stolen) = time.monotonic(), machine.cpu_ticks()
    rows = []
    for row_id in arguments.rows:
        rows.append(run_row(load_row(row_id), options))
        ticks_now, stolen_now = machine.cpu_ticks()
        header["load average after"] = machine.load_average()
        header["CPU time stolen by other guests"] = (
            f"{100 * (stolen_now - stolen) / max(1, ticks_now - ticks):.1f} %"
        )
        header["took"] = f"{(time.monotonic() - started) / 60:.1f} min"
        report.write(output, header, rows)
    print(report.to_markdown(header, rows))
    print(f"written to {output} and {output.with_suffix('.json')}", file=sys.stderr)


if __name__ == "__main__":
    main()
