"""Companion library to "Recurrent Localization Networks applied to the Lippmann-Schwinger Equation"."""

from rlnlib._version import __version__
from rlnlib.images import load_cell
from rlnlib.informed import InformedRLN, predict
from rlnlib.metrics import mase
from rlnlib.microstructure import generate_cells
from rlnlib.published import load_published
from rlnlib.rln import RLN, predict_strain
from rlnlib.solvers import Solution
from rlnlib.voxel_fe import effective_stiffness, solve_strain
from rlnlib.weight_files import load_pretrained

__all__ = [
    "RLN",
    "InformedRLN",
    "Solution",
    "__version__",
    "effective_stiffness",
    "generate_cells",
    "load_cell",
    "load_pretrained",
    "load_published",
    "mase",
    "predict",
    "predict_strain",
    "solve_strain",
]
