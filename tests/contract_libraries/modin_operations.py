"""Modin beside pandas on a file of a million rows: says for each operation whether the results are the same.

    python modin_operations.py FILE.csv grainwise|ray

The last line is a JSON object: by operation, "" or how the results differ.
"""

import json
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

file, backend = Path(sys.argv[1]), sys.argv[2]
warnings.simplefilter("ignore")  # Modin's advice to enlarge /dev/shm, and where it falls back on pandas
if backend == "grainwise":
    import grainwise

    grainwise.install_as_ray()

import modin.config
import modin.pandas
import pandas
import pandas.testing

modin.config.Engine.put("Ray")
modin.config.CpuCount.put(2)
modin.config.NPartitions.put(4)  # more than CPUs, so that tables meet whose parts lie in several workers
GREYS = {"name": ["red", "green", "blue", "grey"], "lightness": [0.3, 0.6, 0.1, 0.5]}


def read_csv(library, table):
    return library.read_csv(file)


def read_with_types(library, table):
    return library.read_csv(file, usecols=["key", "x"], dtype={"key": "int32", "x": "float32"}, index_col=0)


def groupby_agg(library, table):
    return table.groupby("key")[["x", "y"]].agg(["sum", "mean", "count", "std"])


def groupby_sum_of_two_keys(library, table):
    return table.groupby(["name", "key"]).sum()


def groupby_function(library, table):
    return table.groupby("name").apply(lambda group: (group.x * group.y).max(), include_groups=False)


def groupby_transform(library, table):
    return table.groupby("key")["x"].transform("mean")


def merge_inner(library, table):
    return table.merge(library.DataFrame(GREYS), on="name")


def merge_left_on_many(library, table):
    other = table[table.y < 5].drop_duplicates(["key", "name"])[["key", "name", "x"]]
    return table.head(50_000).merge(other, on=["key", "name"], how="left", suffixes=("", "_first"))


def apply_to_columns(library, table):
    return table[["x", "y"]].apply(lambda column: column.sort_values().cumsum().iloc[-1])


def apply_to_rows(library, table):
    return table.head(20_000)[["x", "y"]].apply(lambda row: row["x"] * row["y"], axis=1)


def apply_to_cells(library, table):
    return table[["x", "y"]].map(lambda cell: cell * 2)


def sort_values(library, table):
    return table.sort_values(["key", "x", "id"]).reset_index(drop=True)


def concat(library, table):
    return library.concat([table, table.tail(10)], ignore_index=True)


def filter_and_assign(library, table):
    return table[table.x > 0].query("y < 50").assign(z=lambda part: part.x * part.y)


def write_csv(library, table):
    with tempfile.TemporaryDirectory() as folder:  # an actor tells the writers when it is their turn
        table.to_csv(f"{folder}/written.csv", index=False)
        return library.read_csv(f"{folder}/written.csv")


def write_parquet(library, table):
    with tempfile.TemporaryDirectory() as folder:
        table.to_parquet(f"{folder}/written")
        return library.read_parquet(f"{folder}/written")


def error_in_function(library, table):
    try:
        return repr(table[["x", "y"]].apply(lambda column: column.no_such_method()))
    except AttributeError as error:
        assert "no_such_method" in str(error)
        return "AttributeError"


def error_in_groups(library, table):
    try:
        return repr(table.groupby("name").apply(lambda group: len(group) + "1", include_groups=False))
    except TypeError as error:
        assert "unsupported operand" in str(error)
        return "TypeError"


OPERATIONS = (
    read_csv, read_with_types, groupby_agg, groupby_sum_of_two_keys, groupby_function, groupby_transform,
    merge_inner, merge_left_on_many, apply_to_columns, apply_to_rows, apply_to_cells, sort_values, concat,
    filter_and_assign, write_csv, write_parquet, error_in_function, error_in_groups,
)  # fmt: skip


def compare(expected, found):
    """Raise if two results differ in anything: values, types, order, index."""
    found = found._to_pandas() if hasattr(found, "_to_pandas") else found
    if isinstance(expected, pandas.DataFrame):
        pandas.testing.assert_frame_equal(found, expected)
    elif isinstance(expected, pandas.Series):
        pandas.testing.assert_series_equal(found, expected)
    else:
        assert found == expected, f"{found!r} instead of {expected!r}"


differences = {}
in_pandas, in_modin = pandas.read_csv(file), modin.pandas.read_csv(file)
for operation in OPERATIONS:
    try:
        begin = time.perf_counter()
        expected = operation(pandas, in_pandas)
        between = time.perf_counter()
        found = operation(modin.pandas, in_modin)
        if hasattr(found, "modin"):
            repr(found)  # Modin is lazy
        end = time.perf_counter()
        compare(expected, found)
        differences[operation.__name__] = ""
        print(f"{operation.__name__:<24} pandas {between - begin:.2f} s, Modin {end - between:.2f} s")
    except Exception:
        differences[operation.__name__] = traceback.format_exc()
assert modin.config.Engine.get() == "Ray"
print(json.dumps(differences))
