"""The rows: one module each, found by id.

A new row is a module with a `ROW` and one line here. F12 is the simulator's (`tests/policy`).
"""

from __future__ import annotations

import importlib

from benchmarks.row import Row

ROWS = {
    "F1": "f01_sleepy_tasks",
    "F2": "f02_tiny_tasks",
    "F3": "f03_map",
    "F4": "f04_large_argument",
    "F5": "f05_round_trip",
    "F6": "f06_put",
    "F7": "f07_cold_start",
    "F8": "f08_grain",
    "F9": "f09_stragglers",
    "F10": "f10_streams",
    "F11": "f11_dependent_tasks",
    "F13a": "f13a_convolution",
    "F13b": "f13b_fitted_model",
    "F14": "f14_actor_calls",
    "F15": "f15_actor_start",
    "F16": "f16_prefix_counts",
    "F17": "f17_warm_environment",
    "F18": "f18_typed_map",
    "F19": "f19_second_run",
    "SK1": "sk1_grid_search",
}


def load_row(row_id: str) -> Row:
    """Import the module of one row."""
    row: Row = importlib.import_module(f"benchmarks.rows.{ROWS[row_id]}").ROW
    return row
