"""y_i = 1 + f_i(m y_{i-1}, m y_{i-2}, ...): recurrent localization networks (section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import nn

from rlnlib import _checks, networks, solvers
from rlnlib.fast import cores

#: The paper's three models. All are RLN with other passes and tying.
KINDS: dict[str, dict] = {
    "fln": {"passes": 1, "tied": False},
    "rln-t": {"passes": 5, "tied": True},
    "rln": {"passes": 5, "tied": False},
}


class RLN(nn.Module):
    """FLN (one pass), RLN-t (tied weights) and RLN (a network for each pass) of the paper as one class.

    Each pass multiplies the newest and ``history`` earlier iterates by the phase indicators, maps them by its
    proximal network to a perturbation, subtracts that field's mean and adds the macroscopic strain, 1.
    ``proximal`` is a name of :data:`rlnlib.networks.PROXIMALS` or a function that makes a module from its number of
    input channels. ``batch_mean`` subtracts the mean over the whole batch instead, as the released code does: then
    a prediction depends on its batch mates.

    Shape: phases (B, 2, N1, N2, N3), soft then stiff -> (B, 1, N1, N2, N3), strain_xx / macroscopic strain; with
    ``return_iterates`` a list of one such field for each pass.
    Raises ValueError for bad counts, an unknown proximal name or a wrong shape.
    """

    def __init__(self, passes: int = 5, tied: bool = False, history: int = 2, proximal="vnet", batch_mean=False):
        super().__init__()
        self.passes = _checks.positive_integer("passes", passes)
        self.history = _checks.positive_integer("history", history, least=0)
        self.config: dict = {"passes": passes, "tied": bool(tied), "history": history, "batch_mean": bool(batch_mean)}
        self.mean_axes = (0, 1, 2, 3, 4) if batch_mean else (1, 2, 3, 4)
        inputs = 2 * (1 + history)
        if isinstance(proximal, str):
            self.config["proximal"] = proximal
        made = [
            networks.make_proximal(proximal, inputs) if isinstance(proximal, str) else proximal(inputs)
            for _ in range(1 if tied else passes)
        ]
        self.proximals = nn.ModuleList(made)

    def forward(self, phases: torch.Tensor, return_iterates: bool = False):
        if phases.ndim != 5 or phases.shape[1] != 2:
            raise ValueError(
                f"phases must have the shape (B, 2, N1, N2, N3), soft then stiff; it has {tuple(phases.shape)}. "
                f"rlnlib.rln.phase_indicators(stiff) makes it."
            )

        def perturbation(network):
            def f(past):
                segmented = torch.cat([phases * y for y in past], dim=1)  # (B, 2 (1 + history), N1, N2, N3)
                field = network(segmented)
                return field - field.mean(self.mean_axes, keepdim=True)

            return f

        reference = torch.ones_like(phases[:, :1])  # the macroscopic strain, divided by itself
        fs = [perturbation(self.proximals[i % len(self.proximals)]) for i in range(self.passes)]
        iterates = list(solvers.recurrence(fs, reference, self.history))
        return iterates if return_iterates else iterates[-1]

    def with_options(self, **options) -> RLN:
        """A copy with the same weights and other options: ``proximal="vnet-periodic"``, say, or ``batch_mean=True``.

        Raises ValueError if the weights do not fit, or the proximal is none of the library's, given by name.
        """
        if "proximal" not in (config := {**self.config, **options}):
            raise ValueError("Only a model whose proximal is one of the library's, given by name, can be copied so.")
        copy = RLN(**config)
        try:
            copy.load_state_dict(self.state_dict())
        except RuntimeError as error:
            raise ValueError(f"The weights of {self.config} do not fit {config}: {error}") from error
        return copy.train(self.training)


def phase_indicators(stiff, dtype=torch.float32) -> torch.Tensor:
    """m^h of eq. 11 as channels. Shape: (B, N1, N2, N3) bool or 0/1 -> (B, 2, N1, N2, N3), soft then stiff."""
    stiff = _checks.as_labels(stiff)
    return torch.stack([1 - stiff, stiff], dim=1).to(dtype)


#: Voxels predicted together, at most. CPU: of 31^3, one to four cells at a time take the same within a tenth, twelve
#: half as long again; of 16^3, 4 to 48 the same (float32, two cores). GPU: fills it.
_BATCH_VOXELS = {"cpu": 3 * 2**15, "cuda": 2**20}


def predict_strain(
    model: nn.Module, stiff, batch_size: int | None = None, dtype=torch.float32, device=None
) -> torch.Tensor:
    """Predicted strain_xx / macroscopic strain of cells loaded along axis 0.

    Runs in evaluation mode and leaves the model as it was. ``batch_size`` cells go through the model together; by
    default as many as suit the device (16 for a network that subtracts the mean over its batch). On a CPU each
    core takes batches of its own. ``dtype=torch.bfloat16`` runs the convolutions in reduced precision, which saves time
    where :func:`rlnlib.training.fast_precision` is "bf16-mixed", and takes a hundred times as long elsewhere.

    Shape: stiff (B, N1, N2, N3) or (N1, N2, N3), bool or 0/1 -> (B, N1, N2, N3) float32 on the CPU.
    Raises ValueError for bad cells, batch size or dtype.
    """
    stiff = _checks.as_labels(stiff)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16; it is {dtype!r}.")
    first = next(model.parameters(), torch.empty(0))
    device = torch.device(device) if device is not None else first.device
    voxels = stiff[0].numel()
    limit = _BATCH_VOXELS.get(device.type, _BATCH_VOXELS["cpu"])
    workers = torch.get_num_threads() if device.type == "cpu" and voxels <= limit else 1
    if batch_size is None:
        together = isinstance(model, RLN) and model.config["batch_mean"]
        # As many batches for each worker, all of one size; but no single cells, which take longer one by one.
        fit = max(1, limit // voxels)
        rounds = math.ceil(len(stiff) / (fit * workers))
        batch_size = 16 if together else min(fit, max(2, math.ceil(len(stiff) / (rounds * workers))))
    batch_size = _checks.positive_integer("batch_size", batch_size)

    @torch.no_grad()  # here, since it holds for one thread
    def predict(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            return model(phase_indicators(batch.to(device))).float().cpu()[:, 0]

    was_training, home = model.training, first.device
    model.eval().to(device)
    try:
        parts = list(cores.map_on_cores(predict, stiff.split(batch_size), workers))
    finally:
        model.train(was_training).to(home)
    return torch.cat(parts)
