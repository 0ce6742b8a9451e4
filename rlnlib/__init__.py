"""Companion library to "Recurrent Localization Networks applied to the Lippmann-Schwinger Equation"."""
from rlnlib.voxel_fe import effective_stiffness, solve_strain

__version__ = "0.1.0"
