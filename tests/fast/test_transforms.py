"""The dense transforms, written as sums, differences and small matrices, against their definition."""

import math
import os
import subprocess
import sys

import pytest
import torch

from rlnlib.fast import cores, transforms

# Odd, even, divisible by four and prime; shorter than a vector, as long, longer; more rows than are worked on together.
SHAPES = [(n, n, n) for n in (6, 7, 8, 12, 16, 17, 31, 32, 33, 48, 62, 64)]
SHAPES += [(2, 64, 64), (64, 2, 64), (64, 64, 2), (2, 3, 4), (7, 2, 9), (31, 10, 12), (4, 20, 33), (3, 128, 17)]


def cas(n, sign):
    k = torch.arange(n, dtype=torch.float64)
    angle = 2 * math.pi / n * torch.outer(k, k)
    return (torch.cos(angle) + sign * torch.sin(angle)) / math.sqrt(n)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_that_of_cosines_and_sines_and_its_own_inverse(shape):
    hartley = transforms.Hartley(shape)
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, single = hartley.forward(field), hartley.forward(field.float())
    for i in range(3):
        expected = field[:, i]
        for axis, n in enumerate(shape):  # each goes from the first place to the last
            expected = torch.tensordot(expected, cas(n, -1 if i == axis else 1), dims=([1], [1]))
        assert (found[:, i] - expected.mT).abs().max() < 1e-12
        assert (single[:, i] - expected.mT).abs().max() < 1e-5
        assert (found[:, i] - field[:, i].mT).abs().max() > 0.1
    assert (hartley.back(found) - field).abs().max() < 1e-13
    assert (hartley.back(single) - field).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(7, 3, 5), (12, 12, 12), (17, 33, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_transform_has_the_same_bits_on_any_number_of_threads(shape, dtype, monkeypatch):
    monkeypatch.setattr(cores, "_SHARE_VOXELS", 1)
    hartley = transforms.Hartley(shape)
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    alone = hartley.forward(field)
    back = hartley.back(alone)
    for count in (2, 4, 16):
        with cores.one_thread_of_torch("cpu", count):
            assert torch.equal(hartley.forward(field), alone) and torch.equal(hartley.back(alone), back)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 5, 5), (4, 4, 4), (7, 3, 5), (3, 127, 128)])
def test_a_field_without_numbers_leaves_the_next_one_alone(shape):
    hartley = transforms.Hartley(shape)
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    alone = hartley.forward(field[1:])
    field[0] = math.nan
    assert torch.equal(hartley.forward(field)[1:], alone)


def test_short_vectors_do_the_same():
    """In a process whose loops are compiled for a processor without AVX-512."""
    code = """
import sys, pytest
from rlnlib.fast import _vectors
assert _vectors.LANES == 8
sys.exit(pytest.main(sys.argv[1:]))
"""
    arguments = ["-q", "-p", "no:cacheprovider", "-k", "not short_vectors", __file__]
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, timeout=600)
