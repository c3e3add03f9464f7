"""From environments, as they are declared, to their hosts.

    ActorEnvironment ──► Definition ──fingerprint──► Host (one object for each definition in this process)

The definition is made anew for each run: what it depends on besides, such as the working folder or installed
packages, may have changed since the last one.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from ..hosts.client import Host, find_or_start
from ..hosts.definition import DEFAULT_TTL_S, Definition, fingerprint_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..declared.options import TaskOptions
    from ..environment import ActorEnvironment

MAX_HOSTS = 16
_hosts: dict[str, Host] = {}
"""By fingerprint, the one used last at the end."""
_lock = threading.Lock()


def host_of(environment: ActorEnvironment, check: Callable[[], None]) -> Host:
    """Return the host of an environment, started if it does not run; its image is built first.

    Args:
        environment: as it is declared.
        check: called now and then while the image is built; raises to give up.

    Raises:
        HostError: it can't be started.
        RuntimeEnvSetupError: its image can't be built.
    """
    definition = definition_of(environment, check)
    fingerprint = fingerprint_of(definition.description(definition.hooks()))
    with _lock:
        host = _hosts.pop(fingerprint, None)
        if host is not None:
            _hosts[fingerprint] = host
            return host
    host = find_or_start(definition)
    with _lock:
        host = _hosts.setdefault(fingerprint, host)
        gone = [_hosts.pop(name) for name in list(_hosts)[:-MAX_HOSTS]]
    for each in gone:
        each.close()
    return host


def close_hosts() -> None:
    """Close this process's connections to hosts; they stay, for their time to live."""
    with _lock:
        hosts = list(_hosts.values())
        _hosts.clear()
    for host in hosts:
        host.close()


def definition_of(environment: ActorEnvironment, check: Callable[[], None]) -> Definition:
    """Return what decides which host serves an environment; its image is built if need be."""
    from .images import asks_for_packages, build_image

    image: Any = environment.container_image
    interpreter, packages = "", ""
    variables = environment.variables
    if asks_for_packages(image):
        built = build_image(image, check)
        interpreter, packages = built.interpreter, built.digest
        path = os.pathsep.join(filter(None, [os.path.join(built.folder, "bin"), os.environ.get("PATH")]))
        variables = {"VIRTUAL_ENV": built.folder, "PATH": path, **variables}
        if not built.is_foreign:
            packages += f" {_installed()}"
    ttl_s = environment.ttl_seconds
    return Definition(
        environment.name,
        replicas=(environment.min_replicas, environment.max_replicas),
        ttl_s=DEFAULT_TTL_S if ttl_s is None else float(ttl_s),
        interpreter=interpreter,
        packages=packages,
        variables=variables,
        cpus=environment.cpus,
        memory_bytes=environment.memory_bytes,
        on_enter=environment.enter_hook,
        on_exit=environment.exit_hook,
    )


def _installed() -> list[int]:
    """Return when packages were last installed where the program has its own: replicas see those, too."""
    from ...engine.environments.virtual import driver_folders
    from ..hosts.definition import stamp_of

    return [stamp_of(folder) for folder in driver_folders()]


def left_to_set(environment: ActorEnvironment, options: TaskOptions) -> tuple[dict[str, str], int | None]:
    """Return the variables and the memory limit of a task that its environment does not have already."""
    given = environment.variables
    variables = {name: text for name, text in options.variables.items() if given.get(name) != text}
    memory_bytes = options.memory_bytes
    return variables, None if memory_bytes == environment.memory_bytes else memory_bytes
