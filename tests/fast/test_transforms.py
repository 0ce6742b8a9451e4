"""The dense transforms, written as sums, differences and small matrices, against their definition."""

import math

import pytest
import torch

from rlnlib.fast import transforms


def cas(n, sign):
    k = torch.arange(n, dtype=torch.float64)
    angle = 2 * math.pi / n * torch.outer(k, k)
    return (torch.cos(angle) + sign * torch.sin(angle)) / math.sqrt(n)


# Odd, even and divisible by four; the last ones with more rows than are worked on together.
@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 6, 8), (7, 2, 9), (31, 10, 12), (4, 20, 33), (3, 128, 17)])
def test_the_transform_is_that_of_cosines_and_sines_and_its_own_inverse(shape):
    hartley = transforms.Hartley(shape)
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hartley.forward(field)
    for i in range(3):
        matrices = [cas(n, -1 if i == axis else 1) for axis, n in enumerate(shape)]
        expected = torch.einsum("ax,by,cz,nxyz->nacb", *matrices, field[:, i])
        assert (found[:, i] - expected).abs().max() < 1e-12
        assert (found[:, i] - field[:, i].mT).abs().max() > 0.1
    assert (hartley.back(found) - field).abs().max() < 1e-13
    single = hartley.back(hartley.forward(field.float()))
    assert (single - field).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 5, 5), (4, 4, 4), (7, 3, 5), (3, 127, 128)])
def test_a_field_without_numbers_leaves_the_next_one_alone(shape):
    hartley = transforms.Hartley(shape)
    field = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    alone = hartley.forward(field[1:])
    field[0] = math.nan
    assert torch.equal(hartley.forward(field)[1:], alone)
