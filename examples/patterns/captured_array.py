"""A function that takes a large array along with its code: columns of a table, by a global variable.

What the manuals advise: pass the array, or a ref of it. What a function captures is pickled with it, and
unpickled in every worker.

What happens here: what it captures goes through shared memory, once, and every worker maps it. The report
names the variable, because a change of it after the first call is not seen by later ones.
"""

import numpy as np
from side_by_side import compare

import grainwise as ray

TABLE = np.random.default_rng(6).random((6_400_000 // 16, 16))  # 51 MB: smaller ones are not worth a word
COLUMNS = TABLE.shape[1]


@ray.remote
def median_of_captured(column):
    """Return the median of a column of the global table."""
    return float(np.median(TABLE[:, column]))


@ray.remote
def median(table, column):
    """Return the median of a column."""
    return float(np.median(table[:, column]))


def naive():
    """Let it take the table along."""
    return ray.get([median_of_captured.remote(column) for column in range(COLUMNS)])


def recommended():
    """Put the table, pass the ref."""
    table = ray.put(TABLE)
    return ray.get([median.remote(table, column) for column in range(COLUMNS)])


findings = compare(naive, recommended)
assert "captures" in findings or not hasattr(ray, "report"), findings
