"""F13a: a 15 × 15 convolution of a large photo, cut into tiles; every task needs the photo.

The photo is scikit-learn's bundled picture in grey, tiled up to 153 MB. The naive code hands the whole photo
to each of 72 tasks, by value; each returns its tile, and the driver puts the tiles together (timed).
Hand-made alternatives: the photo in shared memory that workers also write their results to, or only the slice
that a task needs (with its rim) as the argument.

Goal: level with (within 5 %) or ahead of the best peer, however tuned.
"""

from __future__ import annotations

import mmap
import multiprocessing
from functools import cache
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run
from benchmarks.systems import PlainProcesses

KERNEL = 15  # pixels, odd
TILE = 750  # pixels; a tile of float32 and its temporary fit the second-level cache about half
HEIGHT, WIDTH = 427 * 14, 640 * 10
OUT_SHAPE = (HEIGHT - KERNEL + 1, WIDTH - KERNEL + 1)
LEVEL = 1.05
OURS = "grainwise: by value, naive loop"

Tile = tuple[int, int, int, int]  # top, bottom, left, right in the result
TILES: list[Tile] = [
    (top, min(top + TILE, OUT_SHAPE[0]), left, min(left + TILE, OUT_SHAPE[1]))
    for top in range(0, OUT_SHAPE[0], TILE)
    for left in range(0, OUT_SHAPE[1], TILE)
]


def kernel() -> Any:
    """A ring, which is not separable: all 225 products are needed."""
    import numpy

    y, x = numpy.mgrid[:KERNEL, :KERNEL] - KERNEL // 2
    ring = numpy.exp(-((numpy.hypot(x, y) - 4.0) ** 2) / 4.0)
    return (ring / ring.sum()).astype(numpy.float32)


def convolve(pixels: Any, out: Any) -> Any:
    """Sum shifted copies of `pixels` into `out`, which is smaller by the kernel's rim."""
    import numpy

    height, width = out.shape
    weights, product = kernel(), numpy.empty_like(out)
    out[:] = 0
    for y in range(KERNEL):
        for x in range(KERNEL):
            numpy.multiply(pixels[y : y + height, x : x + width], weights[y, x], out=product)
            out += product
    return out


def cut(photo: Any, tile: Tile) -> Any:
    """The part of the photo that a tile of the result needs."""
    top, bottom, left, right = tile
    return photo[top : bottom + KERNEL - 1, left : right + KERNEL - 1]


def convolve_slice(pixels: Any) -> Any:
    import numpy

    shape = (pixels.shape[0] - KERNEL + 1, pixels.shape[1] - KERNEL + 1)
    return convolve(pixels, numpy.empty(shape, dtype=numpy.float32))


def convolve_tile(photo: Any, tile: Tile) -> Any:
    return convolve_slice(cut(photo, tile))


def assemble(results: Any) -> Any:
    import numpy

    out = numpy.empty(OUT_SHAPE, dtype=numpy.float32)
    for (top, bottom, left, right), result in zip(TILES, results, strict=True):
        out[top:bottom, left:right] = result
    return out


def prepare(folder: Path) -> None:
    """Make the photo and the right answer."""
    import numpy
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").mean(axis=2).astype(numpy.float32) / 255
    photo = numpy.tile(grey, (14, 10))
    numpy.save(folder / "photo.npy", photo)
    numpy.save(folder / "convolved.npy", assemble(convolve_tile(photo, tile) for tile in TILES))


@cache
def load(path: Path) -> Any:
    import numpy

    return numpy.load(path)


_expected: list[Any] = []


def photo_of(bench: Bench) -> Any:
    _expected[:] = [load(bench.scratch / "convolved.npy")]
    return load(bench.scratch / "photo.npy")


def check(result: Any) -> None:
    import numpy

    assert numpy.array_equal(result, _expected[0]), "wrong result"


def judge(figures: Figures) -> list[Goal]:
    best = figures.best(["tuned", "naive"])
    return [
        figures.ratio_at_most("level with the best peer (≤ 1.05 ×) or ahead", OURS, best, LEVEL),
    ]


ROW = Row(
    id="F13a",
    title="convolution over a shared photo of 153 MB, 72 tiles",
    reference=OURS,
    rounds=5,
    quick_rounds=1,
    requires=("numpy", "sklearn", "PIL"),
    has_own_children=True,
    check=check,
    judge=judge,
    prepare=prepare,
)


@ROW.form("serial", "for loop over tiles", kind="serial", rounds=2, quick_rounds=0)
def _(bench: Bench) -> Run:
    photo = photo_of(bench)
    return lambda: assemble(convolve_tile(photo, tile) for tile in TILES)


_inherited: list[Any] = []  # photo and output, before the fork


def convolve_inherited(first: int, step: int) -> None:
    photo, out = _inherited
    for tile in TILES[first::step]:
        top, bottom, left, right = tile
        out[top:bottom, left:right] = convolve_tile(photo, tile)


@ROW.form("limit", "forked, nothing is sent", kind="limit")
def _(bench: Bench) -> Run:
    import numpy

    buffer = mmap.mmap(-1, 4 * OUT_SHAPE[0] * OUT_SHAPE[1])  # anonymous and shared
    out = numpy.frombuffer(buffer, dtype=numpy.float32).reshape(OUT_SHAPE)
    out[:] = 0
    _inherited[:] = [photo_of(bench), out]
    processes = PlainProcesses(bench.n_workers)
    bench.closing.callback(processes.close)

    def run() -> Any:
        processes.run(convolve_inherited, [(i, bench.n_workers) for i in range(bench.n_workers)])
        return out

    return run


@ROW.form("grainwise", "by value, naive loop", kind="ours")
def _(bench: Bench) -> Run:
    grainwise, photo = bench.system, photo_of(bench)
    task = grainwise.remote(convolve_tile)
    return lambda: assemble(grainwise.get([task.remote(photo, tile) for tile in TILES]))


def _put_form(bench: Bench) -> Run:
    """The same code for grainwise and Ray."""
    system, photo = bench.system, photo_of(bench)
    task = system.remote(convolve_tile)

    def run() -> Any:
        ref = system.put(photo)
        return assemble(system.get([task.remote(ref, tile) for tile in TILES]))

    return run


ROW.form("grainwise", "put once, pass the ref", kind="ours, tuned")(_put_form)


@ROW.form("pool", "by value, apply_async loop", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    pool, photo = bench.system, photo_of(bench)
    return lambda: assemble(
        [r.get() for r in [pool.apply_async(convolve_tile, (photo, tile)) for tile in TILES]]
    )


@ROW.form("pool", "slices by hand", kind="tuned")
def _(bench: Bench) -> Run:
    photo = photo_of(bench)
    return lambda: assemble(
        bench.system.imap(convolve_slice, (cut(photo, tile) for tile in TILES), chunksize=1)
    )


_blocks: list[Any] = []


def _map_blocks(photo_name: str, out_name: str) -> None:
    """Initializer: map photo and output, keep them mapped."""
    import numpy

    for name, shape in ((photo_name, (HEIGHT, WIDTH)), (out_name, OUT_SHAPE)):
        block = SharedMemory(name=name)
        _blocks.append((block, numpy.ndarray(shape, dtype=numpy.float32, buffer=block.buf)))


def convolve_mapped(tile: Tile) -> None:
    top, bottom, left, right = tile
    (_, photo), (_, out) = _blocks
    out[top:bottom, left:right] = convolve_tile(photo, tile)


@ROW.form("pool", "shared memory by hand", kind="tuned")
def _(bench: Bench) -> Run:
    import numpy

    photo = photo_of(bench)
    arrays = []
    for shape in ((HEIGHT, WIDTH), OUT_SHAPE):
        block = SharedMemory(create=True, size=4 * shape[0] * shape[1])
        bench.closing.callback(block.unlink)
        arrays.append((block, numpy.ndarray(shape, dtype=numpy.float32, buffer=block.buf)))
    names = tuple(block.name for block, _ in arrays)
    pool = bench.closing.enter_context(multiprocessing.Pool(bench.n_workers, _map_blocks, names))

    def run() -> Any:
        arrays[0][1][:] = photo
        pool.map(convolve_mapped, TILES, chunksize=1)
        return arrays[1][1]

    return run


@ROW.form("executor", "slices by hand", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    photo = photo_of(bench)
    return lambda: assemble(bench.system.map(convolve_slice, [cut(photo, tile) for tile in TILES]))


# No Ray by value: it stores 72 copies, and the 11 GB spill to disk as soon as the workers fall behind.
ROW.form("ray", "put once, pass the ref", kind="tuned", quick_rounds=0)(_put_form)


@ROW.form("ray", "slices by hand", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    ray, photo = bench.system, photo_of(bench)
    task = ray.remote(convolve_slice)
    return lambda: assemble(ray.get([task.remote(cut(photo, tile)) for tile in TILES]))


@ROW.form("joblib", "by value, delayed (memory-mapped by joblib)", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    photo = photo_of(bench)
    return lambda: assemble(bench.system()(delayed(convolve_tile)(photo, tile) for tile in TILES))


@ROW.form("dask", "slices by hand", kind="tuned", rounds=3, quick_rounds=0)
def _(bench: Bench) -> Run:
    from dask import delayed

    photo, task = photo_of(bench), delayed(convolve_slice)
    return lambda: assemble(bench.system(*[task(cut(photo, tile)) for tile in TILES]))


@ROW.form("distributed", "slices by hand", kind="tuned", rounds=3, quick_rounds=0)
def _(bench: Bench) -> Run:
    client, photo = bench.system, photo_of(bench)

    def run() -> Any:
        futures = [client.submit(convolve_slice, cut(photo, tile), pure=False) for tile in TILES]
        return assemble(client.gather(futures))

    return run


def convolve_shared_object(photo: Any, *tile: int) -> Any:
    return convolve_tile(photo, tile)  # type: ignore[arg-type]


@ROW.form("mpire", "shared_objects (fork)", kind="tuned")
def _(bench: Bench) -> Run:
    from mpire import WorkerPool

    photo = photo_of(bench)

    def run() -> Any:
        with WorkerPool(n_jobs=bench.n_workers, shared_objects=photo, start_method="fork") as pool:
            return assemble(
                pool.map(convolve_shared_object, TILES, chunk_size=1, concatenate_numpy_output=False)
            )

    return run
