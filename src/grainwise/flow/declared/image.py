"""Images: what must be installed where a task runs."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class ImageSpec:
    """What must be installed where a task runs; accepted by `task` and `ActorEnvironment`.

    Attributes:
        name: of the image.
        python_version: such as "3.12"; by default that of the program.
        registry: accepted; there is none here.
        packages: requirements, such as `["pandas>=2", "pyarrow"]`.
        requirements: path of a requirements file.
        apt_packages: accepted; system packages are not installed.
        env: environment variables.
        base_image: accepted; an `ImageSpec` lends its packages and variables.
        builder: accepted.
    """

    name: str = "flytekit"
    python_version: str | None = None
    builder: str | None = None
    source_root: str | None = None
    env: dict[str, str] | None = None
    registry: str | None = None
    packages: list[str] | None = None
    conda_packages: list[str] | None = None
    conda_channels: list[str] | None = None
    requirements: str | None = None
    apt_packages: list[str] | None = None
    cuda: str | None = None
    cudnn: str | None = None
    base_image: Any = None
    platform: str | None = None
    pip_index: str | None = None
    pip_extra_index_url: list[str] | None = None
    pip_secret_mounts: list[tuple[str, str]] | None = None
    pip_extra_args: str | None = None
    registry_config: str | None = None
    entrypoint: list[str] | None = None
    commands: list[str] | None = None
    tag_format: str | None = None
    source_copy_mode: Any = None
    copy: list[str] | None = None
    python_exec: str | None = None
    runtime_packages: list[str] | None = None
    builder_options: dict[str, Any] | None = None
    builder_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.name = self.name.lower()
        if self.registry:
            self.registry = self.registry.lower()
        for field in ("packages", "apt_packages", "conda_packages", "commands", "pip_extra_index_url"):
            value = getattr(self, field)
            if value is not None and not (
                isinstance(value, list) and all(isinstance(each, str) for each in value)
            ):
                raise ValueError(f"ImageSpec({field}={value!r:.100}) expected a list of text")

    def is_container(self) -> bool:
        """Say whether this program runs in the image, which every local run is taken to do."""
        return True

    def with_packages(self, packages: str | list[str]) -> ImageSpec:
        """Return the same image with more packages."""
        added = [packages] if isinstance(packages, str) else list(packages)
        return dataclasses.replace(self, packages=[*(self.packages or []), *added])

    def with_apt_packages(self, apt_packages: str | list[str]) -> ImageSpec:
        """Return the same image with more system packages."""
        added = [apt_packages] if isinstance(apt_packages, str) else list(apt_packages)
        return dataclasses.replace(self, apt_packages=[*(self.apt_packages or []), *added])

    def with_commands(self, commands: str | list[str]) -> ImageSpec:
        """Return the same image with more commands."""
        added = [commands] if isinstance(commands, str) else list(commands)
        return dataclasses.replace(self, commands=[*(self.commands or []), *added])

    def force_push(self) -> ImageSpec:
        """Return the same image."""
        return dataclasses.replace(self)
