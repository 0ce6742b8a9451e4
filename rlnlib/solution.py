"""What a solver returns: fields and statistics of a batch of cells, joined, warned of if need be, and in whose units.

A problem is solved in units in which moduli, loads and voxels are of the order of one: in Pa, the squares of nodal
forces overflow float32. The units are powers of two, so that no digit changes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from rlnlib.problem import CellProblem
from rlnlib.solvers import Statistics, over_cells


@dataclass(frozen=True)
class Solution:
    """Fields and statistics of a batch of cells.

    Attributes:
        strain: Mean over the integration points of each voxel, (B, 6, N1, N2, N3), Mandel, in the unit of the
            macroscopic strain.
        stress: The same of the stress, in that unit times the unit of the moduli.
        effective_stress: Volume mean of the stress, (B, 6).
        displacement: Its periodic part, of zero mean, at the corner of each voxel that is nearest to the origin,
            (B, 3, N1, N2, N3), in the unit of the macroscopic strain times that of ``spacing``.
        converged: (B,) bool.
        iterations: (B,) int.
        residuals: ||residual|| / ||rhs|| before each iteration and after the last, (B, I + 1), NaN once a cell has
            stopped.
        residual: The same recomputed at the end, (B,).
        energy_bounds: Of a prediction, a lower and an upper bound of e : C_eff : e for the macroscopic strain e,
            (B, 2); else None.
        strain_at_points: Where asked for, at each ``discretizations.KINDS[name].points()``, (B, G, 6, N1, N2, N3).
        stress_at_points: The same of the stress.
    """

    strain: torch.Tensor
    stress: torch.Tensor
    effective_stress: torch.Tensor
    displacement: torch.Tensor
    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor
    energy_bounds: torch.Tensor | None = None
    strain_at_points: torch.Tensor | None = None
    stress_at_points: torch.Tensor | None = None

    def __repr__(self) -> str:
        cells, size = len(self.converged), " x ".join(map(str, self.strain.shape[-3:]))
        if not cells:
            return f"Solution(no cells of {size} voxels)"
        low, high = int(self.iterations.min()), int(self.iterations.max())
        done = int(self.converged.sum())
        state = f"{done} converged" if done or high or self.energy_bounds is None else "predicted by a network"
        return (
            f"Solution({cells} cell{'s' * (cells > 1)} of {size} voxels, {state}, "
            f"iterations {low}{f' to {high}' * (high > low)}, residual at most {float(self.residual.max()):.1e})"
        )

    def to(self, dtype: torch.dtype) -> Solution:
        """The same with its fields and effective stress in another precision."""
        names = ("strain", "stress", "effective_stress", "displacement", "strain_at_points", "stress_at_points")
        return replace(self, **{n: getattr(self, n).to(dtype) for n in names if getattr(self, n) is not None})


def join(parts: Iterable[Solution], cells: int) -> Solution:
    """Join the solutions of consecutive parts of a batch as they come, so that no field is in memory twice."""
    fields: dict[str, torch.Tensor] = {}
    residuals: list[torch.Tensor] = []
    first = 0
    for part in parts:
        last = first + len(part.converged)
        if (first, last) == (0, cells):
            return part
        for name in Solution.__dataclass_fields__:
            value = getattr(part, name)
            if value is not None and name != "residuals":  # whose length differs
                fields.setdefault(name, value.new_empty(cells, *value.shape[1:]))[first:last] = value
        residuals.append(part.residuals)
        first = last
    length = max(part.shape[1] for part in residuals)
    fields["residuals"] = torch.cat(
        [torch.nn.functional.pad(part, (0, length - part.shape[1]), value=torch.nan) for part in residuals]
    )
    return Solution(**fields)


def warn_of_failures(solution: Solution | Statistics, stopping) -> None:
    """Warn once, with the cells that did not meet a stopping rule, how far they came and what helps."""
    failed = torch.nonzero(~solution.converged).flatten().tolist()
    if failed:
        shown = ", ".join(
            f"{cell} (residual {float(solution.residual[cell]):.1e} after {int(solution.iterations[cell])} iterations)"
            for cell in failed[:5]
        )
        warnings.warn(
            f"{len(failed)} of {len(solution.converged)} cells did not reach rtol={stopping.rtol:g}, "
            f"atol={stopping.atol:g}: cell {shown}{', ...' if len(failed) > 5 else ''}. Their best iterates are "
            f"returned. Where all {stopping.max_iterations} iterations were spent, raise max_iterations; else "
            f"loosen rtol, take dtype='mixed' in place of torch.float32, or, with a solver on the Lippmann-Schwinger "
            f"equation, choose a stiffer reference.",
            RuntimeWarning,
            stacklevel=3,
        )


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
