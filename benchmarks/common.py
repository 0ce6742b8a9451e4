"""What the benchmarks share: clocks, sides that take turns, medians with their spread. Records: `rlnlib.provenance`."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable

# Threads that wait for each other by spinning take many times as long where another program wants the same core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import rlnlib
from rlnlib.provenance import significant


def measure(sides: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each side, which take turns so that a busy machine hits all of them; one round before warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            spent = timed(side, device)
            if repeat:
                seconds[name].append(spent)
    return seconds


def timed(side: Callable[[], object], device: str = "cpu") -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    side()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def summary(seconds: list[float], amount: float = 1.0) -> dict[str, float]:
    """Median, least and most of ``amount`` per second."""
    rates = [amount / s for s in seconds]
    return {name: significant(f(rates)) for name, f in (("median", statistics.median), ("least", min), ("most", max))}


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times faster ours is, turn by turn of one run."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def rates(seconds: dict[str, list[float]], amounts: dict[str, float], compare=()) -> dict:
    """What a record says of sides that took turns: seconds, cells of one turn, cells a second, and ratios.

    ``compare`` lists pairs (ours, theirs); the key "ours / theirs" has how many times faster ours is.
    """
    return {
        "seconds": {name: [significant(s) for s in spent] for name, spent in seconds.items()},
        "cells": amounts,
        "cells_per_second": {name: summary(seconds[name], amount) for name, amount in amounts.items()},
        "ratio": {
            f"{a} / {b}": ratios([s / amounts[a] for s in seconds[a]], [s / amounts[b] for s in seconds[b]])
            for a, b in compare
        },
    }


def slope(voxels, seconds) -> float:
    """Exponent p of seconds ~ voxels^p, by least squares on the logarithms."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (voxels, seconds))
    return significant(float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()))


def solve_roughly(stiff, contrast: float, iterations: int, device: str = "cpu", **options) -> rlnlib.Solution:
    """So many iterations of conjugate gradients, without the warning that they have not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return rlnlib.solve_strain(stiff, contrast, max_iterations=iterations, device=device, **options)


def matrix_product(size: int = 2048, device: str = "cpu", dtype=torch.float32) -> Callable[[], object]:
    """A matrix product of 2 size^3 operations, the measure of the machine's peak."""
    a = torch.randn(size, size, device=device).to(dtype)
    return lambda: a @ a
