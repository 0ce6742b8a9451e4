"""What users give of a cell: units, loads, edges of a voxel; and that the process stays as it was."""

import math
import pickle
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import discretizations, engineering, problem, solvers
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.discretizations import DISCRETIZATIONS
from rlnlib.green import GreenOperator
from rlnlib.solution import Solution, join
from rlnlib.voxel_fe import VoxelProblem

NAN = math.nan
LOAD = [1.0, -0.5, 0.3, 0.4, -0.2, 0.7]


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_a_discretization_can_be_sent_to_another_process(name):
    grid = discretizations.make(name, (4, 5, 3))
    displacement = torch.randn(1, 3, 4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = grid.gradient(displacement)
    assert torch.equal(pickle.loads(pickle.dumps(grid)).gradient(displacement), expected)


FANS = ["two_phases", "hex8", "shear_load", "three_phases", "spacing", "uniaxial_stress"]


@pytest.mark.reference
@pytest.mark.parametrize("name", FANS)
def test_fields_are_those_of_an_independent_program(name, reference_data):
    with np.load(reference_data / "fans_fields.npz") as data:
        given = {key.split("/")[1]: data[key] for key in data if key.startswith(f"{name}/")}
    load = {"macroscopic_strain": given["mean_strain"]}
    if name == "uniaxial_stress":
        load = {"macroscopic_strain": [given["mean_strain"][0]] + [NAN] * 5, "macroscopic_stress": [NAN] + [0.0] * 5}
    phases = [(float(young), float(nu)) for young, nu in given["phases"]]
    kind = "hex8" if name == "hex8" else "bbar"
    arguments = {"phases": phases, "discretization": kind, "rtol": 1e-11, **load}
    solution = rlnlib.solve_strain(given["labels"], spacing=given["spacing"], **arguments)
    truth = torch.from_numpy(given["strain"])
    assert bool(solution.converged) and (solution.strain[0] - truth).abs().max() < 1e-8 * truth.abs().max()
    mean_stress = torch.from_numpy(given["mean_stress"])
    assert (solution.effective_stress[0] - mean_stress).abs().max() < 1e-7 * mean_stress.abs().max()
    # The check can fail: cubes are other voxels, and another element has other fields.
    other = {"spacing": (1, 1, 1)} if name == "spacing" else {"discretization": "rotated"}
    other_strain = rlnlib.solve_strain(given["labels"], **{"spacing": given["spacing"], **arguments, **other}).strain
    assert (other_strain[0] - truth).abs().max() > 1e-3 * truth.abs().max()


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_moduli_in_pascal_and_small_strains_give_the_same_field(name, random_cells):
    cells = random_cells(2, 6, 5, 7)
    near_one = rlnlib.solve_strain(cells.long(), phases=[(2.0, 0.3), (10.0, 0.2)], discretization=name, rtol=1e-9)
    load = torch.zeros(2, 6, dtype=torch.float64)
    for unit, size in ((1e11, 1e-3), (1e11, 1e20), (1e-30, 1e-20), (1e-12, 1e-150), (1.0, 1e100)):
        load[:, 0] = torch.tensor([size, -3 * size], dtype=torch.float64)  # each cell has a unit of its own
        phases = [(2.0 * unit, 0.3), (10.0 * unit, 0.2)]
        scaled = rlnlib.solve_strain(
            cells.long(), phases=phases, discretization=name, rtol=1e-9, macroscopic_strain=load
        )
        assert bool(scaled.converged.all())
        for field in ("strain", "stress", "effective_stress", "displacement"):
            expected = getattr(near_one, field) * (unit if "stress" in field else 1)
            for got, want, factor in zip(getattr(scaled, field), expected, (size, -3 * size), strict=True):
                assert (got - factor * want).abs().max() < 1e-7 * abs(factor) * want.abs().max()


def test_a_steel_in_pascal_converges_in_float32_at_the_papers_size():
    cell = rlnlib.generate_cells(1, size=31, seed=1)
    solution = rlnlib.solve_strain(cell.astype(int), phases=[(2e11, 0.3), (1e12, 0.3)], rtol=1e-6)
    expected = rlnlib.solve_strain(cell, 5.0, rtol=1e-6)
    assert bool(solution.converged) and (solution.strain - expected.strain).abs().max() < 1e-5


def test_the_absolute_tolerance_is_in_the_users_units(random_cells):
    cells = random_cells(1, 5, 5, 5).long()
    phases = [(2e11, 0.3), (1e12, 0.3)]
    start = rlnlib.solve_strain(cells, phases=phases, macroscopic_strain=[1e-3, 0, 0, 0, 0, 0], atol=1e30)
    assert bool(start.converged) and int(start.iterations) == 0
    few = rlnlib.solve_strain(cells, phases=phases, macroscopic_strain=[1e-3, 0, 0, 0, 0, 0], atol=1e6)
    many = rlnlib.solve_strain(cells, phases=phases, macroscopic_strain=[1e-3, 0, 0, 0, 0, 0], atol=1e2)
    assert 0 < int(few.iterations) < int(many.iterations)


def test_the_absolute_tolerance_is_a_nodal_force_in_the_unit_of_stress_over_length(random_cells):
    """A cell measured in another unit of length takes the same iterations where atol is in that unit, too."""
    cells = random_cells(1, 5, 5, 5)
    found = [rlnlib.solve_strain(cells, 10.0, rtol=0, atol=1e-3 / h, spacing=(h, h, h)) for h in (1.0, 1e-6, 1e3)]
    assert len({int(solution.iterations) for solution in found}) == 1
    other = rlnlib.solve_strain(cells, 10.0, rtol=0, atol=1e-3, spacing=(1e-6, 1e-6, 1e-6))
    assert int(other.iterations) > int(found[0].iterations)


@pytest.mark.parametrize(
    ("load", "dtype"), [(1e100, torch.float32), (1e-150, torch.float32), (1e305, "mixed"), (5e-324, torch.float64)]
)
def test_a_load_whose_fields_the_precision_cannot_hold_is_refused(load, dtype, random_cells):
    with pytest.raises(ValueError, match="range of torch"):
        rlnlib.solve_strain(random_cells(1, 4, 4, 4), 10.0, macroscopic_strain=[load, 0, 0, 0, 0, 0], dtype=dtype)


def test_without_load_nothing_is_strained(random_cells):
    solution = rlnlib.solve_strain(random_cells(1, 4, 4, 4), 10.0, macroscopic_strain=[0.0] * 6)
    assert bool(solution.converged) and not bool(solution.strain.any()) and not bool(solution.displacement.any())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.5, 3.0)])
@pytest.mark.parametrize("solver", ["conjugate_gradient", "anderson"])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_the_displacement_has_the_strain_of_the_solution(name, solver, spacing, random_cells):
    cells = random_cells(1, 5, 4, 3)
    unit = 1e-6  # a metre is not a micrometre
    solution = rlnlib.solve_strain(
        cells,
        5.0,
        macroscopic_strain=LOAD,
        discretization=name,
        solver=solver,
        spacing=[unit * edge for edge in spacing],
        rtol=1e-11,
    )
    b = discretizations.make(name, cells.shape[1:], [unit * edge for edge in spacing])
    strain = b.gradient(solution.displacement).mean(1) + torch.tensor(LOAD, dtype=torch.float64).view(1, 6, 1, 1, 1)
    assert (strain - solution.strain).abs().max() < 1e-8
    assert solution.displacement.mean((2, 3, 4)).abs().max() < 1e-6 * unit


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_only_the_ratios_of_the_edges_matter_and_they_do(name, random_cells):
    cells = random_cells(1, 6, 4, 5)
    arguments = {"contrast": 10.0, "discretization": name, "macroscopic_strain": LOAD, "rtol": 1e-11}
    one, other = (rlnlib.solve_strain(cells, spacing=s, **arguments).strain for s in ((1, 2, 3), (0.3, 0.6, 0.9)))
    assert (one - other).abs().max() < 1e-8
    assert (one - rlnlib.solve_strain(cells, **arguments).strain).abs().max() > 1e-2
    turned = rlnlib.solve_strain(
        cells.permute(0, 3, 1, 2),
        spacing=(3, 1, 2),
        **{**arguments, "macroscopic_strain": [LOAD[k] for k in (2, 0, 1, 5, 3, 4)]},
    ).strain
    assert (turned.permute(0, 1, 3, 4, 2)[:, [1, 2, 0, 4, 5, 3]] - one).abs().max() < 1e-8


def test_free_sides_leave_only_the_prescribed_stress():
    """Uniaxial tension: the strain that a user finds by hand from the effective compliance."""
    cell = rlnlib.generate_cells(2, size=8, grain_size=(1, 4), stiff_fraction=(0.4, 0.6), seed=3)
    stiffness = rlnlib.effective_stiffness(cell, 10.0)
    compliance = torch.linalg.inv(stiffness)
    stress = [2.0, 0, 0, 0, 0, 0]
    solution = rlnlib.solve_strain(cell, 10.0, macroscopic_stress=stress)
    assert (solution.effective_stress - torch.tensor(stress)).abs().max() < 1e-6
    assert (solution.strain.mean((2, 3, 4)) - 2 * compliance[:, :, 0]).abs().max() < 1e-6
    driven = rlnlib.solve_strain(cell, 10.0, macroscopic_strain=[1.0] + [NAN] * 5, macroscopic_stress=[NAN] + [0.0] * 5)
    assert (driven.strain.mean((2, 3, 4))[:, 0] - 1).abs().max() < 1e-12
    assert driven.effective_stress[:, 1:].abs().max() < 1e-6 < 0.1 < driven.effective_stress[:, 0].min()
    constants = engineering.engineering_constants(stiffness)
    assert (driven.effective_stress[:, 0] - constants["E1"]).abs().max() < 1e-6
    assert (driven.strain.mean((2, 3, 4))[:, 1] + constants["nu12"]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("strain", "stress", "sentence"),
    [
        ([1.0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0], "both or neither"),
        (None, [1.0, 0, 0, 0, 0, NAN], "components 12 have"),
        ([NAN, 0, 0, 0, 0, 0], None, "NaN"),
        ([NAN] * 6, [1.0, 0, 0], "shape"),
        (None, [math.inf, 0, 0, 0, 0, 0], "infinity"),
        (None, [[1.0] * 6, [NAN] * 6], "same components"),
    ],
)
def test_a_load_that_is_no_load_is_refused(strain, stress, sentence, random_cells):
    with pytest.raises(ValueError, match=sentence):
        rlnlib.solve_strain(random_cells(2, 4, 4, 4), 10.0, macroscopic_strain=strain, macroscopic_stress=stress)


@pytest.mark.parametrize("spacing", [(1, 1), 1.0, (1, 1, 0), (1, 1, 1e4), (1, 1, NAN)])
def test_edges_that_are_no_edges_are_refused(spacing, random_cells):
    with pytest.raises(ValueError, match="spacing"):
        rlnlib.solve_strain(random_cells(1, 4, 4, 4), 10.0, spacing=spacing)


def test_each_precision_is_that_of_the_work(random_cells):
    cells = random_cells(2, 6, 6, 6)
    mixed, double = rlnlib.solve_strain(cells, 50.0), rlnlib.solve_strain(cells, 50.0, dtype=torch.float64)
    single = rlnlib.solve_strain(cells, 50.0, dtype=torch.float32)
    assert mixed.strain.dtype == double.strain.dtype == torch.float64
    assert single.strain.dtype == single.displacement.dtype == single.residual.dtype == torch.float32
    assert all(bool(s.converged.all()) for s in (mixed, double, single))
    assert 0 < (mixed.strain - double.strain).abs().max() < 1e-6
    assert 1e-8 < (single.strain - double.strain).abs().max() < 1e-3
    with pytest.warns(RuntimeWarning, match="dtype='mixed'"):  # what float32 cannot reach it does not claim
        assert not bool(rlnlib.solve_strain(cells, 50.0, dtype=torch.float32, rtol=1e-10).converged.all())
    with pytest.raises(ValueError, match="mixed"):
        rlnlib.solve_strain(cells, 50.0, dtype="float32")


def test_a_good_start_saves_iterations_and_ends_at_the_same_displacement(random_cells):
    cell = problem.cell_problem(random_cells(2, 6, 6, 6), 20.0, macroscopic_strain=LOAD)
    equilibrium = VoxelProblem(cell, GreenOperator(cell.shape))
    rule = solvers.StoppingRule(1e-8)
    u, cold = conjugate_gradient(equilibrium, rule)
    rough, _ = conjugate_gradient(equilibrium, solvers.StoppingRule(1e-2))
    again, warm = conjugate_gradient(equilibrium, rule, start=rough)
    assert bool((warm.iterations < cold.iterations).all()) and (again - u).abs().max() < 1e-7
    assert bool((warm.residual <= 1e-8).all()) and bool((warm.residuals[:, 0] <= 1e-2).all())
    _, done = conjugate_gradient(equilibrium, rule, start=u)
    assert done.iterations.tolist() == [0, 0] and bool(done.converged.all())


AS_FOUND = """
import gc, torch, warnings
torch.set_default_dtype(torch.float64)
torch.set_num_threads(3)
import rlnlib
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().sum(),
            torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled())
before = state()
cells = rlnlib.generate_cells(4, size=8, grain_size=(1, 4))
solution = rlnlib.solve_strain(cells, 10.0)
assert solution.strain.dtype is torch.float64 and bool(solution.converged.all())
assert rlnlib.solve_strain(cells, 10.0, dtype=torch.float32).strain.dtype is torch.float32
assert state() == before
class Failing(torch.nn.Module):
    def forward(self, phases):
        raise ArithmeticError
for call in (lambda: rlnlib.predict_strain(Failing(), cells), lambda: rlnlib.solve_strain(cells, 10.0, reference=2.0)):
    try:
        call()
    except (ArithmeticError, ValueError):
        assert state() == before
    else:
        raise AssertionError
"""


def test_the_callers_process_stays_as_it_was_also_after_an_error():
    subprocess.run([sys.executable, "-c", AS_FOUND], check=True)


def test_pores_of_a_millionth_of_the_solid_converge_to_an_answer_that_does_not_depend_on_it():
    solid = rlnlib.generate_cells(1, size=12, grain_size=(2, 4), stiff_fraction=(0.77, 0.77), seed=1).astype(int)
    answers = []
    for young in (1e-6, 1e-8):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answers.append(rlnlib.solve_strain(solid, phases=[(young, 0.3), (1.0, 0.3)], rtol=1e-6).effective_stress)
    assert (answers[0] - answers[1]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="pore"):
        rlnlib.solve_strain(solid, phases=[(0.0, 0.3), (1.0, 0.3)])


def test_parts_of_a_batch_are_joined_as_they_come():
    kept = []

    def part(cells, steps):
        fields = {
            n: torch.full((cells, k, 2, 3, 4), steps) for n, k in (("strain", 6), ("stress", 6), ("displacement", 3))
        }
        known = torch.full((cells,), steps)
        solution = Solution(
            **fields, effective_stress=torch.full((cells, 6), steps), converged=known > 1, iterations=known.long(),
            residuals=known[:, None].repeat(1, int(steps)), residual=known,
        )  # fmt: skip
        kept.append(weakref.ref(solution.strain))
        return solution

    def parts():
        yield part(2, 3.0)
        yield part(1, 5.0)
        assert kept[0]() is None  # it is in the joined fields alone
        yield part(2, 1.0)

    joined = join(parts(), 5)
    assert joined.strain[:, 0, 0, 0, 0].tolist() == joined.displacement[:, 2, 1, 2, 3].tolist() == [3, 3, 5, 1, 1]
    assert joined.converged.tolist() == [True, True, True, False, False] and joined.iterations.dtype == torch.int64
    assert joined.residuals.shape == (5, 5) and joined.residuals.isnan().sum(1).tolist() == [2, 2, 0, 4, 4]
    assert joined.energy_bounds is None and joined.stress_at_points is None
    alone = part(2, 2.0)
    assert join([alone], 2) is alone
