"""(cells, strain_xx): data sets of microstructures and their strain fields in one HDF5 file, made resumably.

:mod:`rlnlib.dataset.file` describes the file, :mod:`rlnlib.dataset.making` makes, verifies and repairs it.
"""

from rlnlib.dataset.file import Imported, Parameters
from rlnlib.dataset.making import (
    PROFILES,
    SPLITS,
    StrainDataset,
    draw_split,
    import_arrays,
    make_dataset,
    read_parameters,
    repair,
    verify,
)

__all__ = [
    "PROFILES",
    "SPLITS",
    "Imported",
    "Parameters",
    "StrainDataset",
    "draw_split",
    "import_arrays",
    "make_dataset",
    "read_parameters",
    "repair",
    "verify",
]
