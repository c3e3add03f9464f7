"""What programs say to a cluster: schedules, notifications, labels, secrets, pods, descriptions.

Kept with what it is given to, so that a file runs with its imports changed; a run on this machine has no use
for most of it. Secrets are read by `current_context().secrets.get(group, key)`, declared or not.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Any, Protocol


@dataclasses.dataclass
class SourceCode:
    """Where the source of a task or workflow is."""

    link: str | None = None


@dataclasses.dataclass
class Description:
    """A long text about a task or workflow."""

    value: str | None = None
    uri: str | None = None
    icon_link: str | None = None
    format: Any = None


@dataclasses.dataclass
class Documentation:
    """What a task or workflow is about.

    Attributes:
        short_description: in a line.
        long_description: in full.
        source_code: where to read on.
    """

    short_description: str | None = None
    long_description: Description | None = None
    source_code: SourceCode | None = None


@dataclasses.dataclass
class Labels:
    """Labels of what a cluster starts."""

    values: dict[str, str]


@dataclasses.dataclass
class Annotations:
    """Annotations of what a cluster starts."""

    values: dict[str, str]


@dataclasses.dataclass
class CronSchedule:
    """When a cluster starts a launch plan; this machine does not.

    Raises:
        ValueError: there is neither a schedule nor an expression, or both.
    """

    cron_expression: str | None = None
    schedule: str | None = None
    offset: str | None = None
    kickoff_time_input_arg: str | None = None

    def __post_init__(self) -> None:
        if (self.cron_expression is None) == (self.schedule is None):
            raise ValueError("CronSchedule(...) expected one of schedule and cron_expression")


@dataclasses.dataclass
class FixedRate:
    """How often a cluster starts a launch plan; this machine does not."""

    duration: datetime.timedelta
    kickoff_time_input_arg: str | None = None


class WorkflowExecutionPhase:
    """How far a run is, as notifications name it."""

    UNDEFINED, QUEUED, RUNNING, SUCCEEDING, SUCCEEDED, FAILING = range(6)
    FAILED, ABORTED, TIMED_OUT, ABORTING = range(6, 10)


@dataclasses.dataclass
class Notification:
    """Whom a cluster tells of the end of a run; this machine tells nobody."""

    phases: list[int]
    recipients_email: list[str]


class Email(Notification):
    """By mail."""


class Slack(Notification):
    """By Slack."""


class PagerDuty(Notification):
    """By PagerDuty."""


@dataclasses.dataclass
class Secret:
    """A secret that a task reads, with `current_context().secrets.get(group, key)`."""

    class MountType(enum.Enum):
        """How a cluster hands it over."""

        ANY = 0
        ENV_VAR = 1
        FILE = 2

    group: str | None = None
    key: str | None = None
    group_version: str | None = None
    mount_requirement: MountType = MountType.ANY
    env_var: str | None = None


@dataclasses.dataclass
class PodTemplate:
    """How a cluster makes the pod of a task."""

    pod_spec: Any = None
    primary_container_name: str = "primary"
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class CachePolicy(Protocol):
    """What makes the version of a cache; see `Cache(policies=...)`."""

    def get_version(self, salt: str, params: Any) -> str:
        """Return the version for a function (`params.func`)."""
        ...


def describe(docs: Any, text: str) -> Any:
    """Return what was given as the description, or one with the first line of a docstring."""
    if docs is not None:
        return docs
    first, _, rest = text.strip().partition("\n")
    return Documentation(first or None, Description(rest.strip()) if rest.strip() else None)
