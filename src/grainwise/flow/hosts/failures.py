"""What goes wrong with hosts themselves, as opposed to what they run."""

from __future__ import annotations

from ...errors import GrainwiseError


class HostError(GrainwiseError):
    """The host of an environment can't be started or used, or was stopped. The message says why."""


class HostLostError(HostError):
    """The host has ended or is leaving: internal, another one takes its place."""


class RenewedError(HostLostError):
    """The host made way for another one: internal."""
