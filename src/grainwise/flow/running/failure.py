"""What a failure node is told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class FlyteError:
    """What went wrong in a workflow, for its `on_failure`.

    Attributes:
        message: the error.
        failed_node_id: the node that failed.
    """

    message: str
    failed_node_id: str = ""
