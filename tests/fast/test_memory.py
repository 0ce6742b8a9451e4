"""Memory that is handed on: tensors like any others, in blocks that were used before."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from rlnlib.fast import memory
from rlnlib.fast.environment import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]


def address(*shape, dtype=torch.float32):
    """Of a field that is given up at once."""
    return memory.empty(shape, dtype).data_ptr()


def test_a_block_is_used_again_once_nothing_refers_to_it():
    with memory.reused(torch.float32):
        first = memory.empty((2, 3, 4), torch.float32)
        first.fill_(7)
        kept, place = first[1], first.data_ptr()
        del first
        assert address(2, 3, 4) != place  # a view refers to it still
        assert bool((kept == 7).all())
        del kept
        assert place in {address(4, 3, 2), memory.empty((24,), torch.float32).data_ptr()}
        assert memory.empty_like(torch.empty(4, 6)).shape == (4, 6)
        pair = [memory.empty((5,), torch.float32) for _ in range(2)]
        assert pair[0].data_ptr() != pair[1].data_ptr()


def test_only_the_precision_of_the_loop_is_kept_and_only_within_it(monkeypatch):
    made, empty = [], torch.empty

    def counted(*shape, dtype):
        if dtype == torch.uint8:  # a block that is kept
            made.append(shape)
        return empty(*shape, dtype=dtype)

    monkeypatch.setattr(memory.torch, "empty", counted)
    with memory.reused(torch.float32):
        assert memory.empty((3,), torch.float64).dtype == torch.float64 and not made
        assert memory.empty((3,), torch.complex64).dtype == torch.complex64 and len(made) == 1
        with memory.reused(torch.float64):
            memory.empty((3,), torch.float64)
        assert len(made) == 2
        other = threading.Thread(target=lambda: memory.empty((3,), torch.float32))
        other.start()
        other.join()
        assert len(made) == 2  # each thread has its own
    memory.empty((3,), torch.float32)
    assert len(made) == 2


def test_a_field_outlives_the_loop():
    with memory.reused(torch.float64):
        field = memory.empty((1000,), torch.float64).fill_(3)
    others = [torch.zeros(1000, dtype=torch.float64) for _ in range(10)]
    assert bool((field == 3).all()) and len(others) == 10


LARGE = """
import multiprocessing, large_cell
tasks = [(large_cell.cell_of(64), "mixed", 50.0, rtol, 0) for rtol in (1e-4, 1e-8)]
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    for found in pool.imap(large_cell.measured, tasks):
        print(found["peak bytes a voxel"], found["iterations"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process as Linux gives it")
def test_a_large_cell_takes_at_most_350_bytes_a_voxel_whatever_its_iterations():
    """Of which the result has 120: strain, stress and displacement. Memory that breaks up would grow with each step.

    In a process for each tolerance, without the variables that `make test` sets.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    command = [sys.executable, "-c", LARGE]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, encoding="utf-8")
    (few, some), (many, more) = (map(int, line.split()) for line in found.stdout.splitlines())
    assert 150 < few <= 350 and 150 < many <= 350 and more > 1.5 * some
