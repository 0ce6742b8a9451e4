"""What the benchmarks share: clocks, and sides that take turns. `rlnlib.provenance` writes the records."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import rlnlib
from rlnlib import provenance
from rlnlib.fast.environment import restart_with_environment
from rlnlib.provenance import significant


def parse(question: str, **options) -> argparse.Namespace:
    """`rlnlib.provenance.parse`, in a process whose threads sleep while they wait and which keeps its memory."""
    restart_with_environment()
    return provenance.parse(question, **options)


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


def peak_memory(process: int | str = "self") -> int:
    """Largest resident memory of a process so far, by default of this one, in bytes (Linux).

    ``getrusage`` would not do: its number begins with the memory of the program that started the process.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def raw(seconds: dict[str, list[float]], cells: dict[str, float], compare=()) -> dict:
    """What a record holds of sides that took turns; `rlnlib.book.benchmarks` derives rates and ratios from it.

    Args:
        seconds: what :func:`measure` returned.
        cells: how many cells a side takes in a turn; sides that take none are left out.
        compare: pairs (ours, theirs) whose ratio is asked: how many times faster ours is.
    """
    spent = {name: [significant(s) for s in turns] for name, turns in seconds.items()}
    return {"seconds": spent, "cells": cells, "compare": [list(pair) for pair in compare]}


def solve_roughly(stiff, contrast: float, iterations: int, device: str = "cpu", **options) -> rlnlib.Solution:
    """So many iterations of conjugate gradients, without the warning that they have not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return rlnlib.solve_strain(stiff, contrast, max_iterations=iterations, device=device, **options)


#: Edge of the matrices of :func:`matrix_product`.
PRODUCT = 2048


def matrix_product(size: int = PRODUCT, device: str = "cpu", dtype=torch.float32) -> Callable[[], object]:
    """A matrix product of 2 size^3 operations, the measure of the machine's peak."""
    a = torch.randn(size, size, device=device).to(dtype)
    return lambda: a @ a
