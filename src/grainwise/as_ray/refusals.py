"""What of Ray knowingly is not here, and how that is said."""

from __future__ import annotations

from ..api.ray_arguments import CLUSTERS
from ..errors import GrainwiseError

MODULES = {
    "ray.air": "Ray AIR",
    "ray.autoscaler": "the autoscaler",
    "ray.client_builder": "Ray Client",
    "ray.cluster_utils": "a cluster of several nodes",
    "ray.cross_language": "calls of other languages",
    "ray.dag": "compiled graphs",
    "ray.dashboard": "the dashboard",
    "ray.data": "Ray Data",
    "ray.internal": "Ray's internal API",
    "ray.job_config": "jobs of a cluster",
    "ray.job_submission": "jobs of a cluster",
    "ray.llm": "Ray LLM",
    "ray.rllib": "RLlib",
    "ray.serve": "Ray Serve",
    "ray.train": "Ray Train",
    "ray.tune": "Ray Tune",
    "ray.workflow": "Ray Workflow",
    "ray.experimental.channel": "compiled graphs",
    "ray.util.accelerators": "accelerators",
    "ray.util.client": "Ray Client",
    "ray.util.collective": "collective communication",
    "ray.util.horovod": "Horovod",
    "ray.util.iter": "parallel iterators",
    "ray.util.lightgbm": "LightGBM-Ray",
    "ray.util.metrics": "metrics",
    "ray.util.rpdb": "the remote debugger",
    "ray.util.sgd": "Ray SGD",
    "ray.util.spark": "Spark",
    "ray.util.tracing": "tracing",
    "ray.util.xgboost": "XGBoost-Ray",
}
NAMES = {
    "autoscaler": "the autoscaler",
    "client": "Ray Client",
    "ClientBuilder": "Ray Client",
    "cpp_function": "calls of other languages",
    "data": "Ray Data",
    "java_actor_class": "calls of other languages",
    "java_function": "calls of other languages",
    "serve": "Ray Serve",
    "train": "Ray Train",
    "tune": "Ray Tune",
    "workflow": "Ray Workflow",
}


class NotOfferedModuleError(GrainwiseError, NotImplementedError, ImportError):
    """A module of Ray's that knowingly is not offered; an `ImportError` for libraries that can do without."""


class NotOfferedNameError(GrainwiseError, NotImplementedError, AttributeError):
    """The same for a name of a module; `hasattr` says no."""


def refused_module(name: str) -> NotOfferedModuleError | None:
    """Return the refusal of a module, None if nothing is known of it."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        what = MODULES.get(".".join(parts[:end]))
        if what is not None:
            return NotOfferedModuleError(f"`import {name}`: {_reason(what)}")
    return None


def refused_name(module: str, name: str) -> NotOfferedNameError | None:
    """Return the refusal of a name of a module, None if nothing is known of it."""
    what = NAMES.get(name) if module == "ray" else MODULES.get(module)
    if what is None:
        return None
    return NotOfferedNameError(f"`{module}.{name}`: {_reason(what)}")


def _reason(what: str) -> str:
    return f"grainwise does not offer {what} - {CLUSTERS}"
