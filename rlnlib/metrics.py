"""``MASE = 100 mean |y_pred - y_true| / y_R``: how far a predicted field is from the true one, and in which waves."""

import numpy as np
import torch

from rlnlib import _checks


def mase(predicted, true) -> torch.Tensor:
    """Mean absolute strain error of each cell, in percent.

    Args:
        predicted: (B, ...), divided by the macroscopic strain y_R; one cell is (1, N1, N2, N3).
        true: The same.

    Returns:
        (B,) float64.

    Raises:
        ValueError: for shapes that differ, a cell without the axis of the batch, an empty batch, or NaN.
    """
    predicted, true = _field("predicted", predicted), _field("true", true)
    if predicted.shape != true.shape:
        raise ValueError(
            f"predicted and true must have one shape (B, ...); they have {tuple(predicted.shape)} and "
            f"{tuple(true.shape)}."
        )
    if predicted.ndim == 3:
        raise ValueError(
            "predicted and true have three axes: pass field[None] of a cell, field[..., None] of pictures."
        )
    error = 100 * (predicted - true).abs().flatten(1).mean(1)  # eq. 29: (B,)
    if not bool(torch.isfinite(error).all()):
        raise ValueError("predicted and true differ by more than float64 can hold.")
    return error


def summary(errors, resamples: int = 2000) -> dict:
    """mean +- deviation of the errors of many cells, as Table 1 gives them, and how sure the mean is.

    Args:
        errors: (n,), at least two; or the differences of two networks' errors, cell by cell.
        resamples: draws of the bootstrap, from a fixed seed.

    Returns:
        ``cells``, ``mean``, ``deviation`` (of the cells), ``standard_error`` (of the mean), and ``interval``: the 95 %
        bootstrap interval of the mean, in the units of the errors.

    Raises:
        ValueError: for fewer than two errors, another shape, or NaN.
    """
    values = _field("errors", _checks.as_tensor(errors, "errors").unsqueeze(-1))[:, 0].numpy()
    if len(values) < 2:
        raise ValueError("A mean of one error has no deviation: pass at least two.")
    draw = np.random.default_rng(0)
    means = [values[draw.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    deviation = float(values.std(ddof=1))
    return {
        "cells": len(values),
        "mean": round(float(values.mean()), 4),
        "deviation": round(deviation, 4),
        "standard_error": round(deviation / len(values) ** 0.5, 5),
        "interval": [round(float(bound), 4) for bound in np.quantile(means, (0.025, 0.975))],
    }


def energy_by_wavelength(field, wavelengths) -> torch.Tensor:
    """How the mean square of a periodic field divides among its waves, without its mean (Parseval's theorem).

    The parts of a cell add up to its mean square deviation from its mean.

    Args:
        field: (B, N1, N2, N3).
        wavelengths: bounds in voxels, rising, (W,). The first part has the waves up to the first bound, the last part
            those longer than the last one.

    Returns:
        (B, W + 1) float64, in the square of the field's unit.

    Raises:
        ValueError: for a field of another shape or with NaN, and for bounds that do not rise.
    """
    field, bounds = _field("field", field), _checks.as_tensor(wavelengths, "wavelengths")
    if field.ndim != 4:
        raise ValueError(f"field must have the shape (B, N1, N2, N3); it has {tuple(field.shape)}.")
    bounds = bounds.to("cpu", torch.float64) if not bounds.is_complex() else bounds.new_zeros(1, dtype=torch.float64)
    if bounds.ndim != 1 or not bool((bounds.diff(prepend=bounds.new_zeros(1)) > 0).all()):
        raise ValueError(f"wavelengths must be positive and rise; they are {wavelengths!r}.")
    energy = torch.fft.fftn(field, dim=(1, 2, 3), norm="forward").abs().square().flatten(1)  # (B, voxels)
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in field.shape[1:]]
    length = 1 / torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt().flatten()  # (voxels,)
    parts = energy.new_zeros(len(field), len(bounds) + 1)
    return parts.index_add_(1, torch.bucketize(length[1:], bounds), energy[:, 1:])  # all but the mean


def _field(name: str, value) -> torch.Tensor:
    """Check a batch of real, finite fields. Shape: (B, ...) -> the same, float64 on the CPU. Raises ValueError."""
    field = _checks.as_tensor(value, name)
    if field.is_complex():
        raise ValueError(f"{name} must hold real numbers; its dtype is {field.dtype}.")
    if field.ndim < 2 or field.numel() == 0:
        raise ValueError(f"{name} must be a non-empty batch of fields (B, ...); its shape is {tuple(field.shape)}.")
    field = field.to("cpu", torch.float64)
    if not bool(torch.isfinite(field).all()):
        raise ValueError(f"{name} contains NaN or infinity, so its error is undefined.")
    return field
