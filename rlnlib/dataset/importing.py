"""(cells, strain) of other people as a data set: the arrays that the authors published, or others in their form.

Two ``.npy`` files make a pair: cells (n, 2, N, N, N), the indicators of the soft and of the stiff phase; strains
(n, N, N, N), (n, N^3) or (n, N^3, 6) with the axial strain first. Their last axis is the loading axis; ours is the
first. Nothing is read before it is used, a few records at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlnlib import _checks, metrics, voxel_fe
from rlnlib._files import replacing, writing
from rlnlib.dataset.file import SOLVED, Imported, write

#: Records read together.
_TOGETHER = 32


def import_arrays(path, contrast: float, train=None, validation=None, test=None, poisson: float = 0.3) -> Path:
    """The authors' published arrays, or others in their form, as a data set of this layout.

    A UserWarning names a file whose first strain field is far from our own solution of its cell.

    Args:
        path: the file to be made.
        contrast, poisson: of the material that the strains were computed for.
        train, validation, test: each a pair of ``.npy`` files (cells, strain) in the form that
            :mod:`rlnlib.dataset.importing` describes; at least one is needed.

    Returns:
        the path.

    Raises:
        ValueError: the arrays have another form.
        OSError: a file cannot be read, or ``path`` exists or cannot be written.
    """
    path = _checks.as_path(path)
    if path.exists():
        raise OSError(f"{path} exists: choose another name, or move it away.")
    given = {kind: files for kind, files in enumerate((train, validation, test)) if files is not None}
    if not given:
        raise ValueError("Nothing to import: give the files (cells, strain) of train, validation or test.")
    contrast, poisson = _checks.positive("contrast", contrast), _checks.poisson_ratio(poisson)
    names = ("train", "validation", "test")
    pairs = [
        Pair(*(_checks.as_path(file, names[kind]) for file in _checks.pair(names[kind], files)))
        for kind, files in given.items()
    ]
    sizes = {pair.size for pair in pairs}
    if len(sizes) > 1:
        raise ValueError(f"The files hold cells of different sizes ({sorted(sizes)}): import them one by one.")
    counts = [len(pair) for pair in pairs]
    n, size = sum(counts), sizes.pop()
    source = ", ".join(file.name for pair in pairs for file in pair.files)
    split = np.repeat(np.array(list(given), np.uint8), counts)
    tables: dict[str, np.ndarray] = {
        "grain_size": np.zeros((n, 3), np.int64),
        "stiff_fraction": np.empty(n),
        "split": split,
        "split_by_design": split,
    }

    def records():
        first = 0
        for pair in pairs:
            pair.compare_with_ours(contrast, poisson)
            for stiff, strain in pair.records():
                part = slice(first, first + len(stiff))
                tables["stiff_fraction"][part] = stiff.mean((1, 2, 3))
                unknown = np.zeros(len(stiff), np.int64), np.full(len(stiff), np.nan)
                yield part, dict(zip(SOLVED, (stiff, strain, *unknown), strict=True))
                first = part.stop

    with writing(path), replacing(path) as partial:
        write(partial, Imported(n, size, contrast, poisson, source), tables, records())
    return path


class Pair:
    """The cells of one file and the strains of another.

    Raises OSError for a file that is missing or cannot be read, ValueError for arrays of another form.
    """

    def __init__(self, cells_file, strain_file):
        self.files = _checks.as_path(cells_file, "cells"), _checks.as_path(strain_file, "strain")
        self._cells, strain = map(_open, self.files)
        n, size = len(self._cells), self._cells.shape[-1]
        if self._cells.shape != (n, 2, size, size, size) or not n:
            raise ValueError(
                f"{self.files[0]} must hold cells of the shape (n, 2, N, N, N); its shape is {self._cells.shape}."
            )
        if strain.shape == (n, size**3, 6):
            strain = strain[..., 0]
        if strain.shape not in ((n, size, size, size), (n, size**3)):
            raise ValueError(
                f"{self.files[1]} must hold strains of the shape {(n, size, size, size)}, {(n, size**3)} or "
                f"{(n, size**3, 6)}, as {self.files[0].name} has {n} cells of {size}^3; its shape is {strain.shape}."
            )
        self._strain = strain.reshape(n, size, size, size)
        self.size = size

    def __len__(self) -> int:
        return len(self._cells)

    def records(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The records in our axes, the strain divided by the mean of its file, which must be that of each cell to 1 %.

        Shape: yields stiff (m, N, N, N) uint8 and strain_xx (m, N, N, N) float32.
        Raises ValueError for cells that are no indicators, or fields of several macroscopic strains.
        """
        parts = [slice(start, start + _TOGETHER) for start in range(0, len(self), _TOGETHER)]
        scale = sum(self._strain[part].sum(dtype=np.float64) for part in parts) / self._strain.size
        for part in parts:
            soft, stiff = np.swapaxes(self._cells[part], 2, 4).swapaxes(0, 1)
            if not np.isin(stiff, (0, 1)).all() or (soft + stiff != 1).any():
                raise ValueError(
                    f"{self.files[0]} must hold indicators: in each voxel one of its two channels is 1, the other 0."
                )
            strain = np.swapaxes(self._strain[part], 1, 3) / scale
            if not (np.abs(strain.mean((1, 2, 3), dtype=np.float64) - 1) < 0.01).all():
                raise ValueError(
                    f"{self.files[1]} must hold the axial strains of cells under one macroscopic strain: "
                    f"the mean of some cell is NaN, or differs from that of the file by more than 1 %."
                )
            yield np.ascontiguousarray(stiff, np.uint8), np.ascontiguousarray(strain, np.float32)

    def compare_with_ours(self, contrast: float, poisson: float) -> None:
        """Warn where the first strain field is far from our own solution of its cell."""
        stiff, strain = (field[:1] for field in next(self.records()))
        ours = voxel_fe.solve_strain(stiff, contrast, poisson, rtol=1e-4).strain[:, 0]
        error = float(metrics.mase(strain, ours)[0])
        if error > 10:
            warnings.warn(
                f"The first field of {self.files[1]} differs by {error:.0f} % (mean absolute strain error) from our "
                f"solution at contrast {contrast:g} and Poisson ratio {poisson:g}, where finite elements differ by 4 % "
                f"at most: check these two, that the last axis is the loading axis, and that channel 1 is the stiff "
                f"phase.",
                UserWarning,
                stacklevel=3,
            )


def _open(file: Path) -> np.ndarray:
    if not file.exists():
        raise FileNotFoundError(f"No file {file}: check the name and the working folder ({Path.cwd()}).")
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own reason
            raise
        short = " It is truncated: copy it again." if "mmap length" in str(error) or "EOF" in str(error) else ""
        raise OSError(f"{file} cannot be read as .npy ({error}).{short}") from error
