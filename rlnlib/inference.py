"""A network of the paper applied to cells: in batches that suit the device, on all cores, the model left as it was."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from rlnlib import _checks
from rlnlib.fast import cores
from rlnlib.networks import PROXIMALS
from rlnlib.rln import RLN, phase_indicators

#: Voxels predicted together, at most. On a CPU a cell of 31^3 takes the same time, within a tenth, for one to four
#: cells together, half as long again for twelve; of 16^3, the same for 4 to 48 (float32, two cores). A GPU wants more.
BATCH_VOXELS = {"cpu": 3 * 2**15, "cuda": 2**20}
#: Bytes a voxel that a network of the library takes at its peak, at least: 610 to 1270 in float32 (95^3 and 96^3).
LEAST_BYTES = 600


def predict_strain(
    model: nn.Module,
    stiff,
    batch_size: int | None = None,
    dtype=torch.float32,
    device=None,
    return_iterates: bool = False,
) -> torch.Tensor:
    """Predict strain_xx / macroscopic strain of cells loaded along axis 0.

    The model computes in evaluation mode, without gradients, and is left as it was. Several threads may predict with
    one model. On a CPU each core takes batches of its own.

    Args:
        model: an :class:`RLN`, or a module with the same call.
        stiff: cells (B, N1, N2, N3), or one cell (N1, N2, N3); bool or 0/1.
        batch_size: cells that go through the model together. By default as many as suit the device, and 16 for a
            network that subtracts the mean over its batch.
        dtype: ``torch.bfloat16`` runs the convolutions in reduced precision. That saves time where
            :func:`rlnlib.training.fast_precision` is "bf16-mixed", and takes a hundred times as long elsewhere.
        device: where to compute; by default where the model is.
        return_iterates: return the field after each pass.

    Returns:
        The field of each cell (B, N1, N2, N3), float32 on the CPU; with ``return_iterates`` those of all passes,
        (passes, B, N1, N2, N3).

    Raises:
        ValueError: for bad cells, batch size, dtype or device, or where the memory does not suffice.
    """
    stiff = _checks.as_labels(stiff)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a network, as rlnlib.load_pretrained gives it; it is {type(model).__name__}.")
    if hasattr(model, "guaranteed"):
        raise ValueError("An informed network takes the moduli and the load, too: call rlnlib.predict.")
    _checks.floating(dtype, (torch.float32, torch.bfloat16))
    _checks.boolean("return_iterates", return_iterates)
    home = next(model.parameters(), torch.empty(0)).device
    device = _checks.as_device(device, default=home)
    if device != home or any(module.training for module in model.modules()):
        # A copy, since other threads may use the model meanwhile, and the device may refuse it.
        model = copy.deepcopy(model).eval().to(device)
    voxels = stiff[0].numel()
    limit = BATCH_VOXELS.get(device.type, BATCH_VOXELS["cpu"])
    workers = torch.get_num_threads() if device.type == "cpu" and voxels <= limit else 1
    if batch_size is None:
        together = isinstance(model, RLN) and model.config["batch_mean"]
        # Every worker gets as many batches, all of one size; none of a single cell, which takes longer alone.
        fit = max(1, limit // voxels)
        rounds = math.ceil(len(stiff) / (fit * workers))
        batch_size = 16 if together else min(fit, max(2, math.ceil(len(stiff) / (rounds * workers))))
    batch_size = _checks.positive_integer("batch_size", batch_size)
    if device.type == "cpu" and isinstance(model, RLN) and model.config["proximal"] in PROXIMALS:
        cells = min(batch_size, len(stiff))
        _checks.memory(f"A prediction of {cells} x {tuple(stiff[0].shape)} voxels", LEAST_BYTES * cells * voxels)

    @torch.no_grad()  # set in each thread: it holds for one thread alone
    def predict(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            indicators = phase_indicators(batch.to(device))  # (b, 2, N1, N2, N3)
            fields = model(indicators, return_iterates=True) if return_iterates else [model(indicators)]
        return torch.stack([field.float().cpu()[:, 0] for field in fields])  # (passes or 1, b, N1, N2, N3)

    fields = torch.cat(list(cores.map_on_cores(predict, stiff.split(batch_size), workers)), dim=1)  # (passes, B, N...)
    return fields if return_iterates else fields[0]
