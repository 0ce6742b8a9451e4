import dataclasses
import math

import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import elasticity, green, lippmann_schwinger, other_physics, solvers, voxel_fe
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.discretizations import DISCRETIZATIONS
from rlnlib.problem import CellProblem

LOAD = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
PHASES = [(1.0, 0.2), (8.0, 0.35)]

pytestmark = pytest.mark.usefixtures("twin")


def random_like(field, seed=0):
    return torch.randn(field.shape, generator=torch.Generator().manual_seed(seed), dtype=field.dtype)


def finite_element_strain(cells, operator, phases=PHASES, load=LOAD):
    """Strain at the integration points, from the conjugate gradients on displacements."""
    loads = load.expand(len(cells), 6)
    problem = voxel_fe.VoxelProblem(CellProblem(cells.long(), phases, loads), operator)
    u, _ = conjugate_gradient(problem, solvers.StoppingRule(1e-13))
    return operator.gradient(u) + loads[:, None, :, None, None, None]


@pytest.mark.parametrize("reference", [None, (3.0, 0.1), (0.2, 0.45)])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_the_finite_element_strain_solves_eq_10_for_any_reference_medium(name, reference, random_cells):
    cells = random_cells(2, 5, 4, 3)
    y = finite_element_strain(cells, green.GreenOperator((5, 4, 3), name))
    equation = lippmann_schwinger.elastic_equation(
        cells.long(), phases=PHASES, macroscopic_strain=LOAD, discretization=name, reference=reference
    )
    assert equation.residual(y).abs().max() < 1e-10
    assert equation.governing(y).abs().max() < 1e-10
    assert equation.residual(equation.reference).abs().max() > 0.1


@pytest.mark.parametrize("name", ["continuous", "rotated"])
@pytest.mark.parametrize("shape", [(5, 5, 5), (4, 6, 3)])
def test_phi_is_a_convolution_with_the_kernels_of_eq_11(name, shape, random_cells):
    cells = random_cells(2, *shape)
    equation = lippmann_schwinger.elastic_equation(
        cells.long(), phases=PHASES, macroscopic_strain=LOAD, discretization=name, reference=(3.0, 0.1)
    )
    y = random_like(equation.reference)
    kernels = lippmann_schwinger.phase_kernels(green.GreenOperator(shape, name, 3.0, 0.1), PHASES)
    parts = [
        lippmann_schwinger.convolve(kernel, (cells == bool(h))[:, None] * y[:, 0]) for h, kernel in enumerate(kernels)
    ]
    assert (equation.reference[:, 0] - sum(parts) - equation.phi(y)[:, 0]).abs().max() < 1e-12


def test_kernels_depend_on_the_reference_medium():
    kernels = [
        lippmann_schwinger.phase_kernels(green.GreenOperator((5, 5, 5), "rotated", young), PHASES) for young in (1, 4)
    ]
    assert kernels[0].shape == (2, 6, 6, 5, 5, 5)
    assert (kernels[0] - kernels[1]).abs().max() > 0.1


EQUATIONS = [*DISCRETIZATIONS, "conduction", "scattering"]


def make_equation(make, cells):
    """One of the three equations; elasticity by the name of its discretization."""
    if make == "conduction":
        return other_physics.conduction_equation(cells, [1.0, 5.0])
    if make == "scattering":
        potential = torch.rand(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return other_physics.scattering_equation(potential, wavenumber=2.0, spacing=0.3)
    return lippmann_schwinger.elastic_equation(cells.long(), phases=PHASES, discretization=make)


@pytest.mark.parametrize("make", EQUATIONS)
def test_transpose_and_green_function_belong_to_the_equation(make, random_cells):
    equation = make_equation(make, random_cells(2, 5, 4, 3))
    y, r = random_like(equation.reference, 1), random_like(equation.reference, 2)
    image, back = equation.linearized(y), equation.gradient(r)
    assert abs((r * image).sum() - (y * back).sum()) < 1e-12 * r.norm() * image.norm()
    assert abs((r * image).sum() - (y * equation.linearized(r)).sum()) > 1e-4 * r.norm() * image.norm()
    b = equation.heterogeneous(y)
    # For scattering L_a y includes the incoming wave, which L_a annihilates.
    field = equation.green(b) + (equation.reference if make == "scattering" else 0)
    assert (equation.linear(field) - b).abs().max() < 1e-11 * max(1, float(b.abs().max()))
    assert equation.linear(equation.reference).abs().max() < 1e-12
    assert equation.linear(y).abs().max() > 0.1


@pytest.mark.parametrize("make", EQUATIONS)
def test_gradient_is_that_of_eq_24_by_finite_differences(make, random_cells):
    equation = make_equation(make, random_cells(2, 3, 4, 3))
    y, direction = random_like(equation.reference, 1), random_like(equation.reference, 2)

    def loss(t):
        return 0.5 * equation.residual(y + t * direction).square().sum()

    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert abs((equation.gradient(equation.residual(y)) * direction).sum() / slope - 1) < 1e-8
    # Without the transpose, as eq. 27 stands in the paper, it is another direction.
    literal = (equation.linearized(equation.residual(y)) * direction).sum()
    assert abs(literal / slope - 1) > 1e-3


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_single_precision_solves_the_equation_of_the_double_one(name, random_cells):
    fields = []
    for dtype in (torch.float32, torch.float64):
        equation = lippmann_schwinger.elastic_equation(random_cells(2, 5, 4, 3), 10.0, discretization=name, dtype=dtype)
        y, statistics = solvers.iterate(equation, solvers.anderson(equation), solvers.StoppingRule(1e-5))
        assert y.dtype == dtype and bool(statistics.converged.all())
        fields.append(y.double())
    assert 0 < (fields[0] - fields[1]).abs().max() < 1e-4
    assert (fields[0] - equation.reference).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(5, 5, 5), (4, 6, 3)])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_greens_function_answers_an_impulse_and_a_wrong_one_does_not(name, shape, random_cells):
    """L_a G = delta (eqs. 5 and 15), less what no stress can balance: the mean and, for even N, hourglasses."""
    equation = lippmann_schwinger.elastic_equation(random_cells(1, *shape), 10.0, discretization=name)
    delta = torch.zeros(1, 3, *shape, dtype=torch.float64)
    delta[0, 1, 2, 0, 1] = 1
    answer = equation.linear(equation.green(delta))
    lost = delta - answer
    assert equation.green(lost).abs().max() < 1e-13  # what is missing is what G cannot see
    if all(n % 2 for n in shape) or name in ("hex8", "bbar"):
        assert (lost - delta.mean((2, 3, 4), keepdim=True)).abs().max() < 1e-13
    wrong = lippmann_schwinger.elastic_equation(
        random_cells(1, *shape), 10.0, discretization=name, reference=(1.0, 0.1)
    )
    assert (equation.linear(wrong.green(delta)) - answer).abs().max() > 0.1


def test_heat_flows_through_layers_in_series_and_parallel():
    cells = np.zeros((1, 4, 4, 3), dtype=bool)
    cells[:, :1] = True
    for axis, mean, effective in ((0, (1.0, 0, 0), 1 / (0.75 + 0.25 / 9)), (1, (0, 1.0, 0), 0.75 + 9 * 0.25)):
        equation = other_physics.conduction_equation(cells, [1.0, 9.0], mean)
        y, statistics = solvers.iterate(equation, solvers.moulinec(equation), solvers.StoppingRule(1e-12))
        flux = torch.where(torch.from_numpy(cells)[:, None], 9.0, 1.0) * y
        assert bool(statistics.converged.all())
        assert abs(float(flux[0, axis].mean()) - effective) < 1e-10


@pytest.mark.parametrize("height", [0.5, 3.0, 30.0])
def test_a_wave_is_transmitted_by_a_barrier_as_the_exact_solution_says(height):
    k, width = 2.0, 1.0
    inner = np.sqrt(complex(k**2 - height))
    exact = 1 / (np.cos(inner * width) - 0.5j * (inner / k + k / inner) * np.sin(inner * width))

    def error(points):
        h = width / points
        equation = other_physics.scattering_equation(torch.full((1, points), height), k, h)
        y, statistics = solvers.iterate(equation, solvers.anderson(equation, 20), solvers.StoppingRule(1e-11))
        assert bool(statistics.converged.all())
        phase = math.acos(1 - (k * h) ** 2 / 2)
        transmitted = complex(*y[0, :, -1, 0, 0]) * np.exp(-1j * phase * (points - 1))
        return abs(abs(transmitted) - abs(exact))

    assert error(100) < 2e-3
    assert error(200) < 0.3 * error(100)  # second order


def test_the_born_series_of_a_strong_potential_diverges():
    equation = other_physics.scattering_equation(torch.full((1, 100), 30.0), 2.0, 0.01)
    _, statistics = solvers.iterate(equation, solvers.moulinec(equation), solvers.StoppingRule(1e-8))
    assert not bool(statistics.converged.any()) and statistics.residuals[0, -1] > 1e5


def test_a_field_changed_in_place_is_not_taken_for_the_last_one(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 3, 3, 3), 5.0)
    y = equation.reference.clone()
    before = equation.residual(y)
    y *= 2
    assert (equation.perturbation(y) + 2 * before).abs().max() < 1e-13


def test_an_equation_with_another_b_does_not_remember_the_first(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 3, 3, 3), 5.0)
    before = equation.residual(equation.reference)
    other = dataclasses.replace(equation, heterogeneous=lambda y: 3 * equation.heterogeneous(y))
    assert (other.residual(equation.reference) - 3 * before).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lippmann_schwinger.elastic_equation(np.zeros((1, 3, 3, 3), bool), 5.0, reference=(1,)), "reference"),
        (lambda: other_physics.conduction_equation(np.zeros((1, 3, 3, 3), bool), [1.0, -1.0]), "conductivity"),
        (lambda: other_physics.conduction_equation(np.full((1, 3, 3, 3), 2), [1.0, 2.0]), "labels"),
        (lambda: other_physics.conduction_equation(np.zeros((1, 3, 3, 3), bool), [1, 2], (1, 0)), "three"),
        (lambda: other_physics.conduction_equation(np.zeros((1, 3, 3, 3), bool), [1, 1e308]), "conductivity"),
        (lambda: other_physics.conduction_equation(np.zeros((1, 3, 3, 3), bool), [5e-324, 1]), "conductivity"),
        (lambda: other_physics.conduction_equation(np.zeros((1, 3, 3, 3), bool), 2), "conductivities"),
        (lambda: other_physics.scattering_equation(torch.zeros(4), 1.0, 0.1), "shape"),
        (lambda: other_physics.scattering_equation(torch.zeros(1, 4), 1e-320, 0.1), "wavenumber"),
        (lambda: green.GreenOperator((3, 3, 3), young=1e-320), "young"),
        (lambda: other_physics.scattering_equation(torch.zeros(1, 4), 3.0, 1.0), "Refine"),
        (lambda: other_physics.scattering_equation(torch.full((1, 4), math.nan), 3.0, 0.1), "finite"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_potential_may_be_a_flipped_view_and_a_wave_may_be_long():
    potential = np.linspace(0, 1, 7)[None]
    flipped = other_physics.scattering_equation(potential[:, ::-1], 1.0, 0.1)
    copied = other_physics.scattering_equation(potential[:, ::-1].copy(), 1.0, 0.1)
    assert torch.equal(flipped.phi(flipped.reference), copied.phi(copied.reference))
    long = other_physics.scattering_equation(potential, 1e-30, 0.1)
    assert bool(long.phi(long.reference).isfinite().all())


def test_an_equation_without_transpose_says_so(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 3, 3, 3), 5.0)
    equation.transpose = None
    with pytest.raises(ValueError, match="transpose"):
        equation.gradient(equation.reference)


def test_the_midpoint_medium_is_between_the_phases():
    young, poisson = elasticity.midpoint_medium([(1.0, 0.3), (9.0, 0.3)])
    assert young == pytest.approx(5.0) and poisson == pytest.approx(0.3)
    assert rlnlib.solve_strain(np.eye(3, dtype=bool)[None, None].repeat(3, 1), 5.0, reference=(2.0, 0.1)).converged
