"""Kernels fitted to data: against kernels that are known, and against least squares without Fourier transforms."""

import pytest
import torch

import rlnlib
from rlnlib import green, lippmann_schwinger, regression, rln


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 5, 6), (5, 3, 7)])
def test_kernels_that_made_the_data_are_found_again(shape):
    kernels, fields = random(2, 3, *shape), random(9, 3, *shape, seed=1)
    found = regression.fit_kernels(fields, lippmann_schwinger.convolve(kernels, fields))
    assert (found - kernels).abs().max() < 1e-11


def test_fewer_cells_than_fields_do_not_determine_the_kernels():
    kernels, fields = random(1, 3, 4, 4, 4), random(2, 3, 4, 4, 4, seed=1)
    found = regression.fit_kernels(fields, lippmann_schwinger.convolve(kernels, fields))
    assert (found - kernels).abs().max() > 0.1 and found.norm() < kernels.norm()  # the least norm


def test_the_fit_is_that_of_least_squares_on_the_voxels():
    """The same problem as one dense system: a column for each voxel of the kernel."""
    fields, target = random(6, 1, 3, 2, 3), random(6, 1, 3, 2, 3, seed=1)
    shifts = [(i, j, k) for i in range(3) for j in range(2) for k in range(3)]
    columns = torch.stack([fields[:, 0].roll(s, (1, 2, 3)).flatten() for s in shifts], 1)
    dense = torch.linalg.lstsq(columns, target.flatten()[:, None]).solution
    assert (regression.fit_kernels(fields, target).flatten() - dense[:, 0]).abs().max() < 1e-11


def test_two_phases_share_their_kernel_as_they_do_with_the_medium_in_the_middle():
    """Only k^1 - k^0 can be learned; the least norm gives each phase half, as C^R in the middle of both does."""
    cells = rlnlib.generate_cells(12, size=6, grain_size=(1, 3), seed=3)
    indicators = rln.phase_indicators(cells, torch.float64)
    strain = rlnlib.solve_strain(cells, 3.0, rtol=1e-8).strain[:, :1] - 1
    soft, stiff = regression.fit_kernels(indicators, strain)[0]
    assert (soft + stiff).abs().max() < 1e-10 < stiff.abs().max()


def test_at_weak_contrast_the_learned_kernel_is_that_of_the_equation():
    contrast = 1.001
    cells = rlnlib.generate_cells(40, size=6, grain_size=(1, 3), seed=3)
    indicators = rln.phase_indicators(cells, torch.float64)
    strain = rlnlib.solve_strain(cells, contrast, rtol=1e-11).strain[:, :1] - 1
    learned = regression.fit_kernels(indicators, strain)[0]
    operator = green.GreenOperator((6, 6, 6), "bbar", (1 + contrast) / 2, 0.3)
    gamma = lippmann_schwinger.phase_kernels(operator, [(1.0, 0.3), (contrast, 0.3)])[:, 0, 0]
    gamma = gamma - gamma.mean((1, 2, 3), keepdim=True)
    assert (learned + gamma).abs().max() < 1e-3 * gamma.abs().max()


@pytest.mark.parametrize("target", [(2, 1, 4, 4, 5), (3, 1, 4, 4, 4), (2, 4, 4, 4)])
def test_arrays_that_do_not_fit_together_are_refused(target):
    with pytest.raises(ValueError, match="must have the shapes"):
        regression.fit_kernels(torch.ones(2, 2, 4, 4, 4), torch.ones(target))
