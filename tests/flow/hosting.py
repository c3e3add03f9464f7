"""What the tests of hosts share: a runtime folder of their own, and nothing left of it behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from grainwise.flow.hosts import list_hosts, stop
from tests.leaks import check_leaks


@contextlib.contextmanager
def own_runtime_folder(name: str = "") -> Iterator[str]:
    """Set a runtime folder, and end the hosts that were started in it."""
    with tempfile.TemporaryDirectory(prefix="grainwise-hosts-", suffix=name) as folder, check_leaks():
        before = os.environ.get("GRAINWISE_RUNTIME_DIR")
        os.environ["GRAINWISE_RUNTIME_DIR"] = folder
        try:
            yield folder
        finally:
            for status in list_hosts():
                stop(status.fingerprint)
            if before is None:
                del os.environ["GRAINWISE_RUNTIME_DIR"]
            else:
                os.environ["GRAINWISE_RUNTIME_DIR"] = before
