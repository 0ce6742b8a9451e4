"""Reading a data set: its parameters, and its records as tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from rlnlib import _checks
from rlnlib.dataset.file import SPLITS, Imported, Parameters, Records, open_file, opened, parameters_of, reading


def read_parameters(path) -> Parameters | Imported:
    """Read what a data set was made with. Raises OSError if ``path`` is not a complete data set."""
    with opened(path) as file:
        return parameters_of(file)


class StrainDataset(Dataset):
    """Records of one split of a data set file, as pairs of tensors; each is compared with its checksum when read.

    Each item is (stiff uint8 (N, N, N), strain_xx float32 (N, N, N), divided by the macroscopic strain).

    Args:
        path: the file.
        split: "train", "validation" or "test"; all records without it.
        by_design: take the split that keeps the cells of one design together.
        in_memory: read all records now; else each worker process reads from the file by itself.

    Raises:
        OSError: the file is missing or damaged, or, when it is read, a record is.
        ValueError: an unknown split.
    """

    def __init__(self, path, split: str | None = None, by_design: bool = False, in_memory: bool = True):
        self.path: Path = _checks.as_path(path)
        by_design = _checks.boolean("by_design", by_design)
        in_memory = _checks.boolean("in_memory", in_memory)
        with opened(self.path) as file, reading(self.path):
            self.parameters = parameters_of(file)
            records = Records(file)
            kind = records.tables["split_by_design" if by_design else "split"]
            if split is None:
                self.records = np.arange(len(kind))
            else:
                self.records = np.flatnonzero(kind == SPLITS.index(_checks.one_of("split", split, SPLITS)))
            self._memory: tuple[torch.Tensor, torch.Tensor] | None = None
            if in_memory:
                box = (len(self.records), *(self.parameters.size,) * 3)
                self._memory = torch.empty(box, dtype=torch.uint8), torch.empty(box, dtype=torch.float32)
                for n, index in enumerate(self.records.tolist()):
                    record = records[index]
                    self._memory[0][n] = torch.from_numpy(record["stiff"])
                    self._memory[1][n] = torch.from_numpy(record["strain_xx"])
        self._open: tuple[int, Records] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if self._memory is not None:
            return [(self._memory[0][i], self._memory[1][i]) for i in indices]
        if self._open is None or self._open[0] != os.getpid():  # an HDF5 handle does not survive a fork
            self._open = (os.getpid(), Records(open_file(self.path)))
        with reading(self.path):
            records = [self._open[1][index] for index in self.records[indices]]
        return [(torch.from_numpy(r["stiff"]), torch.from_numpy(r["strain_xx"])) for r in records]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": None}

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read all records at once. Shape: -> stiff (n, N, N, N) uint8, strain_xx (n, N, N, N) float32."""
        if self._memory is not None:
            return self._memory
        stiff, strain = zip(*self.__getitems__(list(range(len(self)))), strict=True)
        return torch.stack(stiff), torch.stack(strain)
