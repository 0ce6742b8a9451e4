"""Companion library to "Recurrent Localization Networks applied to the Lippmann-Schwinger Equation".

Read the lesson in this order; the other modules serve it.

- The problem: :mod:`~rlnlib.elasticity`, :mod:`~rlnlib.microstructure`, :mod:`~rlnlib.problem`.
- The equation: :mod:`~rlnlib.discretizations`, :mod:`~rlnlib.green`, :mod:`~rlnlib.lippmann_schwinger`,
  :mod:`~rlnlib.other_physics`.
- Its solution: :mod:`~rlnlib.solvers`, :mod:`~rlnlib.equilibrium`, :mod:`~rlnlib.conjugate_gradient`,
  :mod:`~rlnlib.voxel_fe`.
- Learning it: :mod:`~rlnlib.networks`, :mod:`~rlnlib.rln`, :mod:`~rlnlib.training`, :mod:`~rlnlib.metrics`.
- Beyond the paper: :mod:`~rlnlib.regression`, :mod:`~rlnlib.informed`; crystals: :mod:`~rlnlib.engineering`.
"""

from rlnlib._version import __version__
from rlnlib.images import load_cell
from rlnlib.inference import predict_strain
from rlnlib.informed import InformedRLN, predict
from rlnlib.metrics import mase
from rlnlib.microstructure import generate_cells
from rlnlib.published import load_published
from rlnlib.rln import RLN
from rlnlib.solution import Solution
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
