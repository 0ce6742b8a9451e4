"""(cells, strain_xx): data sets of microstructures and their strain fields in one HDF5 file, made resumably.

:mod:`rlnlib.dataset.file` describes the file, :mod:`rlnlib.dataset.making` makes it, :mod:`rlnlib.dataset.mending`
verifies and repairs it, :mod:`rlnlib.dataset.importing` takes arrays of other people. On the command line:
``python -m rlnlib.dataset make|verify|repair|info|import``.
"""

from rlnlib.dataset.file import SPLITS, Imported, Parameters
from rlnlib.dataset.importing import import_arrays
from rlnlib.dataset.making import PROFILES, draw_split, make_dataset
from rlnlib.dataset.mending import repair, verify
from rlnlib.dataset.reading import StrainDataset, read_parameters

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
