"""The data that scikit-learn ships as files, read without importing scikit-learn.

A program that works on a photo or a table has no scikit-learn loaded. The stories shall not have it either:
importing it takes a second, and workers are prepared with what the program has imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def picture(name: str) -> NDArray[np.uint8]:
    """Read one of the two sample photos.

    Args:
        name: `china.jpg` or `flower.jpg`.

    Returns:
        Rows × columns × red, green and blue.
    """
    from PIL import Image  # here: the table needs no pillow

    with Image.open(_folder() / "images" / name) as image:
        return np.asarray(image.convert("RGB"))


def measurements() -> NDArray[np.float64]:
    """Read the breast cancer data: 569 rows of 30 measurements each, without the diagnosis."""
    return np.loadtxt(_folder() / "data" / "breast_cancer.csv", delimiter=",", skiprows=1)[:, :-1]


def _folder() -> Path:
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "show.missing() has looked"
    assert spec.origin is not None, "a package with an __init__.py"
    return Path(spec.origin).parent / "datasets"
