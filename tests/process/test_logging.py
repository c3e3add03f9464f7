"""Log records of tasks arrive in the program's own loggers, with its levels, handlers and formatters."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator

import pytest

import grainwise as ray

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S

PRELUDE = """
import logging, os, sys, time
import grainwise as ray
"""


def run(source: str) -> tuple[str, str]:
    """Run a program; return what it wrote, to standard output and error."""
    result = run_script(PRELUDE + source, timeout=LIMIT_S)
    assert_nothing_left(result.mark)
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


class Keeper(logging.Handler):
    """Keeps records; a test waits until so many have come."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def wait(self, count: int) -> list[logging.LogRecord]:
        deadline = time.monotonic() + LIMIT_S
        while len(self.records) < count and time.monotonic() < deadline:
            time.sleep(0.002)
        assert len(self.records) == count
        return self.records


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """A handler on a logger of the test's own, which takes all levels."""
    logger = logging.getLogger("pipeline")
    handler = Keeper()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


# --- what a record carries ----------------------------------------------------------------------------------


def test_a_record_arrives_as_it_was_made(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote(name="clean")
    def clean(name: str) -> tuple[int, float]:
        logging.getLogger("pipeline.clean").info("%s has %d rows", name, 3, extra={"rows": [3, {"of": 4.5}]})
        return os.getpid(), time.time()

    pid, now = ray.get(clean.remote("table"), timeout=LIMIT_S)
    (record,) = keeper.wait(1)
    assert (record.name, record.levelname) == ("pipeline.clean", "INFO")
    assert record.getMessage() == "table has 3 rows"
    own = vars(record)
    assert (own["task_name"], own["worker_pid"], own["process"]) == ("clean", pid, pid)
    assert (record.filename, record.funcName) == ("test_logging.py", "clean")
    assert own["rows"] == [3, {"of": 4.5}]
    assert now - 60 < record.created <= now


def test_what_can_t_be_pickled_arrives_as_text(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def work() -> None:
        lock = __import__("threading").Lock()
        logging.getLogger("pipeline").info("holds %r", lock, extra={"lock": lock, "one": {1: (lock,)}})

    ray.get(work.remote(), timeout=LIMIT_S)
    (record,) = keeper.wait(1)
    assert "holds <unlocked _thread.lock" in record.getMessage()
    assert "unlocked" in vars(record)["lock"]
    assert "unlocked" in vars(record)["one"][1][0]


def test_an_exception_arrives_as_text(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def work() -> None:
        try:
            raise KeyError("missing")
        except KeyError:
            logging.getLogger("pipeline").exception("it failed", stack_info=True)

    ray.get(work.remote(), timeout=LIMIT_S)
    (record,) = keeper.wait(1)
    shown = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert shown.startswith("ERROR it failed\nTraceback (most recent call last):\n")
    assert "KeyError: 'missing'\nStack (most recent call last):" in shown


def test_records_of_one_worker_keep_their_order(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def work(i: int) -> None:
        logging.getLogger("pipeline").debug("%d", i)

    ray.get([work.remote(i) for i in range(1_000)], timeout=LIMIT_S)
    assert [record.getMessage() for record in keeper.wait(1_000)] == [str(i) for i in range(1_000)]


def test_names_of_levels_are_the_program_s(keeper: Keeper) -> None:
    logging.addLevelName(25, "NOTICE")
    ray.init(num_cpus=1)

    @ray.remote
    def work() -> None:
        logging.getLogger("pipeline").log(25, "noticed")

    ray.get(work.remote(), timeout=LIMIT_S)
    assert keeper.wait(1)[0].levelname == "NOTICE"


# --- levels -------------------------------------------------------------------------------------------------


@ray.remote
def enabled(*names: str) -> list[int]:
    return [logging.getLogger(name).getEffectiveLevel() for name in names]


def test_a_worker_s_loggers_have_the_program_s_levels(keeper: Keeper) -> None:
    root = logging.getLogger().level
    ray.init(num_cpus=1)
    assert ray.get(enabled.remote("pipeline.part", "other"), timeout=LIMIT_S) == [logging.DEBUG, root]


def test_a_change_holds_in_the_next_task(keeper: Keeper) -> None:
    ray.init(num_cpus=1)
    logger = logging.getLogger("pipeline")
    for level in [logging.ERROR, logging.INFO, logging.DEBUG] * 5:
        logger.setLevel(level)
        assert ray.get(enabled.remote("pipeline"), timeout=LIMIT_S) == [level]
    logger.setLevel(logging.NOTSET)
    assert ray.get(enabled.remote("pipeline"), timeout=LIMIT_S) == [logging.getLogger().level]


def test_logging_disable_holds_in_tasks(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def work() -> bool:
        return logging.getLogger("pipeline").isEnabledFor(logging.CRITICAL)

    try:
        logging.disable()
        assert not ray.get(work.remote(), timeout=LIMIT_S)
    finally:
        logging.disable(logging.NOTSET)
    assert ray.get(work.remote(), timeout=LIMIT_S)


def test_thousands_of_loggers_with_long_names() -> None:
    """More than fits: the lowest level holds for all, and the program looks at each record again."""
    loggers = [logging.getLogger(f"many.{'x' * 100}.{i}") for i in range(2_000)]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        loggers[7].setLevel(17)
        ray.init(num_cpus=1)
        assert ray.get(enabled.remote("anything"), timeout=LIMIT_S) == [17]
    finally:
        ray.shutdown()
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


def test_the_end_of_the_session_leaves_logging_as_it_was() -> None:
    before = dict(vars(logging.getLogger().manager))
    ray.init(num_cpus=1)
    ray.shutdown()
    assert vars(logging.getLogger().manager) == before


# --- the program's configuration ----------------------------------------------------------------------------


def test_handlers_and_formatters_of_the_program() -> None:
    _, errors = run(
        """
logging.basicConfig(format="%(levelname)s|%(name)s|%(message)s|%(task_name)s", level="INFO")

@ray.remote
def work():
    logging.info("by the module")
    logging.getLogger("lib").warning("by a logger")
    logging.getLogger("lib").debug("not wanted")

ray.get(work.remote())
"""
    )
    assert errors.splitlines() == ["INFO|root|by the module|work", "WARNING|lib|by a logger|work"]


def test_a_program_that_has_configured_nothing() -> None:
    """As without us: warnings and worse, the message alone."""
    _, errors = run(
        """
@ray.remote
def work():
    logging.getLogger("lib").warning("first")
    logging.getLogger("lib").addHandler(logging.NullHandler())  # as libraries do
    logging.getLogger("lib").info("not wanted")
    logging.warning("second")
    logging.getLogger("lib").error("third")

ray.get(work.remote())
"""
    )
    assert errors.splitlines() == ["first", "second", "third"]


@pytest.mark.parametrize("is_configured", [False, True])
def test_a_task_that_configures_logging_itself(is_configured: bool) -> None:
    """It gets what it asked for, once; in a configured program that is nothing, as in the program itself."""
    program = 'logging.basicConfig(format="program %(message)s", level="INFO")' if is_configured else ""
    _, errors = run(
        f"""
{program}
@ray.remote
def work():
    logging.basicConfig(format="task %(message)s", level="INFO")
    logging.info("hello")
    return os.getpid()

pid = ray.get(work.remote())
ray.shutdown()
print("pid", pid)
"""
    )
    if is_configured:
        assert errors == "program hello\n"
    else:
        assert errors.startswith("(work pid=")
        assert errors.endswith(") task hello\n")
        assert errors.count("hello") == 1


def test_a_module_that_brings_its_own_handler_prints_once() -> None:
    _, errors = run(
        """
with open("tool.py", "w") as file:
    file.write('''
import logging
logger = logging.getLogger("tool")
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("tool: %(message)s"))
logger.addHandler(handler)
logger.setLevel("INFO")
def work():
    logger.info("hello")
''')
sys.path.insert(0, os.getcwd())
import tool
ray.get(ray.remote(tool.work).remote())
"""
    )
    assert errors.startswith("(work pid=")
    assert errors.count("hello") == 1


def test_switched_off() -> None:
    streams = run(
        """
ray.init(num_cpus=1, log_to_driver=False)

@ray.remote
def work():
    import warnings
    print("printed")
    print("printed", file=sys.stderr)
    logging.error("logged")
    warnings.warn("warned")

ray.get(work.remote())
"""
    )
    assert streams == ("", "")


# --- ends ---------------------------------------------------------------------------------------------------


def test_records_before_a_crash_are_kept_and_quoted(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote(max_retries=0)
    def work() -> None:
        for i in range(100):
            logging.getLogger("pipeline").error("record %d", i)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.errors.WorkerCrashedError, match="ERROR:pipeline:record 99"):
        ray.get(work.remote(), timeout=LIMIT_S)
    assert keeper.wait(100)[-1].getMessage() == "record 99"


def test_records_of_the_last_task_arrive_before_the_program_ends() -> None:
    _, errors = run(
        """
logging.basicConfig(format="%(message)s", level="INFO")
ray.get([ray.remote(logging.info).remote(f"record {i}") for i in range(500)])
"""
    )
    assert sorted(errors.splitlines()) == sorted(f"record {i}" for i in range(500))


def test_a_handler_that_hangs_blocks_no_task() -> None:
    run(
        """
import threading

class Hanging(logging.Handler):
    def emit(self, record):
        threading.Event().wait()

logging.getLogger().addHandler(Hanging())

@ray.remote
def work(i):
    logging.error("x" * 10_000)
    return i

assert ray.get([work.remote(i) for i in range(5_000)]) == list(range(5_000))
ray.shutdown()
os._exit(0)  # logging itself waits for the handler at exit
"""
    )


def test_a_handler_that_raises_harms_nobody(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("of the handler")

    raising = Raising()
    logger = logging.getLogger("pipeline")
    logger.handlers.insert(0, raising)
    try:
        ray.get(ray.remote(lambda: logging.getLogger("pipeline").info("lost")).remote(), timeout=LIMIT_S)
    finally:
        ray.shutdown()
        logger.removeHandler(raising)
    ray.init(num_cpus=1)
    ray.get(ray.remote(lambda: logging.getLogger("pipeline").info("arrives")).remote(), timeout=LIMIT_S)
    assert keeper.wait(1)[0].getMessage() == "arrives"


def test_records_of_threads_and_forked_children_of_a_task(keeper: Keeper) -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def work() -> int:
        import threading

        thread = threading.Thread(target=logging.getLogger("pipeline").info, args=("from a thread",))
        thread.start()
        thread.join()
        child = os.fork()
        if not child:
            logging.getLogger("pipeline").info("from a child")
            os._exit(0)
        os.waitpid(child, 0)
        return child

    child = ray.get(work.remote(), timeout=LIMIT_S)
    records = keeper.wait(2)
    assert [record.getMessage() for record in records] == ["from a thread", "from a child"]
    assert records[1].process == child
    assert vars(records[1])["worker_pid"] == records[0].process
