"""Cell problems in units of their own, in which moduli, loads and voxels are of the order of one, and back.

In Pa, the squares of nodal forces overflow float32. The units are powers of two, so that no digit changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from rlnlib.problem import CellProblem
from rlnlib.solution import Solution
from rlnlib.solvers import over_cells


@dataclass(frozen=True)
class Units:
    """What to multiply the fields of a scaled problem by; ``strain`` (B,) is by cell."""

    modulus: float
    strain: torch.Tensor
    length: float


def in_units(problem: CellProblem) -> tuple[CellProblem, Units]:
    """The same problem with moduli, loads and voxels of the order of one, and the units that give it back."""
    modulus = _power_of_two(min(young for young, _ in problem.phases))
    length = _power_of_two(min(problem.spacing))
    largest = problem.macroscopic_strain.abs().amax(1)
    exponent = torch.frexp(torch.where(largest > 0, largest, 1))[1] - 1
    strain = torch.pow(torch.full_like(largest, 2.0), exponent)  # torch.ldexp would go through float32
    first, second, third = (edge / length for edge in problem.spacing)
    scaled = replace(
        problem,
        phases=[(young / modulus, nu) for young, nu in problem.phases],
        macroscopic_strain=problem.macroscopic_strain / strain[:, None],
        spacing=(first, second, third),
        stiffness=None if problem.stiffness is None else problem.stiffness / modulus,
    )
    return scaled, Units(modulus, strain, length)


def _power_of_two(value: float) -> float:
    """The largest power of two that is not above ``value``."""
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def refuse_fields_beyond(problem: CellProblem, dtype: torch.dtype) -> None:
    """Raise ValueError for fields that the dtype cannot hold: they would be infinite, or zero."""
    moduli = [young for young, _ in problem.phases]
    sizes = problem.macroscopic_strain.abs().amax(1)
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return
    low, high = float(sizes.min()), float(sizes.max())
    largest, smallest = torch.finfo(dtype).max / 2**30, torch.finfo(dtype).tiny * 2**30
    if max(high, high * max(moduli)) > largest or min(low, low * min(moduli)) < smallest:
        raise ValueError(
            f"macroscopic_strain of {low:g} to {high:g} with moduli of {min(moduli):g} to {max(moduli):g} gives "
            f"fields beyond the range of {dtype}: take other units, or dtype=torch.float64."
        )


def in_users_units(solution: Solution, units: Units) -> Solution:
    """Scale the fields back, in place; no cell with a field that is not finite has converged."""

    def times(field, *factors):
        for factor in factors:
            if not isinstance(factor, float) or factor != 1:
                field.mul_(factor)
        return field

    if bool((units.strain == 1).all()):
        by_cell: tuple = ()
    else:
        by_cell = (over_cells(units.strain.to(solution.strain), solution.strain),)
    points = {}
    if solution.strain_at_points is not None and solution.stress_at_points is not None:
        by_point = [factor[:, None] for factor in by_cell]
        points["strain_at_points"] = times(solution.strain_at_points, *by_point)
        points["stress_at_points"] = times(solution.stress_at_points, units.modulus, *by_point)
    effective = times(solution.effective_stress, units.modulus, *(factor.view(-1, 1) for factor in by_cell))
    return replace(
        solution,
        strain=times(solution.strain, *by_cell),
        stress=times(solution.stress, units.modulus, *by_cell),
        effective_stress=effective,
        displacement=times(solution.displacement, units.length, *by_cell),
        converged=solution.converged & effective.isfinite().all(1),
        **points,
    )
