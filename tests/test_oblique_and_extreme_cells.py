"""Cells whose answer is known without a solver, or that are hard for one: oblique laminates, extreme contrasts."""

import warnings

import pytest
import torch

import rlnlib
from rlnlib import elasticity, solvers
from rlnlib.green import DISCRETIZATIONS

LOAD = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
PHASES = [(1.0, 0.3), (20.0, 0.15)]


def oblique_laminate(normal, shape, stiff_planes):
    """Layers of voxels with one value of normal . x, modulo the first edge. Shape: -> (1, N1, N2, N3) int64."""
    grids = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    return ((sum(m * grid for m, grid in zip(normal, grids, strict=True)) % shape[0]) < stiff_planes).long()[None]


def rank_one_strain(labels, normal, phases, load):
    """e_h = E + a_h (x)_s n: the jump of the strain is of rank one, and the traction on n is the same in both layers.

    Shape: labels (1, N1, N2, N3) -> (1, 6, N1, N2, N3).
    """
    n = torch.tensor(normal, dtype=torch.float64) / torch.tensor(normal, dtype=torch.float64).norm()
    fraction = labels.double().mean()
    c = [elasticity.isotropic_stiffness(*phase) for phase in phases]

    def jump(a):
        return elasticity.mandel_from_tensor((torch.outer(a, n) + torch.outer(n, a)) / 2)

    def traction(matrix, strain):
        return elasticity.tensor_from_mandel(matrix @ strain) @ n

    unit = torch.eye(3, dtype=torch.float64)
    mixed = torch.stack([traction((1 - fraction) * c[1] + fraction * c[0], jump(a)) for a in unit], 1)
    a = torch.linalg.solve(mixed, traction(c[0] - c[1], load))
    strains = torch.stack([load - fraction * jump(a), load + (1 - fraction) * jump(a)])
    return strains[labels].movedim(-1, 1)


@pytest.mark.parametrize("normal", [(1, 1, 0), (1, -1, 0), (0, 1, 1), (1, 1, 1), (1, -1, 1)])
@pytest.mark.parametrize("name", ["continuous", "rotated"])
def test_laminates_along_diagonals_are_exact_where_derivatives_treat_all_axes_alike(name, normal):
    """On frequencies along a diagonal, the discrete derivative is parallel to it, if no Nyquist frequency is lost."""
    cells = oblique_laminate(normal, (7, 7, 7), 3)
    exact = rank_one_strain(cells, normal, PHASES, LOAD)
    solution = rlnlib.solve_strain(cells, phases=PHASES, macroscopic_strain=LOAD, discretization=name, rtol=1e-13)
    assert (solution.strain - exact).abs().max() < 1e-10
    other = rank_one_strain(cells, (1, 2, 0), PHASES, LOAD)
    assert (solution.strain - other).abs().max() > 0.1


def laminate_errors(name, normal, edge):
    """Mean error of the strain and error of the mean stress, both relative, of a laminate half stiff."""
    shape = (edge, edge, 2)
    cells = oblique_laminate(normal, shape, edge // 2)
    exact = rank_one_strain(cells, normal, PHASES, LOAD)
    table = torch.stack([elasticity.isotropic_stiffness(*phase) for phase in PHASES])
    stress = torch.einsum("bxyznm,bmxyz->bnxyz", table[cells], exact).mean((2, 3, 4))
    solution = rlnlib.solve_strain(cells, phases=PHASES, macroscopic_strain=LOAD, discretization=name, rtol=1e-9)
    strain_error = (solution.strain - exact).norm(dim=1).mean() / LOAD.norm()
    return float(strain_error), float((solution.effective_stress - stress).norm() / stress.norm())


@pytest.mark.parametrize("normal", [(1, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("name", ["hex8", "bbar"])
def test_oblique_laminates_converge_with_the_voxel_size(name, normal):
    """Interfaces are stairs of voxels, so the order is one."""
    strain, stress = zip(*[laminate_errors(name, normal, edge) for edge in (16, 32, 64)], strict=True)
    for errors in (strain, stress):
        assert 1.6 < errors[0] / errors[1] < 2.5 and 1.6 < errors[1] / errors[2] < 2.5
    assert strain[0] > 1e-3  # not exact


def cell_of(kind, shape=(4, 4, 4)):
    x, y, z = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    if kind == "checkerboard":
        return ((x + y + z) % 2 == 0)[None]
    if kind == "homogeneous":
        return torch.ones(1, *shape, dtype=torch.bool)
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) < 0.5


CASES = [
    ("random", 1.0),
    ("homogeneous", 50.0),
    ("homogeneous", 1e6),
    ("checkerboard", 50.0),
    ("checkerboard", 1e6),
    ("random", 1e6),
    ("random", 1e-6),
]


@pytest.mark.parametrize(("kind", "contrast"), CASES)
@pytest.mark.parametrize("solver", ["conjugate_gradient", *solvers.ITERATIONS])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_every_solver_answers_or_names_its_failure(name, solver, kind, contrast):
    arguments = {"discretization": name, "rtol": 1e-6, "max_iterations": 300, "macroscopic_strain": LOAD}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = rlnlib.solve_strain(cell_of(kind), contrast, solver=solver, **arguments)
    assert bool(solution.strain.isfinite().all()) and bool(solution.stress.isfinite().all())
    assert (solution.strain.mean((2, 3, 4)) - LOAD).abs().max() < 1e-9
    converged = bool(solution.converged)
    assert converged == (float(solution.residual) <= 1e-6)
    assert converged != any("cell 0 (residual" in str(w.message) for w in caught)
    if contrast == 1 or kind == "homogeneous":
        assert converged and (solution.strain - LOAD.view(1, 6, 1, 1, 1)).abs().max() < 1e-12
    if solver == "conjugate_gradient":
        assert converged
    elif converged and contrast == 50:
        # At extreme contrasts a small y - Phi(y) says little of the stress.
        expected = rlnlib.solve_strain(cell_of(kind), contrast, **{**arguments, "rtol": 1e-9, "max_iterations": 2000})
        error = (solution.effective_stress - expected.effective_stress).norm() / expected.effective_stress.norm()
        assert error < 1e-3
