"""A picture: sharpen a large photo tile by tile, the whole photo passed by value with each tile."""

from __future__ import annotations

from multiprocessing import Pool
from typing import TYPE_CHECKING

import numpy as np

import grainwise
from grainwise.demo.bundled import picture
from grainwise.demo.story import Reasons, Story

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Photo = NDArray[np.uint8]

ENLARGED = 8
ENLARGED_QUICK = 4
N_ASIDE = 8
TILES = list(np.ndindex(N_ASIDE, N_ASIDE))

REACH = 7
_IS_IN_DISC = np.hypot(*np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]) <= REACH
_BLUR = _IS_IN_DISC / _IS_IN_DISC.sum()  # what a lens out of focus makes of a point
_UNCHANGED = np.pad([[1.0]], REACH)
KERNEL = (2 * _UNCHANGED - _BLUR).astype(np.float32)  # adds once more what a blur takes away


def sharpen(photo: Photo, row: int, column: int) -> Photo:
    """Convolve one tile of the photo with a kernel of 15 × 15 that sharpens."""
    n_rows, n_columns, _ = photo.shape
    height, width = n_rows // N_ASIDE, n_columns // N_ASIDE
    top, left = row * height, column * width
    rows = np.arange(top - REACH, top + height + REACH).clip(0, n_rows - 1)
    columns = np.arange(left - REACH, left + width + REACH).clip(0, n_columns - 1)
    tile = photo[np.ix_(rows, columns)].astype(np.float32)
    sharp = np.zeros((height, width, 3), np.float32)
    for down, right in np.ndindex(KERNEL.shape):
        sharp += KERNEL[down, right] * tile[down : down + height, right : right + width]
    return sharp.clip(0, 255).astype(np.uint8)


def in_plain_python(photo: Photo) -> Photo:
    """Call it once for each tile."""
    return joined([sharpen(photo, row, column) for row, column in TILES])


def with_pool(photo: Photo) -> Photo:
    """Pass the photo with each tile's place."""
    with Pool() as pool:
        return joined(pool.starmap(sharpen, [(photo, row, column) for row, column in TILES]))


def with_grainwise(photo: Photo) -> Photo:
    """Pass the photo with each tile's place."""
    sharpened = grainwise.remote(sharpen)
    tiles = grainwise.get([sharpened.remote(photo, row, column) for row, column in TILES])
    return joined(tiles)


def joined(tiles: list[Photo]) -> Photo:
    """Put the tiles together to one photo again."""
    strips = [tiles[first : first + N_ASIDE] for first in range(0, len(tiles), N_ASIDE)]
    return np.concatenate([np.concatenate(strip, axis=1) for strip in strips])


def enlarged_photo(is_quick: bool) -> Photo:
    """Enlarge the photo of a Chinese temple that scikit-learn ships to the size of a camera's."""
    times = ENLARGED_QUICK if is_quick else ENLARGED
    photo = picture("china.jpg")
    # Whole tiles only: the last rows and columns that do not fill one are left out.
    height, width = (side - side % N_ASIDE for side in photo.shape[:2])
    return photo[:height, :width].repeat(times, axis=0).repeat(times, axis=1)


def describe(photo: Photo) -> str:
    """Say how large the photo is."""
    height, width, _ = photo.shape
    megapixels = f"{height * width / 1e6:.0f} megapixels, {photo.nbytes / 1e6:.0f} MB"
    return f"a photo of {width:,} × {height:,}, {megapixels}: scikit-learn's china.jpg, enlarged"


def finding(sharp: Photo) -> str:
    """Say what became of the photo."""
    height, width, _ = sharp.shape
    return f"a sharpened photo of {width:,} × {height:,}; standard deviation of its values {sharp.std():.2f}"


STORY: Story[Photo, Photo] = Story(
    name="photo",
    title="A picture: sharpen a photo tile by tile, the whole photo passed with every tile",
    prepare=enlarged_photo,
    describe=describe,
    count_tasks=lambda photo: len(TILES),
    task=sharpen,
    plain=in_plain_python,
    pool=with_pool,
    naive=with_grainwise,
    finding=finding,
    reasons=Reasons(
        ahead_of_plain="the photo is stored once and read in place, and every CPU has tiles to work on",
        ahead_of_pool="Pool pickles the whole photo with each of its pieces and pushes it through a pipe",
        handing_over="the first copies the photo into shared memory, the others check that it is the same",
        waiting="the workers sharpen tiles of the photo in shared memory and put the new tiles there",
    ),
    by_itself="stored the photo once for all calls; the workers read it, and we their tiles, in place",
    is_same=np.array_equal,
)
