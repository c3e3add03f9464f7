"""Tasks that start tasks: a sort that divides, a tree sum, futures handed around."""

import random

import ray

ray.init(num_cpus=2)


def partition(items):
    pivot = items[len(items) // 2]
    return [i for i in items if i < pivot], [i for i in items if i == pivot], [i for i in items if i > pivot]


@ray.remote
def sort_remotely(items):
    if len(items) <= 500:
        return sorted(items)
    lower, same, higher = partition(items)
    ordered = ray.get([sort_remotely.remote(lower), sort_remotely.remote(higher)])
    return ordered[0] + same + ordered[1]


@ray.remote
def add(left, right):
    return left + right


@ray.remote
def start_one():
    return add.remote(1, 2)


@ray.remote
def get_inside(refs):
    return sum(ray.get(refs))


random.seed(1)
numbers = [random.randrange(10_000) for _ in range(5000)]
assert ray.get(sort_remotely.remote(numbers)) == sorted(numbers)

level = [ray.put(i) for i in range(16)]
while len(level) > 1:
    level = [add.remote(level[i], level[i + 1]) for i in range(0, len(level), 2)]
assert ray.get(level[0]) == sum(range(16))

assert ray.get(ray.get(start_one.remote())) == 3
assert ray.get(get_inside.remote([add.remote(i, i) for i in range(5)])) == 20
print("done")
