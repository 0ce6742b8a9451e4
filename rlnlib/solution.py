"""What a solver returns: fields and statistics of a batch of cells, joined, shown in a line, warned of if need be."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch


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
        return (
            f"Solution({cells} cell{'s' * (cells > 1)} of {size} voxels, {int(self.converged.sum())} converged, "
            f"iterations {low}{f' to {high}' * (high > low)}, residual at most {float(self.residual.max()):.1e})"
        )

    def to(self, dtype: torch.dtype) -> Solution:
        """The same with its fields and effective stress in another precision."""
        names = ("strain", "stress", "effective_stress", "displacement", "strain_at_points", "stress_at_points")
        return replace(self, **{n: getattr(self, n).to(dtype) for n in names if getattr(self, n) is not None})


@dataclass
class Statistics:
    """How an iteration went, by cell: see :class:`Solution`."""

    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor


def concatenate(parts: list[Solution]) -> Solution:
    """Join the solutions of consecutive parts of a batch."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.residuals.shape[1] for part in parts)
    names = [name for name in Solution.__dataclass_fields__ if getattr(parts[0], name) is not None]
    fields = {name: [getattr(part, name) for part in parts] for name in names}
    fields["residuals"] = [
        torch.nn.functional.pad(r, (0, length - r.shape[1]), value=torch.nan) for r in fields["residuals"]
    ]
    return Solution(**{name: torch.cat(values) for name, values in fields.items()})


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
