"""The compiled loops against the array expressions that GPUs use."""

import numba
import pytest
import torch

from rlnlib import discretizations, elasticity
from rlnlib.fast import cores, elements, loops

LAME = ((1.0, 0.0), (0.0, 1.0))  # lambda and mu alone
SHAPES = [(5, 4, 6), (7, 7, 7), (2, 2, 2), (2, 3, 2)]


def random(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(cores, "_SHARE_VOXELS", 1)
    with cores.one_thread_of_torch("cpu", request.param):
        yield request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("discretization", ["rotated", "hex8", "bbar"])
def test_nodal_forces_are_those_of_the_convolution(discretization, shape, threads):
    matrices = [
        discretizations.KINDS[discretization].element_stiffness(elasticity.stiffness_from_lame(*lame)) for lame in LAME
    ]
    u, moduli = random(2, 3, *shape), random(2, 2, *shape, seed=1)
    expected = sum(
        discretizations.to_corners(discretizations.from_corners(matrix, u), moduli[:, p : p + 1])
        for p, matrix in enumerate(matrices)
    )
    blocks = elements.corner_modes(matrices)
    forces = elements.nodal_forces(u, moduli, blocks)
    assert torch.allclose(forces, expected, rtol=0, atol=1e-13)
    assert not torch.allclose(forces, expected.roll(1, 2), rtol=0, atol=1e-3)


def test_nodal_forces_have_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(cores, "_SHARE_VOXELS", 1)
    blocks = elements.corner_modes([discretizations.BBar.element_stiffness(elasticity.isotropic_stiffness(1.0, 0.3))])
    u, moduli = random(1, 3, 7, 5, 6, dtype=torch.float32), random(1, 1, 7, 5, 6, dtype=torch.float32)
    results = []
    for count in (1, 2, 16):
        with cores.one_thread_of_torch("cpu", count):
            results.append(elements.nodal_forces(u, moduli, blocks))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_corner_modes_refuse_an_anisotropic_element():
    stiffness = elasticity.isotropic_stiffness(1.0, 0.3)
    stiffness[0, 3] = stiffness[3, 0] = 0.2
    with pytest.raises(ValueError, match="not isotropic"):
        elements.corner_modes([discretizations.Hex8.element_stiffness(stiffness)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("discretization", ["rotated", "hex8", "bbar"])
def test_nodal_forces_by_label_are_those_of_the_convolution(discretization, shape, threads):
    roots = random(3, 6, 6) - 0.5
    element = discretizations.KINDS[discretization].element_stiffness
    matrices = [element(root @ root.T, (1.0, 0.5, 2.0)) for root in roots]
    u, labels = random(2, 3, *shape), (3 * random(2, *shape, seed=1)).long()
    expected = sum(
        discretizations.to_corners(discretizations.from_corners(matrix, u), (labels == p).double()[:, None])
        for p, matrix in enumerate(matrices)
    )
    forces = elements.nodal_forces_by_label(u, labels, elements.all_corner_modes(matrices))
    assert torch.allclose(forces, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(forces, expected.roll(1, 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_strain_is_that_of_the_element(shape):
    for spacing in ((1.0, 1.0, 1.0), (1.0, 0.5, 3.0)):
        u = random(2, 3, *shape)
        mean = discretizations.BBar.element_gradient(spacing).mean(0).flatten(1)
        expected = discretizations.from_corners(mean, u)
        assert torch.allclose(elements.mean_strain(u, spacing), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_products_and_updates_are_those_of_array_expressions(dtype, tolerance):
    a, b, c, d = (random(2, 3, 4, 5, 6, dtype=dtype, seed=seed) for seed in range(4))
    half = random(6, 4, 5, 6, dtype=dtype, seed=4)
    matrices = half[torch.tensor(elasticity.MANDEL_ROWS)]
    close = {"rtol": tolerance, "atol": tolerance}
    assert torch.allclose(loops.times_by_frequency(half, a), torch.einsum("ij...,bj...->bi...", matrices, a), **close)
    assert torch.allclose(loops.inner(a, b), (a * b).flatten(1).sum(1), **close)
    step = torch.tensor([0.5, -2.0], dtype=dtype)
    wide = step.view(2, 1, 1, 1, 1)
    expected = a + wide * c, b - wide * d
    turned = (d * wide).add_(c)
    other = d.clone()
    loops.turn(other, step, c)
    assert torch.equal(other, turned)  # to the last bit
    norms = loops.advance(a, b, step, c, d)
    assert torch.allclose(a, expected[0], **close) and torch.allclose(b, expected[1], **close)
    assert torch.allclose(norms.to(dtype), expected[1].flatten(1).norm(dim=1), **close)


def test_fields_that_are_not_contiguous_are_refused_instead_of_copied():
    a = random(2, 3, 4, 5, 6).transpose(2, 4)
    for call in (lambda: loops.inner(a, a), lambda: loops.turn(a, torch.ones(2), a)):
        with pytest.raises(numba.core.errors.TypingError, match="contiguous"):
            call()
