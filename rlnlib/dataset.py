"""(cells, strain_xx): data sets of microstructures and their strain fields in one HDF5 file, made resumably.

Layout (n records of N^3 voxels)::

    /stiff             uint8   (n, N, N, N)   1 where the stiff phase is; axis 0 is the loading axis
    /strain_xx         float32 (n, N, N, N)   axial strain divided by the macroscopic strain
    /grain_size        int64   (n, 3)         the design, by array axis
    /stiff_fraction    float64 (n,)           the design
    /iterations        int64   (n,)           of the solver
    /residual          float64 (n,)           ||residual|| / ||rhs||, recomputed
    /split             uint8   (n,)           0 train, 1 validation, 2 test: 40/20/40 % drawn by cell, as in the paper
    /split_by_design   uint8   (n,)           the same drawn by design point, so that sisters stay together
    /crc32             uint32  (n,)           of the record's cell and strain
    attributes: parameters (JSON), library_version, complete

Blocks of records are solved one after the other into ``FILE.parts/``, each file written in full before it gets its
name, and joined at the end; so a killed run loses at most the block in flight, and a file under its final name is
complete.

Command line: ``python -m rlnlib.dataset make|verify|repair|info FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from rlnlib import _checks, microstructure, voxel_fe
from rlnlib._version import __version__

SPLITS = ("train", "validation", "test")
#: Records solved and saved together: what a kill can lose.
BLOCK = 32
_FIELDS = ("stiff", "strain_xx", "iterations", "residual", "crc32")


@dataclass(frozen=True)
class Parameters:
    """What a data set is made from; a file made with others is refused.

    The tolerance 1e-4 leaves 0.006 % MASE against 1e-10 at contrast 50 and 31^3 (mean of 32 cells; worst 0.023 %),
    where the paper's best network errs by 2.92 %.
    """

    n: int
    size: int = 31
    contrast: float = 50.0
    poisson: float = 0.3
    grain_size: tuple[int, int] = (1, 10)
    stiff_fraction: tuple[float, float] = (0.0, 1.0)
    repeats: int = 1
    seed: int = 0
    discretization: str = "bbar"
    rtol: float = 1e-4

    def __post_init__(self):
        # JSON knows neither tuples nor NumPy numbers; parameters that are equal must look equal.
        object.__setattr__(self, "grain_size", tuple(int(g) for g in self.grain_size))
        object.__setattr__(self, "stiff_fraction", tuple(float(f) for f in self.stiff_fraction))
        for name in ("contrast", "poisson", "rtol"):
            object.__setattr__(self, name, float(getattr(self, name)))
        _checks.positive("contrast", self.contrast)
        _checks.poisson_ratio(self.poisson)
        # Refuses, before anything is written, what cannot be generated.
        microstructure.generate_cells(self.repeats, self.size, self.grain_size, self.stiff_fraction, self.repeats)
        if _checks.positive_integer("n", self.n) % self.repeats:
            raise ValueError(f"n must be a multiple of repeats; {self.n} is not one of {self.repeats}.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def make_dataset(path, n: int, *, device=None, progress: bool = False, **parameters) -> Path:
    """Generate cells, solve them, and write ``path``; takes up where a killed run stopped.

    ``parameters`` are those of :class:`Parameters`. A complete file of the same parameters is left as it is.
    Raises ValueError for bad parameters, OSError for a file made with other ones or a place that cannot be written.
    """
    path, wanted = Path(path), Parameters(n, **parameters)
    if path.exists():
        found = read_parameters(path)
        if found != wanted:
            raise OSError(
                f"{path} exists and was made with other parameters ({found.to_json()}): "
                f"choose another name, or delete it."
            )
        return path
    parts = path.with_name(path.name + ".parts")
    with _writing(path):
        parts.mkdir(parents=True, exist_ok=True)
        _same_run(parts / "parameters.json", wanted)
        sizes, fractions = microstructure.design(
            wanted.n // wanted.repeats, wanted.grain_size, wanted.stiff_fraction, wanted.seed
        )
        blocks = [range(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]
        missing = [block for block in blocks if _load_block(_block_file(parts, block)) is None]
        with tqdm(total=n, initial=n - sum(map(len, missing)), unit="cell", disable=not progress) as bar:
            for block in missing:
                _save_block(_block_file(parts, block), _solve_block(wanted, block, sizes, fractions, device))
                bar.update(len(block))
        _join(path, parts, wanted, blocks, sizes, fractions)
    shutil.rmtree(parts)
    return path


def read_parameters(path) -> Parameters:
    """The parameters that a data set was made with. Raises OSError if ``path`` is not a complete data set."""
    with _open(path) as file:
        return Parameters(**json.loads(file.attrs["parameters"]))


def verify(path) -> list[int]:
    """The records whose cell or strain no longer matches its checksum; empty if the file is sound."""
    with _open(path) as file:
        damaged = []
        for index in range(len(file["crc32"])):
            try:
                sound = _crc32(file["stiff"][index], file["strain_xx"][index]) == file["crc32"][index]
            except OSError:
                sound = False
            if not sound:
                damaged.append(index)
        return damaged


def repair(path) -> list[int]:
    """Recompute the damaged records of a data set, in place; returns which they were."""
    damaged, parameters = verify(path), read_parameters(path)
    sizes, fractions = microstructure.design(
        parameters.n // parameters.repeats, parameters.grain_size, parameters.stiff_fraction, parameters.seed
    )
    with h5py.File(path, "r+") as file:
        for index in damaged:
            # The whole block, so that the numbers are those of the first time to the last bit.
            first = index // BLOCK * BLOCK
            block = range(first, min(first + BLOCK, parameters.n))
            records = _solve_block(parameters, block, sizes, fractions, None)
            for name in _FIELDS:
                file[name][index] = records[name][index - first]
    return damaged


class StrainDataset(Dataset):
    """Records of one split of a data set file, as pairs of tensors.

    Each item is (stiff uint8 (N, N, N), strain_xx float32 (N, N, N), divided by the macroscopic strain). With
    ``in_memory=False`` each worker process reads from the file by itself.

    Raises OSError for a missing or damaged file, ValueError for an unknown split.
    """

    def __init__(self, path, split: str | None = None, by_design: bool = False, in_memory: bool = True):
        self.path, self.parameters = Path(path), read_parameters(path)
        with _open(path) as file:
            kind = file["split_by_design" if by_design else "split"][:]
            if split is None:
                self.records = np.arange(len(kind))
            else:
                self.records = np.flatnonzero(kind == SPLITS.index(_checks.one_of("split", split, SPLITS)))
            self._memory = None
            if in_memory:
                self._memory = tuple(torch.from_numpy(file[name][:][self.records]) for name in _FIELDS[:2])
        self._file: tuple[int, h5py.File] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if self._memory is not None:
            return [(self._memory[0][i], self._memory[1][i]) for i in indices]
        if self._file is None or self._file[0] != os.getpid():  # an HDF5 handle does not survive a fork
            self._file = (os.getpid(), h5py.File(self.path, "r"))
        file = self._file[1]
        records = [self.records[i] for i in indices]
        return [(torch.from_numpy(file["stiff"][i]), torch.from_numpy(file["strain_xx"][i])) for i in records]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All records at once. Shape: -> stiff (n, N, N, N) uint8, strain_xx (n, N, N, N) float32."""
        stiff, strain = zip(*self.__getitems__(list(range(len(self)))), strict=True)
        return torch.stack(stiff), torch.stack(strain)


def _solve_block(parameters: Parameters, block: range, sizes, fractions, device) -> dict[str, np.ndarray]:
    stiff = np.stack(
        [
            microstructure.generate_cell(i, sizes, fractions, parameters.size, parameters.repeats, parameters.seed)
            for i in block
        ]
    )
    solution = voxel_fe.solve_strain(
        stiff,
        parameters.contrast,
        parameters.poisson,
        discretization=parameters.discretization,
        rtol=parameters.rtol,
        dtype=torch.float32,
        device=device,
    )
    stiff, strain = stiff.astype(np.uint8), solution.strain[:, 0].cpu().numpy()
    return {
        "stiff": stiff,
        "strain_xx": strain,
        "iterations": solution.iterations.cpu().numpy(),
        "residual": solution.residual.cpu().numpy(),
        "crc32": np.array([_crc32(a, b) for a, b in zip(stiff, strain, strict=True)], dtype=np.uint32),
    }


def _crc32(stiff: np.ndarray, strain: np.ndarray) -> int:
    return zlib.crc32(strain.tobytes(), zlib.crc32(stiff.tobytes()))


def _block_file(parts: Path, block: range) -> Path:
    return parts / f"{block.start:06d}.npz"


def _save_block(path: Path, records: dict[str, np.ndarray]) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, **records)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _load_block(path: Path) -> dict[str, np.ndarray] | None:
    """A finished block, or None if it has to be made (again). Reading checks the archive's own checksums."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in _FIELDS}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _same_run(path: Path, wanted: Parameters) -> None:
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(wanted.to_json())
        os.replace(partial, path)
    elif Parameters(**json.loads(path.read_text())) != wanted:
        raise OSError(
            f"{path.parent} holds the beginning of a data set with other parameters ({path.read_text()}): "
            f"finish that one, choose another name, or delete the folder."
        )


def _join(path: Path, parts: Path, parameters: Parameters, blocks, sizes, fractions) -> None:
    partial = path.with_name(path.name + ".partial")
    n, shape = parameters.n, (parameters.size,) * 3
    points = np.arange(n) // parameters.repeats
    with h5py.File(partial, "w", libver="latest", track_order=False) as file:
        file.create_dataset("stiff", (n, *shape), np.uint8, chunks=(1, *shape), compression="gzip", shuffle=True)
        file.create_dataset("strain_xx", (n, *shape), np.float32, chunks=(1, *shape))
        for name, dtype in (("iterations", np.int64), ("residual", np.float64), ("crc32", np.uint32)):
            file.create_dataset(name, (n,), dtype)
        for block in blocks:
            records = _load_block(_block_file(parts, block))
            if records is None:
                raise OSError(f"{_block_file(parts, block)} was damaged while joining: run the same command again.")
            for name in _FIELDS:
                file[name][block.start : block.stop] = records[name]
        file["grain_size"], file["stiff_fraction"] = sizes[points], fractions[points]
        file["split"] = _split(n, parameters.seed)
        file["split_by_design"] = _split(len(sizes), parameters.seed)[points]
        file.attrs.update(parameters=parameters.to_json(), library_version=__version__, complete=True)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _split(n: int, seed: int) -> np.ndarray:
    """40 % train, 20 % validation, the rest test, in random order."""
    kind = np.full(n, 2, dtype=np.uint8)
    kind[: round(0.6 * n)] = 1
    kind[: round(0.4 * n)] = 0
    return np.random.default_rng([seed, 1]).permutation(kind)


@contextmanager
def _open(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No data set {path}: make it with `python -m rlnlib.dataset make {path} --n ...`.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise OSError(f"{path} is not a readable HDF5 file ({error}): it may be truncated; make it again.") from error
    with file:
        if not file.attrs.get("complete", False) or any(name not in file for name in _FIELDS):
            raise OSError(f"{path} is an HDF5 file, but not a complete data set of this library.")
        yield file


@contextmanager
def _writing(path: Path):
    try:
        yield
    except OSError as error:
        if error.errno is None:  # ours, with its sentence
            raise
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}). Finished blocks are kept in {path}.parts; "
            f"make room or choose a folder that can be written, and run the same command again",
        ) from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlnlib.dataset", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="generate and solve; run again after a kill to go on")
    make.add_argument("path")
    make.add_argument("--n", type=int, default=20480, help="number of cells (default: the paper's 20480)")
    make.add_argument("--size", type=int, default=31)
    make.add_argument("--contrast", type=float, default=50.0)
    make.add_argument("--repeats", type=int, default=5, help="random cells for each design point")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--rtol", type=float, default=Parameters.rtol)
    make.add_argument("--device", default=None)
    for name, text in (
        ("verify", "name the damaged records"),
        ("repair", "recompute the damaged records"),
        ("info", "print what the file holds"),
    ):
        commands.add_parser(name, help=text).add_argument("path")
    options = vars(parser.parse_args(arguments))
    command, path = options.pop("command"), options.pop("path")
    try:
        if command == "make":
            print(make_dataset(path, progress=True, **options))
            return 0
        if command == "info":
            print(read_parameters(path).to_json())
            return 0
        damaged = verify(path) if command == "verify" else repair(path)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    done = "damaged" if command == "verify" else "recomputed"
    print(f"{len(damaged)} records {done}{': ' if damaged else ''}{', '.join(map(str, damaged))}")
    return 1 if damaged and command == "verify" else 0


if __name__ == "__main__":
    sys.exit(main())
