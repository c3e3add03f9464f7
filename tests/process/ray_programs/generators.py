"""Generators: refs as values are yielded, in tasks and actors, sync and async, with back-pressure."""

import asyncio
import sys

import ray
from ray import DynamicObjectRefGenerator, ObjectRefGenerator
from ray._raylet import ObjectRefGenerator as OfRaylet

ray.init(num_cpus=2)
assert OfRaylet is ObjectRefGenerator


@ray.remote
def blocks(n, fails_at=None):
    for i in range(n):
        if i == fails_at:
            raise ValueError("a bad block")
        yield {"block": i, "rows": list(range(i))}


@ray.remote
def size(block):
    return len(block["rows"])


generator = blocks.remote(4)
assert isinstance(generator, ObjectRefGenerator)
assert ray.get([size.remote(ref) for ref in generator]) == [0, 1, 2, 3]
assert ray.get(generator.completed()) is None
assert generator.is_finished()

# Errors come as the last ref.
found = []
for ref in blocks.remote(4, fails_at=2):
    try:
        found.append(ray.get(ref)["block"])
    except ray.exceptions.RayTaskError as error:
        assert isinstance(error, ValueError)
        found.append("failed")
assert found == [0, 1, "failed"]

# Several generators at once: whichever is ready.
waiting = [blocks.remote(3), blocks.remote(2)]
num_blocks = 0
while waiting:
    ready, waiting = ray.wait(waiting, num_returns=1)
    try:
        ray.get(next(ready[0]))
        num_blocks += 1
        waiting.append(ready[0])
    except StopIteration:
        pass
assert num_blocks == 5


@ray.remote
class Reader:
    async def read(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    @ray.method(num_returns="streaming")
    def pages(self, n):
        for i in range(n):
            yield i * 1


async def consume():
    return [await ref async for ref in Reader.remote().read.remote(3)]


reader = Reader.remote()
assert asyncio.run(consume()) == [0, 1, 2]
assert [ray.get(ref) for ref in reader.pages.remote(2)] == [0, 1]
lazy = reader.pages.options(_generator_backpressure_num_objects=1).remote(3)
assert [ray.get(ref) for ref in lazy] == [0, 1, 2]

# The older form: one ref of all refs.
all_blocks = ray.get(blocks.options(num_returns="dynamic").remote(3))
assert isinstance(all_blocks, DynamicObjectRefGenerator)
assert [ray.get(ref)["block"] for ref in all_blocks] == [0, 1, 2]
assert [block["block"] for block in ray.get(blocks.options(num_returns=2).remote(2))] == [0, 1]

print("done")
sys.stdout.flush()
