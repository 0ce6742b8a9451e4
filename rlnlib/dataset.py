"""(cells, strain_xx): data sets of microstructures and their strain fields in one HDF5 file, made resumably.

Layout (n records of N^3 voxels; one record is one chunk)::

    /stiff             uint8   (n, N, N, N)     1 where the stiff phase is; axis 0 is the loading axis
    /strain_xx         float32 (n, N, N, N)     axial strain divided by the macroscopic strain
    /strain            float32 (n, 6, N, N, N)  with all_components: all of it, Mandel order 11, 22, 33, 23, 13, 12
    /grain_size        int64   (n, 3)           the design, by array axis
    /stiff_fraction    float64 (n,)             the design
    /iterations        int64   (n,)             of the solver
    /residual          float64 (n,)             ||residual|| / ||rhs||, recomputed
    /split             uint8   (n,)             0 train, 1 validation, 2 test: 40/20/40 % drawn by cell, as in the paper
    /split_by_design   uint8   (n,)             the same drawn by design point, so that sisters stay together
    /crc32             uint32  (n,)             of all of the above for the record
    attributes: layout, library_version, parameters (JSON), and each single one (contrast, poisson, rtol, seed, ...)

An imported file has the parameters of Imported; what is not known of its records is 0, or NaN for the residual.

Blocks of records are solved one after the other into ``FILE.parts/``, each file written in full before it gets its
name, and joined at the end; so a killed run loses at most the block in flight, and a file under its final name is
complete. Several processes share the work where torchrun or ``fabric run`` started them: each makes its own share of
the records, and the last to finish joins all; on several nodes, in a folder that all of them see.

Command line::

    python -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
    torchrun --nproc-per-node 2 -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
    python -m rlnlib.dataset verify|repair|info FILE
    python -m rlnlib.dataset import OUT.h5 --contrast 10 --train 31_c10_train.npy 31_c10_train_strain.npy
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from rlnlib import _checks, green, metrics, microstructure, voxel_fe
from rlnlib._version import __version__

LAYOUT = 1
SPLITS = ("train", "validation", "test")
#: Sizes of data sets by name; five cells a design point.
PROFILES = {
    "ci": {"n": 40, "size": 16, "repeats": 5},
    "laptop": {"n": 3560, "size": 16, "repeats": 5},
    "paper": {"n": 20480, "size": 31, "repeats": 5},
}
_SOLVED = ("stiff", "strain_xx", "iterations", "residual")
_TABLES = ("grain_size", "stiff_fraction", "split", "split_by_design")


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
    all_components: bool = False

    def __post_init__(self):
        # JSON and HDF5 know no tuples, and bring their own numbers; parameters that are equal must look equal.
        object.__setattr__(self, "grain_size", tuple(int(g) for g in self.grain_size))
        object.__setattr__(self, "stiff_fraction", tuple(float(f) for f in self.stiff_fraction))
        object.__setattr__(self, "all_components", bool(self.all_components))
        for name in ("n", "size", "repeats", "seed"):
            object.__setattr__(self, name, _checks.positive_integer(name, getattr(self, name), least=name != "seed"))
        for name in ("contrast", "rtol"):
            object.__setattr__(self, name, _checks.positive(name, getattr(self, name)))
        object.__setattr__(self, "poisson", _checks.poisson_ratio(self.poisson))
        _checks.one_of("discretization", self.discretization, green.DISCRETIZATIONS)
        # Refuses, before anything is written, what cannot be generated.
        microstructure.generate_cells(self.repeats, self.size, self.grain_size, self.stiff_fraction, self.repeats)
        if self.n % self.repeats:
            raise ValueError(f"n must be a multiple of repeats; {self.n} is not one of {self.repeats}.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Imported:
    """What is known of a data set that other people computed; ``source`` names their files."""

    n: int
    size: int
    contrast: float
    poisson: float
    source: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def make_dataset(path, n: int, *, device=None, block: int | None = None, progress: bool = False, **parameters) -> Path:
    """Generate cells, solve them, and write ``path``; takes up where a killed run stopped.

    ``parameters`` are those of :class:`Parameters`. ``block`` is how many records are solved and saved together,
    which a kill can lose: by default as many as the solver works on at once. It does not change a bit of the file,
    nor does the number of threads or processes. A complete file of the same parameters is left as it is. In one of
    several processes the file may not be there yet on return: the last to finish writes it.

    Raises ValueError for bad parameters, OSError for a file made with other ones or a place that cannot be written.
    """
    path, wanted = Path(path), Parameters(n, **parameters)
    rank, ranks = _rank()
    device = torch.device(device or "cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    block = _checks.positive_integer("block", _at_once(wanted.size**3, device) if block is None else block)
    parts = path.with_name(path.name + ".parts")
    if _is_made(path, wanted):
        return path
    with _writing(path):
        parts.mkdir(parents=True, exist_ok=True)
        _same_run(parts / "parameters.json", wanted)
        done = np.zeros(n, bool)
        for begun, file in _blocks(parts):
            if _load_block(file) is None:
                file.unlink(missing_ok=True)
            else:
                done[begun] = True
        first, last = n * rank // ranks, n * (rank + 1) // ranks  # the share of this process
        missing = first + np.flatnonzero(~done[first:last])
        design = _design(wanted)
        with tqdm(total=last - first, initial=last - first - len(missing), unit="cell", disable=not progress) as bar:
            for records in np.split(missing, range(block, len(missing), block)):
                # A block is a run of consecutive records: its file is named after the first and the last.
                for run in np.split(records, np.flatnonzero(np.diff(records) > 1) + 1):
                    if len(run):
                        _save_block(parts, run, _solve(wanted, run, design, device))
                        bar.update(len(run))
        if not _join(path, parts, wanted):
            return path  # other processes have not finished
    shutil.rmtree(parts, ignore_errors=True)
    return path


def import_arrays(path, contrast: float, train=None, validation=None, test=None, poisson: float = 0.3) -> Path:
    """The authors' published arrays, or others in their form, as a data set of this layout.

    ``train``, ``validation`` and ``test`` are each a pair of ``.npy`` files; at least one is needed. They are read a
    few records at a time. The strains are divided by the mean of their file, which must be that of each cell to 1 %.
    A UserWarning says so where the first strain field of a file is far from our own solution of its cell.

    Shape: cells (n, 2, N, N, N), the indicators of the soft and of the stiff phase; strains (n, N, N, N), (n, N^3)
    or (n, N^3, 6) with the axial strain first. Their last axis is the loading axis, ours the first.
    Raises ValueError for arrays of another form, OSError for a file that cannot be read, or an existing ``path``.
    """
    path = Path(path)
    if path.exists():
        raise OSError(f"{path} exists: choose another name, or delete it.")
    pairs = [(kind, pair) for kind, pair in enumerate((train, validation, test)) if pair is not None]
    if not pairs:
        raise ValueError("Nothing to import: give the files (cells, strain) of train, validation or test.")
    contrast, poisson = _checks.positive("contrast", contrast), _checks.poisson_ratio(poisson)
    arrays = [(kind, *_open_pair(*map(Path, pair))) for kind, pair in pairs]
    sizes = {stiff.shape[-1] for _, stiff, _ in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The files hold cells of different sizes ({sorted(sizes)}): import them one by one.")
    counts = [len(stiff) for _, stiff, _ in arrays]
    n, size = sum(counts), sizes.pop()
    source = ", ".join(Path(file).name for _, pair in pairs for file in pair)
    split = np.repeat([np.uint8(kind) for kind, _, _ in arrays], counts)
    tables = {
        "grain_size": np.zeros((n, 3), np.int64),
        "stiff_fraction": np.empty(n),
        "split": split,
        "split_by_design": split,
    }

    def records():
        first = 0
        for (_, stiff, strain), (_, pair) in zip(arrays, pairs, strict=True):
            scale = _mean(strain)
            for start in range(0, len(stiff), 32):
                part = _converted(stiff[start : start + 32], strain[start : start + 32], scale, pair)
                if start == 0:
                    _compare_with_ours(part, contrast, poisson, pair)
                block = slice(first + start, first + start + len(part["stiff"]))
                tables["stiff_fraction"][block] = part["stiff"].mean((1, 2, 3))
                yield block, part
            first += len(stiff)

    with _writing(path), _partial(path.parent) as partial:
        _write(partial, Imported(n, size, contrast, poisson, source), tables, records())
        os.replace(partial, path)
    return path


def read_parameters(path) -> Parameters | Imported:
    """What a data set was made with. Raises OSError if ``path`` is not a complete data set."""
    with _open(path) as file:
        return _parameters(file)


def verify(path) -> list[int]:
    """The records that no longer match their checksum; empty if the file is sound."""
    with _open(path) as file:
        tables = {name: file[name][:] for name in ("crc32", *_fields(file)) if file[name].ndim < 4}
        damaged = []
        for index in range(len(tables["crc32"])):
            try:
                record = {name: tables[name][index] if name in tables else file[name][index] for name in _fields(file)}
                sound = _crc32(record) == tables["crc32"][index]
            except OSError:  # a chunk that cannot be unpacked
                sound = False
            if not sound:
                damaged.append(index)
        return damaged


def repair(path) -> list[int]:
    """Recompute the damaged records of a data set, in place; returns which they were.

    Raises OSError if the file is not a data set, is imported, or is damaged where no record can be written.
    """
    damaged, parameters = verify(path), read_parameters(path)
    if not damaged:
        return []
    if isinstance(parameters, Imported):
        raise OSError(f"{path} was imported from {parameters.source}: import the files again, or copy it again.")
    tables, design = _tables(parameters), _design(parameters)
    with _writing(path), h5py.File(path, "r+") as file:
        for index in damaged:
            solved = _solve(parameters, [index], design, torch.device("cpu"))
            record = {name: values[0] for name, values in solved.items()}
            record.update({name: values[index] for name, values in tables.items()})
            for name, value in {**record, "crc32": _crc32(record)}.items():
                file[name][index] = value
    return damaged


class StrainDataset(Dataset):
    """Records of one split of a data set file, as pairs of tensors.

    Each item is (stiff uint8 (N, N, N), strain_xx float32 (N, N, N), divided by the macroscopic strain). With
    ``in_memory=False`` each worker process reads from the file by itself.

    Raises OSError for a missing or damaged file, ValueError for an unknown split.
    """

    def __init__(self, path, split: str | None = None, by_design: bool = False, in_memory: bool = True):
        self.path = Path(path)
        with _open(path) as file, _reading(path):
            self.parameters = _parameters(file)
            kind = file["split_by_design" if by_design else "split"][:]
            if split is None:
                self.records = np.arange(len(kind))
            else:
                self.records = np.flatnonzero(kind == SPLITS.index(_checks.one_of("split", split, SPLITS)))
            self._memory = None
            if in_memory:
                self._memory = tuple(torch.from_numpy(file[name][:][self.records]) for name in ("stiff", "strain_xx"))
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
        stiff, strain = (self._file[1][name] for name in ("stiff", "strain_xx"))
        with _reading(self.path):
            return [(torch.from_numpy(stiff[i]), torch.from_numpy(strain[i])) for i in self.records[indices]]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All records at once. Shape: -> stiff (n, N, N, N) uint8, strain_xx (n, N, N, N) float32."""
        stiff, strain = zip(*self.__getitems__(list(range(len(self)))), strict=True)
        return torch.stack(stiff), torch.stack(strain)


def _rank() -> tuple[int, int]:
    """Number of this process and of all, as torchrun and ``fabric run`` say in the environment; (0, 1) without."""
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if not 0 <= rank < ranks:
        raise ValueError(f"The environment says RANK={rank} of WORLD_SIZE={ranks}: start with torchrun, or unset both.")
    return rank, ranks


def _at_once(voxels: int, device: torch.device) -> int:
    """How many cells solve_strain works on at once: with fewer in a block, some cores or units would wait."""
    chunk = max(1, voxel_fe._CHUNK_VOXELS.get(device.type, voxel_fe._CHUNK_VOXELS["cpu"]) // voxels)
    return chunk * torch.get_num_threads() if device.type == "cpu" else chunk


def _design(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Grain sizes and stiff fraction of each design point."""
    points = parameters.n // parameters.repeats
    return microstructure.design(points, parameters.grain_size, parameters.stiff_fraction, parameters.seed)


def _tables(parameters: Parameters) -> dict[str, np.ndarray]:
    """The fields of all records that need no solution."""
    (sizes, fractions), n = _design(parameters), parameters.n
    points = np.arange(n) // parameters.repeats
    by_cell, by_design = _split(n, parameters.seed), _split(len(sizes), parameters.seed)[points]
    return dict(zip(_TABLES, (sizes[points], fractions[points], by_cell, by_design), strict=True))


def _solve(parameters: Parameters, records, design, device: torch.device) -> dict[str, np.ndarray]:
    def generate(index):
        sizes, fractions = design
        return microstructure.generate_cell(
            index, sizes, fractions, parameters.size, parameters.repeats, parameters.seed
        )

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        stiff = np.stack(list(pool.map(generate, map(int, records))))
    solution = voxel_fe.solve_strain(
        stiff,
        parameters.contrast,
        parameters.poisson,
        discretization=parameters.discretization,
        rtol=parameters.rtol,
        dtype=torch.float32,
        device=device,
    )
    strain = (solution.strain if parameters.all_components else solution.strain[:, :1]).cpu().numpy()
    fields = (stiff.astype(np.uint8), strain[:, 0], solution.iterations.cpu().numpy(), solution.residual.cpu().numpy())
    solved = dict(zip(_SOLVED, fields, strict=True))
    return {**solved, "strain": strain} if parameters.all_components else solved


def _crc32(record: dict[str, np.ndarray]) -> int:
    """Checksum of a record, over its fields in the order of their names."""
    checksum = 0
    for name in sorted(record):
        checksum = zlib.crc32(np.ascontiguousarray(record[name]).tobytes(), checksum)
    return checksum


def _blocks(parts: Path) -> list[tuple[slice, Path]]:
    """The finished blocks, by name: first record, and the one after the last."""
    found = []
    for file in sorted(parts.glob("*-*.npz")):
        first, last = map(int, file.stem.split("-"))
        found.append((slice(first, last), file))
    return found


def _save_block(parts: Path, records: np.ndarray, solved: dict[str, np.ndarray]) -> None:
    with _partial(parts) as partial:
        with open(partial, "wb") as file:
            np.savez(file, **solved)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, parts / f"{records[0]:08d}-{records[-1] + 1:08d}.npz")


def _load_block(path: Path) -> dict[str, np.ndarray] | None:
    """A finished block, or None if it has to be made (again). Reading checks the archive's own checksums."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _is_made(path: Path, wanted: Parameters) -> bool:
    if not path.exists():
        return False
    found = read_parameters(path)
    if found != wanted:
        raise OSError(
            f"{path} exists and was made with other parameters ({found.to_json()}): choose another name, or delete it."
        )
    return True


def _same_run(path: Path, wanted: Parameters) -> None:
    if not path.exists():
        with _partial(path.parent) as partial:
            partial.write_text(wanted.to_json())
            os.replace(partial, path)
    elif (found := path.read_text()) != wanted.to_json():
        raise OSError(
            f"{path.parent} holds the beginning of a data set with other parameters ({found}): "
            f"finish that one, choose another name, or delete the folder."
        )


def _join(path: Path, parts: Path, parameters: Parameters) -> bool:
    """Write the data set from its blocks; False if some are not there yet."""
    blocks, there = _blocks(parts), np.zeros(parameters.n, bool)
    for block, _ in blocks:
        there[block] = True

    def solved_blocks():
        for block, file in blocks:
            if (solved := _load_block(file)) is None:
                raise OSError(f"{file} was damaged since it was written: run the same command again.")
            yield block, solved

    try:
        if not there.all():
            return path.exists()
        with _partial(parts) as partial:
            _write(partial, parameters, _tables(parameters), solved_blocks())
            os.replace(partial, path)
    except OSError:
        # Where two processes finish at once both join, and the slower one may find the blocks gone.
        if not path.exists():
            raise
    return True


def _write(path: Path, made: Parameters | Imported, tables: dict, blocks: Iterable[tuple[slice, dict]]) -> None:
    """One data set file from its tables, whole, and its other fields, block by block."""
    with h5py.File(path, "w") as file:
        crc32 = np.empty(made.n, np.uint32)
        for block, solved in blocks:
            for name, values in solved.items():
                if name not in file:
                    packing = {"compression": "gzip", "shuffle": True} if name == "stiff" else {}
                    chunks = (1, *values.shape[1:]) if values.ndim > 1 else None
                    file.create_dataset(name, (made.n, *values.shape[1:]), values.dtype, chunks=chunks, **packing)
            columns = {**solved, **{name: values[block] for name, values in tables.items()}}
            for n, index in enumerate(range(block.start, block.stop)):
                for name, values in solved.items():  # record by record: the file's order then knows no blocks
                    file[name][index] = values[n]
                crc32[index] = _crc32({name: values[n] for name, values in columns.items()})
        for name, values in {**tables, "crc32": crc32}.items():
            file[name] = values
        single = {name: value for name, value in asdict(made).items() if not isinstance(value, tuple)}
        file.attrs.update(single, parameters=made.to_json(), layout=LAYOUT, library_version=__version__)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _split(n: int, seed: int) -> np.ndarray:
    """40 % train, 20 % validation, the rest test, in random order."""
    kind = np.full(n, 2, dtype=np.uint8)
    kind[: round(0.6 * n)] = 1
    kind[: round(0.4 * n)] = 0
    return np.random.default_rng([seed, 1]).permutation(kind)


def _fields(file: h5py.File) -> list[str]:
    """What a record has, except its checksum."""
    return [name for name in file if name != "crc32"]


def _parameters(file: h5py.File) -> Parameters | Imported:
    known = json.loads(file.attrs["parameters"])
    return Imported(**known) if "source" in known else Parameters(**known)


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
        try:
            n, layout = _parameters(file).n, file.attrs["layout"]
            complete = layout == LAYOUT and all(len(file[name]) == n for name in (*_SOLVED, *_TABLES, "crc32"))
        except (KeyError, TypeError, ValueError, OSError, RuntimeError):
            complete = False
        if not complete:
            raise OSError(
                f"{path} is an HDF5 file, but not a complete data set of this version of the library: make it again, "
                f"or import arrays with `python -m rlnlib.dataset import`."
            )
        yield file


@contextmanager
def _reading(path):
    """Damage met while reading records gets its sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} is damaged ({error}): `python -m rlnlib.dataset verify {path}` names the records, and "
            f"`repair` computes them again."
        ) from error


@contextmanager
def _writing(path: Path):
    try:
        yield
    except OSError as error:
        if error.errno is None:  # ours, with its sentence
            raise
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}). Nothing is lost: make room or choose a folder "
            f"that can be written, and run the same command again",
        ) from error


@contextmanager
def _partial(folder: Path):
    """A name for a file that is being written; gone afterwards, unless it got its own name meanwhile."""
    partial = folder / f"{uuid.uuid4().hex}.partial"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _open_pair(stiff_file: Path, strain_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Views of two files that are read when they are used. Shape: -> (n, 2, N, N, N), (n, N, N, N)."""
    arrays = []
    for file in (stiff_file, strain_file):
        if not file.exists():
            raise FileNotFoundError(f"No file {file}: check the name and the working folder ({Path.cwd()}).")
        try:
            arrays.append(np.load(file, mmap_mode="r", allow_pickle=False))
        except (OSError, EOFError, ValueError) as error:
            raise OSError(f"{file} cannot be read as .npy ({error}): it may be truncated; copy it again.") from error
    stiff, strain = arrays
    n, size = len(stiff), stiff.shape[-1]
    if stiff.shape != (n, 2, size, size, size) or not n:
        raise ValueError(f"{stiff_file} must hold cells of the shape (n, 2, N, N, N); its shape is {stiff.shape}.")
    if strain.shape == (n, size**3, 6):
        strain = strain[..., 0]
    if strain.shape not in ((n, size, size, size), (n, size**3)):
        raise ValueError(
            f"{strain_file} must hold strains of the shape {(n, size, size, size)}, {(n, size**3)} or "
            f"{(n, size**3, 6)}, as {stiff_file.name} has {n} cells of {size}^3; its shape is {strain.shape}."
        )
    return stiff, strain.reshape(n, size, size, size)


def _mean(strain: np.ndarray) -> float:
    return sum(strain[n : n + 32].sum(dtype=np.float64) for n in range(0, len(strain), 32)) / strain.size


def _converted(cells: np.ndarray, strain: np.ndarray, scale: float, pair) -> dict[str, np.ndarray]:
    """Some records of the authors' arrays as ours: x and z exchanged, divided by the macroscopic strain."""
    soft, stiff = np.swapaxes(cells, 2, 4).swapaxes(0, 1)
    if not np.isin(stiff, (0, 1)).all() or (soft + stiff != 1).any():
        raise ValueError(f"{pair[0]} must hold indicators: in each voxel one of its two channels is 1, the other 0.")
    strain = np.swapaxes(strain, 1, 3) / scale
    if not (np.abs(strain.mean((1, 2, 3), dtype=np.float64) - 1) < 0.01).all():
        raise ValueError(
            f"{pair[1]} must hold the axial strains of cells under one macroscopic strain: "
            f"the mean of some cell is NaN, or differs from that of the file by more than 1 %."
        )
    n = len(stiff)
    return {
        "stiff": np.ascontiguousarray(stiff, np.uint8),
        "strain_xx": np.ascontiguousarray(strain, np.float32),
        "iterations": np.zeros(n, np.int64),
        "residual": np.full(n, np.nan),
    }


def _compare_with_ours(part: dict[str, np.ndarray], contrast: float, poisson: float, pair) -> None:
    ours = voxel_fe.solve_strain(part["stiff"][:1], contrast, poisson, rtol=1e-4).strain[:, 0]
    error = float(metrics.mase(part["strain_xx"][:1], ours)[0])
    if error > 10:
        warnings.warn(
            f"The first field of {pair[1]} differs by {error:.0f} % (mean absolute strain error) from our solution at "
            f"contrast {contrast:g} and Poisson ratio {poisson:g}, where finite elements differ by 4 % at most: check "
            f"these two, that the last axis is the loading axis, and that channel 1 is the stiff phase.",
            UserWarning,
            stacklevel=4,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlnlib.dataset", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, text):
        added = commands.add_parser(name, help=text, argument_default=argparse.SUPPRESS)
        added.add_argument("path")
        return added

    make = command("make", "generate and solve; run again after a kill to go on")
    make.add_argument("--profile", choices=PROFILES, default="paper", help="number and size of the cells")
    make.add_argument("--n", type=int, help="number of cells")
    make.add_argument("--size", type=int, help="voxels along each edge")
    make.add_argument("--repeats", type=int, help="random cells for each design point")
    make.add_argument("--contrast", type=float, help="stiff over soft modulus, 50 if not given")
    make.add_argument("--poisson", type=float)
    make.add_argument("--grain-size", type=int, nargs=2, metavar=("LOW", "HIGH"))
    make.add_argument("--stiff-fraction", type=float, nargs=2, metavar=("LOW", "HIGH"))
    make.add_argument("--seed", type=int)
    make.add_argument("--discretization")
    make.add_argument("--rtol", type=float)
    make.add_argument("--all-components", action="store_true", help="store all six strain components")
    make.add_argument("--device", help="cpu (default) or cuda")
    make.add_argument("--block", type=int, help="records solved and saved together, which a kill can lose")
    command("verify", "name the damaged records")
    command("repair", "recompute the damaged records")
    command("info", "print what the file holds")
    foreign = command("import", "bring the authors' arrays into the same layout")
    foreign.add_argument("--contrast", type=float, required=True)
    foreign.add_argument("--poisson", type=float)
    for split in SPLITS:
        foreign.add_argument(f"--{split}", nargs=2, metavar=("CELLS", "STRAIN"))
    options = vars(parser.parse_args(arguments))
    name, path = options.pop("command"), options.pop("path")
    try:
        if name == "make":
            made = make_dataset(path, progress=_rank()[0] == 0, **{**PROFILES[options.pop("profile")], **options})
            print(made if made.exists() else f"share {_rank()[0]} of {made} is done; the last process joins all")
            return 0
        if name == "import":
            print(import_arrays(path, **options))
            return 0
        if name == "info":
            print(read_parameters(path).to_json())
            return 0
        damaged = verify(path) if name == "verify" else repair(path)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done is kept: run the same command again to go on", file=sys.stderr)
        return 130
    done = "damaged" if name == "verify" else "recomputed"
    print(f"{len(damaged)} records {done}{': ' if damaged else ''}{', '.join(map(str, damaged))}")
    return 1 if damaged and name == "verify" else 0


if __name__ == "__main__":
    sys.exit(main())
