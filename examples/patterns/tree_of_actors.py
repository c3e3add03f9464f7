"""Supervisors with actors of their own: three lines fitted at once, each by two workers.

What the manuals advise: when several things are trained, let an actor supervise the workers of each; it hides
them from the program and goes on when a worker fails. A program that drives all workers itself runs one after
the other.

What happens here: that works; actors start in milliseconds. The naive form, the program that drives all
workers, is as good as long as it asks all of them before it gets an answer, because a call costs it next to
nothing.
"""

import random

from side_by_side import compare, size

import grainwise as ray

STEPS = size(60, 8)
RATES = (0.1, 0.2, 0.4)
WORKERS = 2


@ray.remote
class Worker:
    """Holds a part of the points."""

    def __init__(self, seed):
        rng = random.Random(seed)
        xs = [rng.random() for _ in range(500)]
        self.points = [(x, 3.0 * x + 1.0 + rng.gauss(0, 0.1)) for x in xs]

    def gradient(self, slope, offset):
        """Return how the mean squared error grows with slope and offset."""
        errors = [(slope * x + offset - y, x) for x, y in self.points]
        return sum(e * x for e, x in errors) / len(errors), sum(e for e, _ in errors) / len(errors)


def step(line, rate, gradients):
    """Return the line, a step further down."""
    return tuple(
        value - rate * sum(each[i] for each in gradients) / len(gradients) for i, value in enumerate(line)
    )


@ray.remote
class Trainer:
    """Supervises the workers of one line."""

    def __init__(self, rate):
        self.rate = rate
        self.workers = [Worker.remote(seed) for seed in range(WORKERS)]

    def fit(self):
        """Return the line after all steps."""
        line = (0.0, 0.0)
        for _ in range(STEPS):
            line = step(line, self.rate, ray.get([worker.gradient.remote(*line) for worker in self.workers]))
        return line


def naive():
    """Drive all workers from here, step by step."""
    workers = [[Worker.remote(seed) for seed in range(WORKERS)] for _ in RATES]
    lines = [(0.0, 0.0)] * len(RATES)
    for _ in range(STEPS):
        asked = [[worker.gradient.remote(*line) for worker in team] for line, team in zip(lines, workers)]
        lines = [step(line, rate, ray.get(refs)) for line, rate, refs in zip(lines, RATES, asked)]
    return lines


def recommended():
    """Let supervisors do it."""
    trainers = [Trainer.remote(rate) for rate in RATES]
    return ray.get([trainer.fit.remote() for trainer in trainers])


compare(naive, recommended)
