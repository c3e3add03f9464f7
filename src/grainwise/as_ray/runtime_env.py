"""`ray.runtime_env`: the dictionary that `runtime_env=` takes."""

from __future__ import annotations

from ..runtime_env import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
