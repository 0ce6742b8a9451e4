"""How to solve a cell problem, as a user says it: checked, with what follows from it for one problem."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlnlib import _checks, _given, elasticity, green, solvers
from rlnlib.solvers import StoppingRule

#: Largest ratio of moduli for which mixed precision works in float32; at 1e5 its rounding stalls the recurrences.
_FLOAT32_CONTRAST = 1e3

#: The tolerance that each precision reaches at every usual contrast.
_RTOL = {"mixed": 1e-8, torch.float64: 1e-8, torch.float32: 1e-5}


@dataclass(frozen=True)
class Method:
    """How to solve a cell problem: the arguments of :func:`solve_strain` of the same names."""

    discretization: str
    stopping: StoppingRule
    dtype: torch.dtype | str
    progress: bool
    solver: str
    reference: tuple[float, float] | None
    integration_points: bool = False

    @classmethod
    def checked(
        cls, discretization="bbar", rtol=None, atol=0.0, max_iterations=2000, dtype="mixed", progress=False,
        solver="conjugate_gradient", reference=None
    ) -> Method:  # fmt: skip
        """Raises ValueError for what :func:`solve_strain` refuses."""
        _checks.floating(dtype, ("mixed", torch.float32, torch.float64))
        stopping = StoppingRule(_RTOL[dtype] if rtol is None else rtol, atol, max_iterations)
        _checks.one_of("discretization", discretization, green.DISCRETIZATIONS)
        _checks.one_of("solver", solver, ("conjugate_gradient", *solvers.ITERATIONS))
        reference = None if reference is None else _given.as_medium(reference)
        return cls(discretization, stopping, dtype, progress, solver, reference)

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the fields that are returned."""
        return torch.float64 if isinstance(self.dtype, str) else self.dtype

    def work_dtype(self, contrast: float) -> torch.dtype:
        """Of the iteration."""
        if self.dtype == "mixed" and self.solver == "conjugate_gradient" and contrast <= _FLOAT32_CONTRAST:
            return torch.float32
        return self.kept_dtype

    def medium(self, phases, modulus: float) -> tuple[float, float]:
        """(young, poisson) of the reference medium, for phases with moduli in units of ``modulus``."""
        if self.reference is not None:
            return self.reference[0] / modulus, self.reference[1]
        if self.solver == "conjugate_gradient" and len({nu for _, nu in phases}) == 1:
            return 1.0, phases[0][1]  # conjugate gradients do not see the modulus
        return elasticity.midpoint_medium(phases)
