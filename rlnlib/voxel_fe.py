"""The elastic cell problem solved: from a user's cells, phases and load to strain, stress and effective stiffness.

One voxel is one element of a discretization (:mod:`rlnlib.discretizations`); K u = f stands in
:mod:`rlnlib.equilibrium`, its solution in :mod:`rlnlib.conjugate_gradient`. The strain returned is the mean over the
voxel; for a trilinear cube that is the strain at its centroid.
"""

from dataclasses import replace

import torch

from rlnlib import _checks, elasticity, fast, lippmann_schwinger, problem, solvers
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.equilibrium import VoxelProblem as VoxelProblem
from rlnlib.equilibrium import voxel_problem
from rlnlib.green import GreenOperator
from rlnlib.method import Method, effective_columns, first_strain, in_chunks, split_load, strain_of_mixed_load
from rlnlib.problem import CellProblem
from rlnlib.solution import Solution, warn_of_failures


def solve_strain(
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=None,
    discretization: str = "bbar",
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 2000,
    phases: list[tuple[float, float]] | None = None,
    dtype: torch.dtype | str = "mixed",
    device: torch.device | str | None = None,
    progress: bool = False,
    solver: str = "conjugate_gradient",
    reference: tuple[float, float] | None = None,
    spacing=(1, 1, 1),
    macroscopic_stress=None,
    integration_points: bool = False,
) -> Solution:
    """Solve div sigma = 0, sigma = C epsilon (eqs. 1 and 2) in periodic cells under a macroscopic strain or stress.

    A cell has converged when ``||residual|| <= max(rtol * ||rhs||, atol)`` for its nodal forces. A cell that has not
    is named in a RuntimeWarning and in ``Solution.converged``.

    Args:
        stiff: (B, N1, N2, N3), bool or 0/1; (N1, N2, N3) for a batch of one, (N1, N2) for one voxel in depth. With
            ``phases``, integer labels.
        contrast: Young's modulus of the stiff phase; that of the soft one is 1.
        poisson: Poisson ratio of both.
        macroscopic_strain: Mean strain, (6,) or (B, 6), Mandel order 11, 22, 33, 23, 13, 12; by default 1 in 11 and 0
            else.
        discretization: "bbar", "hex8", "rotated" or "continuous".
        rtol: Relative tolerance; by default 1e-8, in float32 1e-5.
        atol: Absolute tolerance, of the Euclidean norm over all nodes of the nodal forces, in the unit of modulus times
            strain over length; for other solvers than conjugate gradients of the strain over all integration points.
        max_iterations: The most iterations.
        phases: In place of ``contrast``: for each label (young, poisson) or a stiffness (6, 6), Mandel, in any unit. A
            polycrystal has the labels of its grains, and ``phases=engineering.rotated(crystal, rotations)``.
        dtype: Precision of the work and of the result. "mixed" returns float64 of float64 accuracy, but iterates in
            float32, which takes half the time, where the moduli differ by at most 1000.
        device: Where to work; by default where ``stiff`` is.
        progress: Show a bar: cells done, iteration and largest residual of the cells under way.
        solver: "conjugate_gradient", or one that iterates the Lippmann-Schwinger equation at the integration points
            (``solvers.ITERATIONS``: "fixed_point", "gradient_descent", "barzilai_borwein", "anderson"), slower and
            for comparison. Its residual is y - Phi(y) for the strain y, its rhs the residual of the macroscopic
            strain.
        reference: (young, poisson) of the reference medium, in the unit of ``phases``.
        spacing: Edges of a voxel along the three axes.
        macroscopic_stress: Mean stress, (6,) or (B, 6), NaN where the strain is prescribed; then
            ``macroscopic_strain`` has NaN where the stress is prescribed. A free component has the stress 0. The mean
            strain comes from one solve for each component with a prescribed stress, and one for the others.
        integration_points: Return strain and stress at the integration points, too: eight of them in a voxel for
            "bbar" and "hex8".

    Returns:
        Strain, stress, displacement (fields (B, 6, N1, N2, N3)) and statistics.

    Raises:
        ValueError: For a wrong shape, label, contrast, Poisson ratio, load, discretization, dtype, tolerance, solver,
            reference or spacing.
    """
    load = first_strain(macroscopic_strain, macroscopic_stress)
    cell = problem.cell_problem(stiff, contrast, poisson, load, phases, spacing, device)
    method = Method.checked(discretization, rtol, atol, max_iterations, dtype, progress, solver, reference)
    method = replace(method, integration_points=_checks.boolean("integration_points", integration_points))
    if macroscopic_stress is not None:

        def mean_stress(strain):
            solved = in_chunks(cell.under(strain), method, _solve)
            warn_of_failures(solved, method.stopping)
            return solved.effective_stress

        strain = strain_of_mixed_load(
            *split_load(macroscopic_strain, macroscopic_stress, len(cell)),
            columns=lambda components: effective_columns(cell, method, _solve, components),
            mean_stress=mean_stress,
        )
        cell = cell.under(strain)
    solution = in_chunks(cell, method, _solve)
    warn_of_failures(solution, method.stopping)
    return solution


def effective_stiffness(
    stiff, contrast=None, poisson=0.3, phases=None, device=None, spacing=(1, 1, 1), **options
) -> torch.Tensor:
    """The matrix C_eff of mean stress = C_eff mean strain: the mean stresses of the six unit loads side by side.

    Args:
        stiff, contrast, poisson, phases, device, spacing: As for :func:`solve_strain`.
        **options: ``discretization``, ``rtol``, ``atol``, ``max_iterations``, ``dtype``, ``progress``, ``solver`` and
            ``reference`` of :func:`solve_strain`.

    Returns:
        (B, 6, 6), Mandel: :func:`rlnlib.engineering.voigt_from_mandel` makes Voigt's of it, and
        :func:`rlnlib.engineering.engineering_constants` moduli and Poisson's ratios.

    Raises:
        ValueError: As for :func:`solve_strain`.
    """
    _checks.known_options("effective_stiffness", options, Method.checked)
    cell = problem.cell_problem(stiff, contrast, poisson, phases=phases, spacing=spacing, device=device)
    return effective_columns(cell, Method.checked(**options), _solve, torch.arange(6))


def _solve(cell: CellProblem, operator: GreenOperator, method: Method, watch: solvers.Watch | None) -> Solution:
    """Strain, stress and displacement of the cells of a chunk, by the method's solver."""
    if method.solver == "conjugate_gradient":
        equilibrium = voxel_problem(cell, operator, method.kept_dtype)
        with fast.memory.reused(operator.dtype):
            u, statistics = conjugate_gradient(equilibrium, method.stopping, operator.dtype, watch)
        strain = equilibrium.strain(u, cell.macroscopic_strain)
        y = equilibrium.strain_at_points(u, cell.macroscopic_strain) if method.integration_points else None
        del equilibrium
    else:
        equation = lippmann_schwinger.from_green_operator(cell, operator)
        y, statistics = solvers.iterate(equation, solvers.ITERATIONS[method.solver](equation), method.stopping, watch)
        strain = y.mean(1)
        u = operator.displacement(operator.nodal_forces(elasticity.hooke(y, *operator.lame)))
    law = cell.law(strain.dtype)
    stress = law(strain)
    points = {"strain_at_points": y, "stress_at_points": law(y)} if method.integration_points else {}
    return Solution(strain, stress, stress.mean((2, 3, 4)), u, **vars(statistics), **points)
