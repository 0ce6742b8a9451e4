"""The parameters of the notebooks: what each may be, and two values that show it to act.

:func:`rlnlib.book.notebook.check` holds a notebook's values against this table, ``tools/parameters_act.py`` runs every
notebook with both values of each, and the page on parameters prints it. A new parameter is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlnlib.green import DISCRETIZATIONS
from rlnlib.rln import KINDS


@dataclass(frozen=True)
class Parameter:
    """``small`` and ``other`` are values that must give other outputs; ``allowed`` are the least and the greatest
    value, the words that it may be, or nothing where any value of the type will do. Whole limits allow whole numbers.
    """

    allowed: tuple
    small: object
    other: object

    def in_words(self) -> str:
        """What the parameter may be, as the page says it; empty where any value will do."""
        words = [f"{part:g}" if isinstance(part, (int, float)) else str(part) for part in self.allowed]
        return (", " if self.allowed and isinstance(self.allowed[0], str) else " to ").join(words)


_MANY = 10**6
#: The least sizes are those that the generator's grains of up to 10 voxels fit into, also in a cell one voxel smaller.
PARAMETERS: dict[str, Parameter] = {
    "cell_size": Parameter((10, 512), 10, 11),
    "sample_size": Parameter((10, 512), 12, 14),
    "training_size": Parameter((11, 512), 12, 14),
    "grid_size": Parameter((3, 9), 3, 4),  # its operators are full matrices of 6 * 9**3 columns
    "grain_size": Parameter((1, 512), 3, 5),
    "largest_grain": Parameter((1, 512), 5, 8),
    "stiff_fraction": Parameter((0.0, 1.0), 0.4, 0.6),
    "target_stiffness": Parameter((0.0, 1.0), 0.3, 0.7),
    "contrast": Parameter((1e-6, 1e6), 10.0, 50.0),
    "largest_contrast": Parameter((3.0, 1e6), 10.0, 30.0),  # the sweeps start at 2 and 3
    "conductivity": Parameter((1e-6, 1e6), 20.0, 5.0),
    "reference_young": Parameter((1e-6, 1e6), 20.0, 5.0),
    "reference_poisson": Parameter((-0.99, 0.499), 0.25, 0.1),
    "discretization": Parameter(tuple(DISCRETIZATIONS), "rotated", "hex8"),
    "network": Parameter(tuple(KINDS), "fln", "rln-t"),
    "refinement": Parameter((1, 8), 2, 3),
    "n_points": Parameter((2, _MANY), 32, 40),
    "n_statistics": Parameter((1, _MANY), 2, 3),
    "n_fitted": Parameter((1, _MANY), 16, 24),
    "n_compared": Parameter((1, _MANY), 2, 3),
    "n_passes": Parameter((5, _MANY), 20, 30),
    "n_descents": Parameter((1, _MANY), 20, 30),
    "n_cells": Parameter((5, _MANY), 10, 20),
    "repeats": Parameter((1, _MANY), 5, 2),
    "live_size": Parameter((8, 64), 8, 10),
    "live_cells": Parameter((4, _MANY), 16, 24),
    "live_epochs": Parameter((4, _MANY), 4, 5),
    "n_train": Parameter((1, _MANY), 4, 6),
    "n_validation": Parameter((1, _MANY), 2, 3),
    "n_test": Parameter((2, _MANY), 4, 6),
    "epochs": Parameter((1, _MANY), 2, 3),
    "steps": Parameter((1, _MANY), 4, 6),
    "batch_size": Parameter((1, _MANY), 2, 4),
    "seed": Parameter((), 0, 1),  # `notebook.start` checks it, and the device
    "device": Parameter((), "auto", "cpu"),
    "cell_file": Parameter((), "", "cell.npy"),
    "run_folder": Parameter((), "", "runs"),
}
