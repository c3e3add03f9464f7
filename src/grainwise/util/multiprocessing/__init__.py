"""`Pool`: the interface of `multiprocessing.Pool` on the session's workers, where Ray has it."""

from __future__ import annotations

from multiprocessing import JoinableQueue, TimeoutError

from .pool import Pool
from .results import AsyncResult

__all__ = ["AsyncResult", "JoinableQueue", "Pool", "TimeoutError"]
