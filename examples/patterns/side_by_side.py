"""Runs the naive and the recommended form of a script, checks that they agree, and prints both times.

Each form gets a session of its own whose workers have started. Options of every script here:

    --quick   small sizes, one round: below a second
    --long    nine rounds instead of three, for a machine that has other work to do
    --json    the figures as the last line, for `python examples/patterns`
"""

import json
import operator
import sys
import time

import grainwise as ray

QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 9 if "--long" in sys.argv else 3


def size(usual, quick):
    """Return the size to use in this run."""
    return quick if QUICK else usual


@ray.remote
def ready():
    """Do nothing, in a worker that has started."""


def run(form, options):
    """Run a form in a session with warm workers; return its result, its seconds, and the report."""
    is_new = not ray.is_initialized()
    if is_new:
        ray.init(**options)
        ray.get([ready.remote() for _ in range(100)])
    begin = time.perf_counter()
    result = form()
    spent_s = time.perf_counter() - begin
    report = None
    if hasattr(ray, "report"):  # the scripts run on Ray, too, for the table: one session is enough there
        report = ray.report()
        ray.shutdown()
    return result, spent_s, report


def compare(naive, recommended, same=operator.eq, **options):
    """Run both forms in turn, check that `same` holds of the results; print the best times and the report.

    Other arguments are those of `ray.init`.

    Returns:
        The kinds of the findings about the naive form.
    """
    naive_s, recommended_s, report = [], [], None
    for _ in range(ROUNDS):
        found, spent_s, report = run(naive, options)
        naive_s.append(spent_s)
        expected, spent_s, _ = run(recommended, options)
        recommended_s.append(spent_s)
        assert same(found, expected), f"naive {found!r:.200} - recommended {expected!r:.200}"
    first, second = min(naive_s), min(recommended_s)
    print(f"naive        {first:7.3f} s")
    print(f"recommended  {second:7.3f} s   naive takes {first / second:.2f} times as long")
    print(f"what grainwise.report() says of the naive form:\n\n{report}")
    findings = [finding.kind for finding in report.findings] if report is not None else []
    if "--json" in sys.argv:
        print(json.dumps({"naive_s": first, "recommended_s": second, "findings": findings}))
    return findings
