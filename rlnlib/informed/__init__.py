"""One network for every contrast, load, phase and size, which is told the equation; its predictions, and their bounds.

:mod:`rlnlib.informed.network` is the network and its losses, :mod:`rlnlib.informed.certificate` bounds how far a field
is from the solution, :mod:`rlnlib.informed.prediction` applies the network to any load.
"""

from rlnlib.informed.network import (
    ANSWERS,
    REFERENCE_POISSON,
    RESIDUALS,
    Cells,
    InformedRLN,
    energy_loss,
    residual_loss,
    start_at_zero,
    strain_loss,
)
from rlnlib.informed.prediction import predict

__all__ = [
    "ANSWERS",
    "REFERENCE_POISSON",
    "RESIDUALS",
    "Cells",
    "InformedRLN",
    "energy_loss",
    "predict",
    "residual_loss",
    "start_at_zero",
    "strain_loss",
]
