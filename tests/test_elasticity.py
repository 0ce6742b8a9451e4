import itertools
import math

import numpy as np
import pytest
import torch

from rlnlib import bounds, elasticity, engineering

PHASES = [(1.0, 0.3), (50.0, 0.2)]


def close(a, b, tolerance=1e-13):
    """Largest difference, relative to the largest value."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def random_tensor(seed=0):
    tensor = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tensor + tensor.T


def test_mandel_vectors_keep_the_scalar_product_and_come_back():
    a, b = random_tensor(1), random_tensor(2)
    va, vb = engineering.mandel_from_tensor(a), engineering.mandel_from_tensor(b)
    assert close((va * vb).sum(), (a * b).sum())
    assert close(engineering.tensor_from_mandel(va), a)


def test_isotropic_stiffness_is_hookes_law_for_tensors():
    strain = random_tensor(3)
    lam, mu = elasticity.lame_parameters(7.0, 0.25)
    stress = lam * strain.trace() * torch.eye(3, dtype=torch.float64) + 2 * mu * strain
    by_matrix = elasticity.isotropic_stiffness(7.0, 0.25) @ engineering.mandel_from_tensor(strain)
    assert close(by_matrix, engineering.mandel_from_tensor(stress))
    assert not close(
        elasticity.isotropic_stiffness(7.0, 0.26) @ engineering.mandel_from_tensor(strain), by_matrix, 1e-3
    )


def test_voigt_notation_converts_to_mandel():
    lam, mu = elasticity.lame_parameters(7.0, 0.25)
    voigt = torch.zeros(6, 6, dtype=torch.float64)
    voigt[:3, :3] = lam
    voigt += torch.diag(torch.tensor([2 * mu] * 3 + [mu] * 3, dtype=torch.float64))
    assert close(engineering.mandel_from_voigt(voigt), elasticity.isotropic_stiffness(7.0, 0.25))
    assert not close(voigt, elasticity.isotropic_stiffness(7.0, 0.25), 1e-3)


def test_bounds_are_ordered():
    stiffnesses = [elasticity.isotropic_stiffness(*phase) for phase in PHASES]
    lower, upper = bounds.hashin_shtrikman_bounds(PHASES, [0.7, 0.3])
    ordered = [
        bounds.reuss_bound(stiffnesses, [0.7, 0.3]),
        lower,
        upper,
        bounds.voigt_bound(stiffnesses, [0.7, 0.3]),
    ]
    for below, above in itertools.pairwise(ordered):
        assert torch.linalg.eigvalsh(above - below).min() > 0.01


def test_bounds_of_one_phase_are_that_phase():
    c = elasticity.isotropic_stiffness(3.0, 0.1)
    lower, upper = bounds.hashin_shtrikman_bounds([(3.0, 0.1), (9.0, 0.3)], [1.0, 0.0])
    for bound in (lower, upper, bounds.reuss_bound([c, 9 * c], [1, 0]), bounds.voigt_bound([c, 9 * c], [1, 0])):
        assert close(bound, c)


@pytest.mark.parametrize(
    "call",
    [
        lambda: elasticity.isotropic_stiffness(0, 0.3),
        lambda: elasticity.isotropic_stiffness(1, 0.5),
        lambda: elasticity.isotropic_stiffness(1, float("nan")),
        lambda: engineering.mandel_from_tensor(torch.zeros(3, 2)),
        lambda: engineering.mandel_from_tensor(torch.arange(9.0).view(3, 3)),
        lambda: engineering.tensor_from_mandel(torch.zeros(5)),
        lambda: engineering.mandel_from_voigt(torch.zeros(6)),
        lambda: bounds.voigt_bound([torch.eye(6)], [0.5]),
        lambda: bounds.voigt_bound([torch.eye(6)] * 2, [1.5, -0.5]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_whole_numbers_keep_their_shears():
    """An integer type would cut 1 / sqrt(2) to 0."""
    strain = [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    vector = engineering.mandel_from_tensor(strain)
    assert engineering.tensor_from_mandel([0, 0, 0, 1, 0, 0])[1, 2] == pytest.approx(math.sqrt(0.5))
    assert vector.tolist() == pytest.approx([0, 0, 0, math.sqrt(2), 0, 0])
    assert engineering.voigt_from_mandel(np.eye(6, dtype=int))[3, 3] == pytest.approx(0.5)
    assert engineering.mandel_from_voigt(np.eye(6, dtype=int))[0, 0] == 1


@pytest.mark.parametrize("matrix", [None, "no", [[1, 2], [3]], 10**400, np.full((6, 6), np.nan), np.eye(6) * 1j, len])
def test_what_is_no_stiffness_is_refused_by_name(matrix):
    with pytest.raises(ValueError, match="stiffness"):
        engineering.engineering_constants(matrix)


def test_a_stiffness_may_be_big_endian_or_flipped():
    stiffness = elasticity.isotropic_stiffness(2.0, 0.3).numpy()
    for given in (stiffness.astype(">f8"), stiffness[::-1, ::-1][::-1, ::-1], stiffness.astype(np.float16)):
        assert engineering.engineering_constants(given)["E1"].item() == pytest.approx(2.0, rel=1e-3)
