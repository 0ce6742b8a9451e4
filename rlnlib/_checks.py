"""What the public functions accept, said once: each check returns the cleaned value or raises ``ValueError``."""

import math
import numbers
from collections.abc import Sequence

import numpy as np
import torch


def as_labels(cells, phases: int = 2, name: str = "stiff") -> torch.Tensor:
    """Cells of integer phase labels as one batch.

    Shape: (B, N1, N2, N3) or (N1, N2, N3), bool or integer, numpy or torch -> (B, N1, N2, N3) int64 on the CPU
    or on the tensor's device.
    """
    try:
        labels = cells if isinstance(cells, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(cells))
    except TypeError as error:
        raise ValueError(f"{name} must be an array of phase labels, not {type(cells).__name__}.") from error
    if labels.ndim == 3:
        labels = labels[None]
    if labels.ndim != 4:
        raise ValueError(
            f"{name} must have the shape (B, N1, N2, N3), or (N1, N2, N3) for one cell; "
            f"this one has {tuple(labels.shape)}."
        )
    if labels.shape[0] == 0:
        raise ValueError(f"{name} holds no cell: its shape is {tuple(labels.shape)}. Pass at least one.")
    if min(labels.shape[1:]) < 2:
        raise ValueError(f"{name} needs at least 2 voxels along each axis; its cells are {tuple(labels.shape[1:])}.")
    if labels.is_floating_point() or labels.is_complex():
        if not bool(torch.isfinite(labels.abs()).all()):
            raise ValueError(f"{name} contains NaN or infinity; it must hold phase labels 0 to {phases - 1}.")
        raise ValueError(
            f"{name} has the dtype {labels.dtype}, but phase labels are bool or integer: "
            f"convert it, for instance with `cells > 0.5`."
        )
    labels = labels.to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= phases:
        kept = "True where the cell is stiff" if phases == 2 else "one for each entry of phases"
        raise ValueError(
            f"{name} holds the labels {low} to {high}, but {phases} phases have the labels 0 to {phases - 1} "
            f"({kept}). Relabel the cell, or name every phase with phases=[(young, poisson), ...]."
        )
    return labels


def as_phases(contrast, poisson, phases) -> list[tuple[float, float]]:
    """The (Young's modulus, Poisson ratio) of each phase, from the two-phase short form or the list."""
    if (contrast is None) == (phases is None):
        raise ValueError("Give either contrast (two phases) or phases=[(young, poisson), ...], and not both.")
    if phases is None:
        positive("contrast", contrast)
        return [(1.0, poisson_ratio(poisson)), (float(contrast), poisson_ratio(poisson))]
    if not isinstance(phases, Sequence) or not phases or any(np.size(phase) != 2 for phase in phases):
        raise ValueError(f"phases must be a list of (young, poisson) pairs, one for each label; it is {phases!r}.")
    return [(positive("Young's modulus", young), poisson_ratio(nu)) for young, nu in phases]


def positive(name: str, value) -> float:
    """A finite number above zero."""
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive finite number; it is {value!r}.")
    return float(value)


def positive_integer(name: str, value, least: int = 1) -> int:
    """A whole number, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; it is {value!r}.")
    return int(value)


def poisson_ratio(value) -> float:
    """A Poisson ratio for which isotropic stiffness is positive definite."""
    if not _is_number(value) or not -1 < value < 0.5:
        raise ValueError(f"poisson must lie between -1 and 0.5 (both excluded); it is {value!r}.")
    return float(value)


def one_of(name: str, value, known) -> str:
    """A name among the known ones."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; it is {value!r}.")
    return value


def mandel_vector(name: str, value, batch: int | None = None) -> torch.Tensor:
    """Six finite Mandel components, float64; with ``batch``, one row for each cell.

    Shape: (6,) or (B, 6) -> (6,), or (B, 6) where ``batch`` is given.
    """
    try:
        vector = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be six numbers in Mandel order; it is {value!r}.") from error
    allowed = [(6,)] + ([(batch, 6)] if batch is not None else [])
    if tuple(vector.shape) not in allowed:
        raise ValueError(
            f"{name} must have the shape {' or '.join(map(str, allowed))} "
            f"(Mandel order 11, 22, 33, 23, 13, 12); it has {tuple(vector.shape)}."
        )
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{name} contains NaN or infinity: {vector.tolist()}.")
    return vector if batch is None else vector.expand(batch, 6)


def floating(dtype) -> torch.dtype:
    """A dtype that the solvers work in."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64; it is {dtype!r}.")
    return dtype


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
