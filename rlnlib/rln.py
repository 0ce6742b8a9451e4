"""y_i = 1 + f_i(m y_{i-1}, m y_{i-2}, ...): recurrent localization networks (section 3.2)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from rlnlib import _checks, proximals, solvers

#: The paper's three models. All are RLN with other passes and tying.
KINDS: dict[str, dict] = {
    "fln": {"passes": 1, "tied": False},
    "rln-t": {"passes": 5, "tied": True},
    "rln": {"passes": 5, "tied": False},
}


class RLN(nn.Module):
    """FLN (one pass), RLN-t (tied weights) and RLN (a network for each pass) of the paper as one class.

    Each pass multiplies the newest and ``history`` earlier iterates by the phase indicators, maps them by its
    proximal network to a perturbation, subtracts that field's mean and adds the macroscopic strain, 1. All weights are
    float32, whatever torch's default is.

    Args:
        passes: N, the number of passes (eq. 22).
        tied: whether all passes share one proximal network.
        history: k, the number of earlier iterates that a pass sees beside the newest.
        proximal: a name of :data:`rlnlib.networks.PROXIMALS`; or a function or class, yours too, that makes a module
            from its number of input channels; or "module:name" of one, which is imported.
        batch_mean: subtract the mean over the whole batch, as the released code does, in place of each cell's. A
            prediction then depends on its batch mates.

    Shape: indicators (B, 2, N1, N2, N3), soft then stiff -> (B, 1, N1, N2, N3), strain_xx / macroscopic strain; with
    ``return_iterates`` a list of one such field for each pass.

    Raises:
        ValueError: for bad counts, an unknown proximal name or a wrong shape.
    """

    def __init__(self, passes: int = 5, tied: bool = False, history: int = 2, proximal="vnet", batch_mean=False):
        super().__init__()
        self.passes = _checks.positive_integer("passes", passes, most=1000)
        self.history = _checks.positive_integer("history", history, least=0, most=100)
        tied, batch_mean = _checks.boolean("tied", tied), _checks.boolean("batch_mean", batch_mean)
        self.config: dict = {"passes": self.passes, "tied": tied, "history": self.history, "batch_mean": batch_mean}
        self.config["proximal"] = proximals.full_name(proximal)
        self.make_proximal = proximals.find_proximal(proximal)
        self.mean_axes = (0, 1, 2, 3, 4) if batch_mean else (1, 2, 3, 4)
        inputs = 2 * (1 + self.history)
        self.proximals = nn.ModuleList(
            proximals.make_proximal(self.make_proximal, inputs) for _ in range(1 if tied else self.passes)
        )
        self.float()

    def forward(self, indicators: torch.Tensor, return_iterates: bool = False):
        if indicators.ndim != 5 or indicators.shape[1] != 2:
            raise ValueError(
                f"indicators must have the shape (B, 2, N1, N2, N3), soft then stiff; they have "
                f"{tuple(indicators.shape)}. rlnlib.rln.phase_indicators(stiff) makes them."
            )

        def f(network, past):  # newest first, 1 + history fields (B, 1, N1, N2, N3)
            segmented = torch.cat([indicators * y for y in past], dim=1)  # (B, 2 (1 + history), N1, N2, N3)
            field = network(segmented)  # (B, 1, N1, N2, N3)
            if field.shape != past[0].shape:
                raise ValueError(
                    f"proximal must make a network from {tuple(segmented.shape)} to {tuple(past[0].shape)}; this one "
                    f"gave {tuple(field.shape)}."
                )
            return field - field.mean(self.mean_axes, keepdim=True)  # a perturbation has mean zero (section 3.2)

        reference = torch.ones_like(indicators[:, :1])  # the macroscopic strain, divided by itself
        fs = [partial(f, self.proximals[i % len(self.proximals)]) for i in range(self.passes)]
        iterates = list(solvers.recurrence(fs, reference, self.history))  # eq. 21: y_1 to y_N of F_theta(y_R, m)
        return iterates if return_iterates else iterates[-1]

    def with_options(self, **options) -> RLN:
        """Copy the model with the same weights and other options: ``proximal="vnet-periodic"``, say.

        Raises:
            ValueError: if the weights do not fit.
        """
        other = RLN(**{**self.config, "proximal": self.make_proximal, **options})
        try:
            other.load_state_dict(self.state_dict())
        except RuntimeError as error:
            raise ValueError(f"The weights of {self.config} do not fit {other.config}: {error}") from error
        return other.train(self.training)


def phase_indicators(stiff, dtype=torch.float32) -> torch.Tensor:
    """Write cells as channels, one for each phase, 1 where it is and 0 elsewhere.

    Args:
        stiff: (B, N1, N2, N3), or (N1, N2, N3) for a batch of one; bool or 0/1.
        dtype: of the result.

    Returns:
        (B, 2, N1, N2, N3), soft then stiff.

    Raises:
        ValueError: for another shape, or other labels than 0 and 1.
    """
    stiff = _checks.as_labels(stiff)
    return torch.stack([1 - stiff, stiff], dim=1).to(dtype)  # m^h of eq. 11
