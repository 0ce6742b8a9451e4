import math

import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import lippmann_schwinger, solvers
from rlnlib.discretizations import DISCRETIZATIONS


@pytest.mark.parametrize("solver", solvers.ITERATIONS)
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_all_solvers_give_one_answer(solver, name, random_cells):
    cells = random_cells(2, 4, 5, 3, fraction=0.3)
    load = torch.tensor([1, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
    arguments = {"macroscopic_strain": load, "discretization": name}
    expected = rlnlib.solve_strain(cells, 4.0, rtol=1e-12, **arguments)
    solution = rlnlib.solve_strain(cells, 4.0, rtol=1e-11, solver=solver, **arguments)
    assert bool(solution.converged.all())
    assert (solution.strain - expected.strain).abs().max() < 1e-8
    assert (solution.stress - expected.stress).abs().max() < 1e-8
    assert (solution.effective_stress - expected.effective_stress).abs().max() < 1e-8
    assert (solution.strain.mean((2, 3, 4)) - load).abs().max() < 1e-12
    others = [
        rlnlib.solve_strain(cells, 4.0, **{**arguments, "discretization": d}) for d in DISCRETIZATIONS if d != name
    ]
    assert all((other.strain - solution.strain).abs().max() > 1e-2 for other in others)


@pytest.mark.parametrize("solver", ["conjugate_gradient", *solvers.ITERATIONS])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_solutions_move_with_the_cell(solver, name, random_cells):
    cells = random_cells(1, 4, 5, 3, fraction=0.3)
    shifts = [(1, 0, 0), (2, 3, 1), (-1, 7, 2)]
    batch = torch.cat([cells, *[cells.roll(shift, (1, 2, 3)) for shift in shifts]])
    strain = rlnlib.solve_strain(batch, 4.0, solver=solver, discretization=name, rtol=1e-12).strain
    for moved, shift in zip(strain[1:], shifts, strict=True):
        assert (moved - strain[0].roll(shift, (1, 2, 3))).abs().max() < 1e-9
        assert (moved - strain[0]).abs().max() > 0.1


@pytest.mark.parametrize("solver", solvers.ITERATIONS)
def test_a_homogeneous_cell_needs_no_iteration(solver):
    solution = rlnlib.solve_strain(np.zeros((1, 4, 4, 4), bool), 50.0, solver=solver)
    assert solution.iterations.tolist() == [0] and bool(solution.converged.all())
    assert (solution.strain[:, 0] - 1).abs().max() < 1e-13
    assert bool(solution.residuals.isfinite().all())


@pytest.mark.parametrize("solver", ["conjugate_gradient", "fixed_point"])
def test_progress_shows_the_iterations_of_a_single_cell(solver, random_cells, capsys):
    solution = rlnlib.solve_strain(random_cells(1, 4, 4, 4), 5.0, solver=solver, progress=True)
    assert f"iteration {int(solution.iterations)}, residual" in capsys.readouterr().err
    rlnlib.solve_strain(random_cells(1, 4, 4, 4), 5.0, solver=solver)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("solver", solvers.ITERATIONS)
def test_a_solver_out_of_iterations_names_the_cell(solver, random_cells):
    cells = torch.cat([torch.zeros(1, 4, 4, 4, dtype=torch.bool), random_cells(1, 4, 4, 4)])
    with pytest.warns(RuntimeWarning, match=r"1 of 2 cells .* cell 1"):
        solution = rlnlib.solve_strain(cells, 50.0, max_iterations=1, solver=solver)
    assert solution.converged.tolist() == [True, False] and solution.iterations.tolist() == [0, 1]


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_a_cell_does_not_depend_on_its_batch(name, random_cells):
    cells = torch.cat([random_cells(1, 4, 4, 4, fraction=f, seed=s) for f, s in ((0.2, 1), (0.7, 2))])
    for solver in ("conjugate_gradient", *solvers.ITERATIONS):
        arguments = {"solver": solver, "discretization": name, "rtol": 1e-10, "max_iterations": 5000}
        together = rlnlib.solve_strain(cells, 5.0, **arguments)
        alone = rlnlib.solve_strain(cells[1], 5.0, **arguments)
        assert abs(int(alone.iterations) - int(together.iterations[1])) <= 1
        assert (alone.strain[0] - together.strain[1]).abs().max() < 1e-8


def rate(contrast, reference, cells):
    equation = lippmann_schwinger.elastic_equation(cells, contrast, reference=reference)
    rule = solvers.StoppingRule(1e-9, max_iterations=400)
    _, statistics = solvers.iterate(equation, solvers.moulinec(equation), rule)
    residuals = statistics.residuals[0]
    last = int(statistics.iterations[0])
    return float((residuals[last] / residuals[last - 10]) ** 0.1)


def test_the_fixed_point_is_no_slower_than_theory_and_slower_with_another_reference(random_cells):
    cells = random_cells(1, 5, 5, 5)
    for contrast in (2.0, 10.0):
        best = rate(contrast, None, cells)
        assert 0.5 * (contrast - 1) / (contrast + 1) < best < (contrast - 1) / (contrast + 1) + 0.01
        assert rate(contrast, (contrast, 0.3), cells) > best + 0.05


def test_the_fixed_point_diverges_with_a_reference_below_half_of_the_stiffest(random_cells):
    cells = random_cells(1, 5, 5, 5)
    equation = lippmann_schwinger.elastic_equation(cells, 10.0, reference=(2.0, 0.3))
    y, statistics = solvers.iterate(equation, solvers.moulinec(equation), solvers.StoppingRule(1e-8))
    assert not bool(statistics.converged.any())
    assert bool(y.isfinite().all()) and statistics.residual[0] <= 1  # the best iterate is kept


def test_a_step_of_one_along_the_residual_is_moulinecs_scheme(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 4, 4, 4), 5.0)
    runs = [
        list(solvers.recurrence([proximal] * 4, equation.reference))[-1]
        for proximal in (solvers.moulinec(equation), solvers.gradient_descent(equation, 1.0, "residual"))
    ]
    assert (runs[0] - runs[1]).abs().max() < 1e-13


def test_gradient_descent_keeps_the_mean_strain_and_a_large_step_diverges(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 4, 4, 4), 5.0)
    raw = equation.gradient(equation.residual(equation.reference))
    assert raw.mean((1, 3, 4, 5)).abs().max() > 0.01  # which the projection takes off
    for y in solvers.recurrence([solvers.gradient_descent(equation, 0.3)] * 5, equation.reference):
        assert (y - equation.reference).mean((1, 3, 4, 5)).abs().max() < 1e-13
    rule = solvers.StoppingRule(1e-6)
    small, large = [solvers.iterate(equation, solvers.gradient_descent(equation, step), rule)[1] for step in (0.3, 3.0)]
    assert bool(small.converged) and not bool(large.converged)


def test_line_search_and_barzilai_borwein_need_fewer_iterations_in_this_order(random_cells):
    equation = lippmann_schwinger.elastic_equation(random_cells(1, 5, 5, 5), 10.0)
    rule = solvers.StoppingRule(1e-6)
    counts = [
        int(solvers.iterate(equation, solvers.gradient_descent(equation, *kind), rule)[1].iterations)
        for kind in ((0.3,), ("line_search",), ("barzilai_borwein",), ("barzilai_borwein", "residual"))
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > 5 * counts[-1]


def test_barzilai_borwein_goes_on_where_its_denominator_is_not_positive():
    # Positive eigenvalues, 0.3 and 1.7, but without symmetry s . A s may be negative: in the first of two cells it is.
    matrix = torch.tensor([[1.0, 3.5], [0.14, 1.0]], dtype=torch.float64)
    equation = lippmann_schwinger.GoverningEquation(
        reference=torch.tensor([[1.0, -0.1], [1.0, 0.3]], dtype=torch.float64).view(2, 2, 1, 1, 1),
        linear=lambda y: y,
        green=lambda b: b,
        heterogeneous=lambda y: torch.einsum("ij,bjxyz->bixyz", matrix - torch.eye(2, dtype=torch.float64), y),
    )
    f, g = (solvers.gradient_descent(equation, "barzilai_borwein", "residual") for _ in range(2))
    first = next(solvers.recurrence([f], equation.reference)) - equation.reference
    assert (solvers.inner(first, equation.linearized(first)) > 0).tolist() == [False, True]
    y, statistics = solvers.iterate(equation, g, solvers.StoppingRule(1e-8, max_iterations=100))
    exact = torch.linalg.solve(matrix, equation.reference.view(2, 2).T).T
    assert bool(statistics.converged.all()) and (y.view(2, 2) - exact).abs().max() < 1e-7


def test_a_solution_shows_itself_in_one_line_without_its_fields(random_cells):
    cells = torch.cat([random_cells(1, 4, 5, 6, fraction=f) for f in (0.05, 0.5)])
    solution = rlnlib.solve_strain(cells, 5.0, rtol=1e-6)
    low, high = sorted(solution.iterations.tolist())
    start = f"Solution(2 cells of 4 x 5 x 6 voxels, 2 converged, iterations {low} to {high}, residual at most "
    assert low < high and repr(solution).startswith(start)
    assert repr(solution) == f"{start}{float(solution.residual.max()):.1e})"
    with pytest.warns(RuntimeWarning, match="did not reach"):
        cut = rlnlib.solve_strain(cells[:1], 5.0, max_iterations=1)
    assert repr(cut).startswith("Solution(1 cell of 4 x 5 x 6 voxels, 0 converged, iterations 1, ")


def test_residuals_start_at_one_and_end_with_nan_after_a_cell_has_stopped(random_cells):
    cells = torch.cat([random_cells(1, 4, 4, 4, fraction=f) for f in (0.03, 0.5)])
    solution = rlnlib.solve_strain(cells, 5.0, solver="fixed_point", rtol=1e-6)
    for row, count in zip(solution.residuals, solution.iterations.tolist(), strict=True):
        assert row[0] == 1 and row[count] <= 1e-6 and bool(row[count + 1 :].isnan().all())


@pytest.mark.parametrize(
    "call",
    [
        lambda e: solvers.gradient_descent(e, "newton"),
        lambda e: solvers.gradient_descent(e, -1.0),
        lambda e: solvers.gradient_descent(e, math.nan),
        lambda e: solvers.gradient_descent(e, direction="up"),
        lambda e: solvers.anderson(e, 0),
        lambda e: solvers.StoppingRule(rtol=-1),
        lambda e: rlnlib.solve_strain(np.eye(3, dtype=bool)[None, None].repeat(3, 1), 5.0, solver="newton"),
        lambda e: rlnlib.solve_strain(np.eye(3, dtype=bool)[None, None].repeat(3, 1), 5.0, reference=(1, 2, 3)),
    ],
)
def test_bad_input_is_refused(call, random_cells):
    with pytest.raises(ValueError, match="must"):
        call(lippmann_schwinger.elastic_equation(random_cells(1, 3, 3, 3), 5.0))


@pytest.mark.parametrize("first", [0, 1])
def test_a_cell_that_diverges_leaves_the_others_of_its_batch_alone(first, random_cells):
    mild = random_cells(1, 5, 5, 5).long()
    wild = 2 * mild
    cells = torch.cat([wild, mild] if first == 0 else [mild, wild])
    phases, options = [(1, 0.3), (50, 0.3), (1e4, 0.3)], {"solver": "fixed_point", "reference": (25.5, 0.3)}
    with pytest.warns(RuntimeWarning, match="did not reach"):
        found = rlnlib.solve_strain(cells, phases=phases, dtype=torch.float64, **options)
    assert found.converged.tolist() == [first != 0, first == 0]
    alone = rlnlib.solve_strain(mild, phases=phases, dtype=torch.float64, **options)
    assert (found.strain[1 - first] - alone.strain[0]).abs().max() < 1e-12
