"""What a user gives of a cell problem, checked: its phases, its load, the edges of its voxels, a reference medium.

As in :mod:`rlnlib._checks`, each check returns the cleaned value, or raises ValueError with the argument's name.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from rlnlib import _checks


def as_phases(contrast, poisson, phases) -> list:
    """What each phase is, from the two-phase short form or the list: (young, poisson), or a stiffness (6, 6)."""
    if (contrast is None) == (phases is None):
        raise ValueError("Give either contrast (two phases) or phases=[(young, poisson), ...], and not both.")
    if phases is None:
        nu = _checks.poisson_ratio(poisson)
        return [(1.0, nu), (_modulus("contrast", contrast), nu)]
    pairs = list(phases) if isinstance(phases, Iterable) and not isinstance(phases, (str, bytes)) else []
    if not pairs or any(_checks.length(phase) not in (2, 6) for phase in pairs):
        raise ValueError(
            f"phases must be a list of (young, poisson) pairs or of stiffnesses (6, 6) in Mandel notation, one for "
            f"each label; it is {_checks.shown(phases)}."
        )
    return [_stiffness(phase) if _checks.length(phase) == 6 else _isotropic(*phase) for phase in pairs]


def _isotropic(young, poisson) -> tuple[float, float]:
    return _modulus("phases: Young's modulus", young), _checks.poisson_ratio(poisson)


def _stiffness(value) -> torch.Tensor:
    """A stiffness that is symmetric and positive definite. Shape: -> (6, 6) float64."""
    matrix = _checks.as_tensor(value, "phases: a stiffness")
    if matrix.shape != (6, 6) or matrix.is_complex() or not bool(torch.isfinite(matrix).all()):
        raise ValueError(
            f"phases: a stiffness must be finite real numbers of the shape (6, 6); it has {tuple(matrix.shape)} and "
            f"the dtype {matrix.dtype}."
        )
    matrix = matrix.to("cpu", torch.float64)
    size = float(matrix.abs().max())
    if not 1e-300 < size < 1e300 or float((matrix - matrix.mT).abs().max()) > 1e-6 * size:
        raise ValueError("phases: a stiffness must be a symmetric matrix with entries of 1e-300 to 1e300.")
    matrix = (matrix + matrix.mT) / 2
    least = float(torch.linalg.eigvalsh(matrix / size)[0])
    if least < 1e-12:
        raise ValueError(
            f"phases: a stiffness must be positive definite; its least eigenvalue is {least * size:g}. A stiffness in "
            f"Voigt notation becomes one in Mandel notation by rlnlib.engineering.mandel_from_voigt."
        )
    return matrix


def _modulus(name: str, value) -> float:
    if _checks.is_number(value) and value == 0:
        raise ValueError(
            f"{name} must be positive; it is {value!r}. For a pore take a millionth of the solid's, "
            f"phases=[(1e-6, 0.3), (1.0, 0.3)] with the label 0 in the pores."
        )
    return _checks.positive(name, value)


def as_spacing(spacing) -> tuple[float, float, float]:
    """Check the edges of a voxel.

    Args:
        spacing: three positive numbers, in any unit.

    Returns:
        The three edges.

    Raises:
        ValueError: For anything else, or an edge more than a thousand times as long as another.
    """
    values = _checks.as_tensor(spacing, "spacing")
    if values.shape != (3,):
        raise ValueError(f"spacing must be the three edges of a voxel; its shape is {tuple(values.shape)}.")
    first, second, third = (_checks.positive("spacing", edge) for edge in values.tolist())
    edges = first, second, third
    if max(edges) > 1000 * min(edges):
        raise ValueError(f"spacing must not have edges more than 1000 times another; it is {edges}.")
    return edges


def as_medium(reference) -> tuple[float, float]:
    """Check the (young, poisson) of a reference medium, and return them.

    Raises:
        ValueError: For what is no pair, a modulus <= 0 or a Poisson ratio outside (-1, 0.5).
    """
    young, nu = _checks.pair("reference", reference)
    return _checks.positive("reference: Young's modulus", young), _checks.poisson_ratio(nu, "reference: Poisson ratio")


def mandel_vector(name: str, value, batch: int | None = None) -> torch.Tensor:
    """Six finite Mandel components, float64; with ``batch``, one row for each cell.

    Shape: (6,) or (B, 6) -> (6,), or (B, 6) where ``batch`` is given.
    """
    vector = _checks.as_tensor(value, name)
    allowed = [(6,)] + ([(batch, 6)] if batch is not None else [])
    if tuple(vector.shape) not in allowed or vector.is_complex():
        raise ValueError(
            f"{name} must be real numbers of the shape {' or '.join(map(str, allowed))} "
            f"(Mandel order 11, 22, 33, 23, 13, 12); it has {tuple(vector.shape)} and the dtype {vector.dtype}."
        )
    vector = vector.to(torch.float64)
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{name} contains NaN or infinity: {vector.tolist()}.")
    return vector if batch is None else vector.expand(batch, 6)
