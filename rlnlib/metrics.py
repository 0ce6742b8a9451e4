"""``MASE = 100 mean |y_pred - y_true| / y_R``: how far a predicted field is from the true one."""

from __future__ import annotations

import torch


def mase(predicted, true) -> torch.Tensor:
    """Mean absolute strain error of each cell, in percent (eq. 29).

    Both fields are already divided by the macroscopic strain y_R.

    Shape: (B, ...), (B, ...) -> (B,) float64.
    Raises ValueError for shapes that differ, an empty batch, or NaN.
    """
    predicted, true = _field("predicted", predicted), _field("true", true)
    if predicted.shape != true.shape:
        raise ValueError(
            f"predicted and true must have one shape (B, ...); they have {tuple(predicted.shape)} and "
            f"{tuple(true.shape)}."
        )
    return 100 * (predicted - true).abs().flatten(1).mean(1)


def _field(name: str, value) -> torch.Tensor:
    field = torch.as_tensor(value)
    if field.ndim < 2 or field.numel() == 0:
        raise ValueError(f"{name} must be a non-empty batch of fields (B, ...); its shape is {tuple(field.shape)}.")
    field = field.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(field).all()):
        raise ValueError(f"{name} contains NaN or infinity, so its error is undefined.")
    return field
