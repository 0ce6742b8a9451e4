"""(cells, strain) of other people: the arrays that the authors published, or others in their form.

Two ``.npy`` files make a pair: cells (n, 2, N, N, N), the indicators of the soft and of the stiff phase; strains
(n, N, N, N), (n, N^3) or (n, N^3, 6) with the axial strain first. Their last axis is the loading axis; ours is the
first. Nothing is read before it is used, a few records at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlnlib import metrics, voxel_fe

#: Records read together.
_TOGETHER = 32


class Pair:
    """The cells of one file and the strains of another.

    Raises OSError for a file that is missing or cannot be read, ValueError for arrays of another form.
    """

    def __init__(self, cells_file, strain_file):
        self.files = Path(cells_file), Path(strain_file)
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
        """A UserWarning where the first strain field is far from our own solution of its cell."""
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
        raise OSError(f"{file} cannot be read as .npy ({error}): it may be truncated; copy it again.") from error
