"""F7: a fresh interpreter that imports, starts, gets one result, shuts down and exits.

The time is taken from outside, from starting the process to its end. The script itself takes two more:
`import` is the import statement alone; `import and first name` goes on until the task is defined, so that a
package which loads lazily (ours does) cannot hide its loading. One uncounted round first, so that files are
in the page cache.

Goal: at most 0.12 s in all; `import grainwise` at most 15 ms.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from textwrap import dedent, indent
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

OURS = "grainwise: import, init, one task, shutdown"


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Wall time of the whole process, and the times that the script printed."""
    start = time.perf_counter()
    output = run()
    elapsed_s = time.perf_counter() - start
    result, import_s, defined_s = output.split()
    check(result)
    return {
        "total": [elapsed_s],
        "import": [float(import_s)],
        "import and first name": [float(defined_s)],
    }


def check(result: str) -> None:
    assert result == "42", "wrong result"


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 0.12 s in all", OURS, 0.12, "total"),
        figures.at_most("import grainwise ≤ 15 ms", OURS, 0.015, "import"),
        figures.at_most("the same with what it loads lazily ≤ 15 ms", OURS, 0.015, "import and first name"),
    ]


ROW = Row(
    id="F7",
    title="fresh interpreter: import, init, first result, shutdown, exit",
    reference=OURS,
    rounds=9,
    quick_rounds=3,
    units={"total": "s", "import": "ms", "import and first name": "ms"},
    warm_ups=1,
    measure=measure,
    check=check,
    judge=judge,
)


def script(
    system: str,
    label: str,
    imports: str,
    body: str,
    *,
    kind: str = "tuned",
    decorator: str = "",
    rounds: int | None = None,
    quick_rounds: int | None = None,
) -> None:
    """Register a form that runs a script file; `body` must set `result`, N stands for the workers."""

    def set_up(bench: Bench) -> Run:
        path = bench.scratch / f"cold_start_{system}.py"
        path.write_text(_source(imports, decorator, body.replace("N_WORKERS", str(bench.n_workers))))

        def run() -> str:
            done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")
            return done.stdout

        return run

    # All scripts are started by the same bare process: what is measured is the script's own process.
    ROW.form(
        system,
        label,
        kind=kind,
        rounds=rounds,
        quick_rounds=quick_rounds,
        host="serial",
    )(set_up)


def _source(imports: str, decorator: str, body: str) -> str:
    lines = [
        "from time import perf_counter",
        "import_start = perf_counter()",
        imports,
        "import_s = perf_counter() - import_start",
        decorator,
        "def double(x):",
        "    return 2 * x",
        "defined_s = perf_counter() - import_start",
        'if __name__ == "__main__":',
        indent(dedent(body).strip(), "    "),
        "    print(result, import_s, defined_s)",
    ]
    return "\n".join(line for line in lines if line) + "\n"


script("serial", "no library, one call", "", "result = double(21)", kind="serial")

script(
    "limit",
    "fork, one call, one pipe",
    "import os",
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, str(double(21)).encode())
        os._exit(0)
    result = int(os.read(read_end, 10))
    os.waitpid(pid, 0)
    """,
    kind="limit",
)

script(
    "grainwise",
    "import, init, one task, shutdown",
    "import grainwise",
    """
    grainwise.init(num_cpus=N_WORKERS)
    result = grainwise.get(double.remote(21))
    grainwise.shutdown()
    """,
    kind="ours",
    decorator="@grainwise.remote",
)

script(
    "pool",
    "with Pool, apply",
    "from multiprocessing import Pool",
    """
    with Pool(N_WORKERS) as pool:
        result = pool.apply(double, (21,))
    """,
)

script(
    "executor",
    "with ProcessPoolExecutor, submit",
    "from concurrent.futures import ProcessPoolExecutor",
    """
    with ProcessPoolExecutor(N_WORKERS) as executor:
        result = executor.submit(double, 21).result()
    """,
)

script(
    "ray",
    "init, one task, shutdown",
    "import os, ray",
    """
    options = {"include_dashboard": False, "logging_level": "ERROR", "_temp_dir": os.environ["TMPDIR"]}
    ray.init(address="local", num_cpus=N_WORKERS, **options)
    result = ray.get(double.remote(21))
    ray.shutdown()
    """,
    decorator="@ray.remote",
    rounds=4,
    quick_rounds=0,
)

script(
    "joblib",
    "Parallel, two delayed calls",  # a single call would be run in the main process
    "from joblib import Parallel, delayed",
    "result, _ = Parallel(n_jobs=N_WORKERS)([delayed(double)(21), delayed(double)(22)])",
)

script(
    "dask",
    "compute one delayed",
    "import dask",
    "result, = dask.compute(dask.delayed(double)(21), scheduler='processes', num_workers=N_WORKERS)",
    rounds=5,
    quick_rounds=2,
)

script(
    "distributed",
    "Client, submit",
    "from distributed import Client",
    """
    with Client(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=40) as client:
        result = client.submit(double, 21).result()
    """,
    rounds=4,
    quick_rounds=0,
)

script(
    "mpire",
    "with WorkerPool, apply",
    "from mpire import WorkerPool",
    """
    with WorkerPool(n_jobs=N_WORKERS) as pool:
        result = pool.apply(double, (21,))
    """,
)
