"""`import ray` without Ray: programs and libraries that say so, unchanged."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ..leaks import ScriptResult, assert_nothing_left, run_script

INSTALL = "import grainwise\ngrainwise.install_as_ray()\n"


def run(program: str, **options: str) -> ScriptResult:
    result = run_script(INSTALL + program, timeout=60, env=options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert_nothing_left(result.mark)
    return result


def beside(folder: Path) -> str:
    """Return a PYTHONPATH with a folder before what is there."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


# --- the name -----------------------------------------------------------------------------------------------


def test_a_program_and_its_tasks_import_ray() -> None:
    run("""
import ray
import ray.util.state
from ray import exceptions, remote
from ray.exceptions import RayTaskError
from ray.util.multiprocessing import Pool

assert ray.exceptions is exceptions is grainwise.exceptions
assert ray.remote is remote is grainwise.remote
assert ray.ObjectRef is ray.ObjectID is grainwise.ObjectRef
assert ray.__version__.startswith("2.")
assert set(ray.__all__) <= set(dir(ray))

@ray.remote
def inside(ref_list):
    import ray as inner
    from ray.util import get_node_ip_address
    assert inner is ray
    assert inner.is_initialized()
    return inner.get(ref_list), get_node_ip_address()

with ray.init(num_cpus=2):
    assert ray.get(inside.remote([ray.put(1), ray.put(2)])) == ([1, 2], "127.0.0.1")
    with Pool(2) as pool:
        assert pool.map(lambda item: ray.get(ray.put(item)), [3]) == [3]
assert not ray.is_initialized()
""")


def test_a_library_that_imports_ray_works_in_workers(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(
        "import ray\nfrom ray.remote_function import RemoteFunction\n"
        "@ray.remote\ndef double(x):\n    return 2 * x\n"
        "def quadruple(x):\n    return ray.get(double.remote(ray.get(double.remote(x))))\n"
        "assert isinstance(double, RemoteFunction)\n"
    )
    run(
        """
import ray, library
assert ray.get(library.double.remote(2)) == 4
assert ray.get(ray.remote(library.quadruple).remote(2)) == 8
""",
        PYTHONPATH=beside(tmp_path),
    )


def test_what_user_code_imports_is_there() -> None:
    run("""
import ray
import ray.cloudpickle as pickle
import ray.runtime_context, ray.types, ray.remote_function
from ray.actor import ActorClass, ActorClassInheritanceException, ActorHandle, exit_actor
from ray.runtime_env import RuntimeEnv
from ray.util import ActorPool, list_named_actors
from ray.util.actor_pool import ActorPool as SamePool
from ray.util.queue import Empty, Full, Queue
from ray.util import inspect_serializability, register_serializer, deregister_serializer, log_once
from ray.util.annotations import DeveloperAPI, PublicAPI, Deprecated
from ray.util.check_serialize import inspect_serializability as again
from ray.util.joblib import register_ray
from ray.util.multiprocessing.pool import Pool
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_nodes, list_tasks
from ray.util.state.api import list_workers

assert inspect_serializability is again
assert pickle.loads(pickle.dumps(lambda: 3))() == 3

@PublicAPI(stability="beta")
@DeveloperAPI
def f():
    return ray.get_runtime_context().get_node_id()

here = ray.get_runtime_context().get_node_id()
strategy = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
assert ray.get(ray.remote(f).options(scheduling_strategy=strategy).remote()) == here
assert ray.nodes()[0]["NodeID"] == here
assert RuntimeEnv(env_vars=None) == {}

@ray.remote
class Doubler:
    def double(self, x):
        return 2 * x

doubler = Doubler.options(name="doubler").remote()
assert isinstance(Doubler, ActorClass) and isinstance(doubler, ActorHandle)
assert ActorPool is SamePool
assert list(ActorPool([doubler]).map(lambda a, v: a.double.remote(v), [1, 2])) == [2, 4]
assert list_named_actors() == ["doubler"]
assert isinstance(doubler._actor_id, ray.ActorID)
queue = Queue(maxsize=1)
queue.put(1)
try:
    queue.put_nowait(2)
except Full:
    assert queue.get() == 1
queue.shutdown()
""")


@pytest.mark.parametrize(
    "statement",
    ["import ray.serve", "from ray import tune", "import ray.data.context", "from ray.train import Trainer"],
)
def test_what_is_not_offered_says_so(statement: str) -> None:
    run(f"""
try:
    {statement}
except NotImplementedError as error:
    assert isinstance(error, ImportError)
    assert "grainwise does not offer Ray" in str(error), error
    assert "backend for clusters" in str(error)
else:
    raise AssertionError
""")


def test_names_that_are_not_offered_say_so() -> None:
    run("""
import ray
for name in ("serve", "ClientBuilder", "java_function"):
    assert not hasattr(ray, name)
    try:
        getattr(ray, name)
    except NotImplementedError as error:
        assert f"`ray.{name}`" in str(error)
try:
    ray.no_such_name
except AttributeError as error:
    assert not isinstance(error, NotImplementedError)
try:
    import ray.no_such_module
except ModuleNotFoundError:
    pass
""")


def test_what_libraries_import_and_never_call_is_there() -> None:
    run("""
import ray
from ray._private.services import get_node_ip_address
from ray.data import from_pandas_refs

assert get_node_ip_address() == "127.0.0.1"
for ask in (lambda: from_pandas_refs([]), lambda: ray.data.range):
    try:
        ask()
    except NotImplementedError as error:
        assert "does not offer Ray Data" in str(error)
    else:
        raise AssertionError
try:
    from ray.data import Dataset
except ImportError as error:
    assert isinstance(error, NotImplementedError)
    assert "does not offer Ray Data" in str(error)
else:
    raise AssertionError
""")


def test_it_must_come_first() -> None:
    result = run_script(
        """
import sys, types
import grainwise
grainwise.init(num_cpus=1)
try:
    grainwise.install_as_ray()
except RuntimeError as error:
    assert "running session" in str(error)
grainwise.shutdown()
sys.modules["ray"] = types.ModuleType("ray")
try:
    grainwise.install_as_ray()
except RuntimeError as error:
    assert "already" in str(error)
del sys.modules["ray"]
assert grainwise.install_as_ray() is grainwise.install_as_ray()
grainwise.init(num_cpus=1)
grainwise.install_as_ray()
""",
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_dask_on_ray() -> None:
    run("""
import dask, ray
from ray.util.dask import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get
from ray.util.client.common import ClientObjectRef

assert not isinstance(ray.put(1), ClientObjectRef)
total = dask.delayed(sum)([dask.delayed(abs)(-1), dask.delayed(abs)(-2)])
assert total.compute(scheduler=ray_dask_get) == 3
with enable_dask_on_ray():
    assert total.compute() == 3
disable_dask_on_ray()
""")


# --- init ---------------------------------------------------------------------------------------------------


def test_init_takes_rays_arguments() -> None:
    run("""
import logging, ray
context = ray.init(
    address="local", num_cpus=2, num_gpus=0, resources={}, labels={"a": "b"}, object_store_memory=100_000_000,
    local_mode=False, ignore_reinit_error=False, include_dashboard=False, dashboard_host="127.0.0.1",
    dashboard_port=8265, configure_logging=False, logging_level=logging.ERROR, logging_format="%(message)s",
    log_to_driver=False, namespace="mine", runtime_env={}, _temp_dir="/tmp/x", _system_config={"a": 1},
    enable_resource_isolation=False, logging_config=ray.LoggingConfig(log_level="ERROR"),
)
assert ray.get_runtime_context().namespace == "mine"
assert context["node_ip_address"] == "127.0.0.1"
assert context.dashboard_url == ""
assert ray.cluster_resources()["CPU"] == 2
assert ray.cluster_resources()["object_store_memory"] == 100_000_000
assert ray.init(ignore_reinit_error=True)["node_id"] == context["node_id"]
try:
    ray.init()
except RuntimeError:
    pass
else:
    raise AssertionError
context.disconnect()
assert not ray.is_initialized()
""")


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ('address="auto"', "NotImplementedError", "asks for a running cluster"),
        ('"ray://head:10001"', "NotImplementedError", "asks for a running cluster"),
        ("num_gpus=-1", "ValueError", "num_gpus"),
        ('resources={"CPU": 1}', "ValueError", "'num_cpus' and 'num_gpus' keyword"),
        ('runtime_env={"conda": "x"}', "NotImplementedError", "conda"),
        ("namespace=3", "TypeError", "namespace"),
        ("no_such=3", "TypeError", "no_such"),
    ],
)
def test_what_init_can_not_do_is_refused(arguments: str, kind: str, text: str) -> None:
    run(f"""
import ray
try:
    ray.init({arguments})
except {kind} as error:
    assert {text!r} in str(error), error
else:
    raise AssertionError
assert not ray.is_initialized()
""")


# --- python -m grainwise.as_ray -----------------------------------------------------------------------------

RUNNER = """
import subprocess, sys
done = subprocess.run(
    [sys.executable, "-W", "error", "-m", "grainwise.as_ray", *sys.argv[1:]], capture_output=True, text=True
)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


def test_an_unchanged_script_runs(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("FACTOR = 3\n")
    script = tmp_path / "script.py"
    script.write_text("""
import os
import sys
import ray
from beside import FACTOR

ray.init(num_cpus=2)

@ray.remote
def scale(x):
    import beside
    return x * beside.FACTOR

if __name__ == "__main__":
    print(sys.argv[1:], ray.get([scale.remote(i) for i in range(3)]))
""")
    result = run_script(RUNNER, timeout=60, args=[str(script), "--flag", "value"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "['--flag', 'value'] [0, 3, 6]\n"
    assert_nothing_left(result.mark)


def test_a_module_runs_and_a_script_that_fails_fails(tmp_path: Path) -> None:
    program = "import ray, sys\nprint(ray.get(ray.put(sys.argv[1])))\nsys.exit(3)\n"
    (tmp_path / "program.py").write_text(program)
    result = run_script(RUNNER, timeout=60, args=["-m", "program", "x"], env={"PYTHONPATH": beside(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (3, "x\n", "")


@pytest.mark.parametrize(
    ("args", "status", "text"), [(["--help"], 0, "usage:"), ([], 2, "usage:"), (["no.py"], 2, "no file")]
)
def test_the_command_explains_itself(args: list[str], status: int, text: str) -> None:
    result = run_script(RUNNER, timeout=60, args=args)
    assert result.returncode == status
    assert text in (result.stdout if status == 0 else result.stderr)


def test_progress_of_tasks_is_printed() -> None:
    result = run_script(
        INSTALL
        + """
import ray
from ray.experimental import tqdm_ray

@ray.remote
def count():
    bar = tqdm_ray.tqdm(range(3), desc="steps", flush_interval_s=3600)
    return sum(bar), bar.total

ray.init(num_cpus=1, tag_output=False)
assert ray.get(count.remote()) == (3, 3)
ray.shutdown()
""",
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines()[-1] == "steps: 3/3 it"


# --- programs such as Ray's documentation has, under both ---------------------------------------------------

PROGRAMS = Path(__file__).parent / "ray_programs"


@pytest.mark.parametrize("path", sorted(PROGRAMS.glob("*.py")), ids=lambda path: path.stem)
def test_a_ray_program_runs_unchanged(path: Path) -> None:
    result = run_script(RUNNER, timeout=90, args=[str(path)])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("done\n")
    assert_nothing_left(result.mark)


def test_the_programs_are_there() -> None:
    assert len(list(PROGRAMS.glob("*.py"))) >= 6
    assert sys.version_info >= (3, 10)
