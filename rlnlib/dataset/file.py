"""One HDF5 file of cells and their strain fields: its layout, how it is written, opened, and checked.

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

It is written in the file format of HDF5 1.10, which puts a checksum on all that is not a record too, but for texts. So
the parameters, a text, are compared with the single numbers beside them, and the ranges of the design with the records.
An imported file has the parameters of Imported; what is not known of its records is 0, or NaN for the residual.
"""

from __future__ import annotations

import errno
import json
import math
import os
import zlib
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from rlnlib import _checks, green, microstructure
from rlnlib._version import __version__

LAYOUT = 1
SPLITS = ("train", "validation", "test")
SOLVED = ("stiff", "strain_xx", "iterations", "residual")
TABLES = ("grain_size", "stiff_fraction", "split", "split_by_design")
#: What HDF5 raises where bytes of a file are not what they were.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True)
class Parameters:
    """What a data set is made from; a file made with others is refused.

    The tolerance 1e-4 leaves 0.006 % MASE against 1e-10 at contrast 50 and 31^3 (mean of 32 cells; worst 0.019 %),
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
        # What is stored is Python's own numbers: equal parameters look equal, also after JSON and HDF5.
        size, grain_size, stiff_fraction = microstructure.check_design(self.size, self.grain_size, self.stiff_fraction)
        cleaned = {
            "n": _checks.positive_integer("n", self.n),
            "size": size,
            "contrast": _checks.positive("contrast", self.contrast),
            "poisson": _checks.poisson_ratio(self.poisson),
            "grain_size": grain_size,
            "stiff_fraction": stiff_fraction,
            "repeats": _checks.positive_integer("repeats", self.repeats),
            "seed": _checks.positive_integer("seed", self.seed, least=0),
            "discretization": _checks.one_of("discretization", self.discretization, green.DISCRETIZATIONS),
            "rtol": _checks.positive("rtol", self.rtol),
            "all_components": _checks.boolean("all_components", self.all_components),
        }
        for name, value in cleaned.items():
            object.__setattr__(self, name, value)
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

    def __post_init__(self):
        object.__setattr__(self, "n", _checks.positive_integer("n", self.n))
        object.__setattr__(self, "size", _checks.positive_integer("size", self.size))
        object.__setattr__(self, "contrast", _checks.positive("contrast", self.contrast))
        object.__setattr__(self, "poisson", _checks.poisson_ratio(self.poisson))
        if not isinstance(self.source, str):
            raise ValueError(f"source must name the files; it is {self.source!r}.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def schema(made: Parameters | Imported) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """List shape and dtype of each field of a data set."""
    box = (made.size,) * 3
    kinds = {"stiff": ("u1", box), "strain_xx": ("f4", box), "grain_size": ("i8", (3,)), "crc32": ("u4", ())}
    kinds.update({name: ("u1", ()) for name in ("split", "split_by_design")})
    kinds.update({name: ("f8", ()) for name in ("stiff_fraction", "residual")}, iterations=("i8", ()))
    if getattr(made, "all_components", False):
        kinds["strain"] = ("f4", (6, *box))
    return {name: ((made.n, *shape), np.dtype(kind)) for name, (kind, shape) in kinds.items()}


def _reserve(path: Path, made: Parameters | Imported) -> None:
    """Take the room on the disk first: on a full disk HDF5 fails midway, and cannot close the file then."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in schema(made).values())
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size + 200 * made.n + 2**14)  # and the chunks' places and checksums


def write(path: Path, made: Parameters | Imported, tables: dict, blocks: Iterable[tuple[slice, dict]]) -> None:
    """Write a data set from its tables, each whole, and its other fields, block by block.

    The same content gives the same bytes, whatever the blocks. Raises OSError where there is no room.
    """
    _reserve(path, made)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:  # the oldest whose metadata have checksums
        solved_fields = {name: kind for name, kind in schema(made).items() if name not in (*tables, "crc32")}
        for name, (shape, dtype) in solved_fields.items():
            packing = {"compression": "gzip", "shuffle": True} if name == "stiff" else {}
            chunks = (1, *shape[1:]) if len(shape) > 1 else None
            file.create_dataset(name, shape, dtype, chunks=chunks, **packing)
        crc32 = np.empty(made.n, np.uint32)
        for block, solved in blocks:
            columns = {**solved, **{name: values[block] for name, values in tables.items()}}
            for n, index in enumerate(range(block.start, block.stop)):
                for name in solved_fields:  # record by record: the file's order then knows no blocks
                    file[name][index] = solved[name][n]
                crc32[index] = checksum({name: values[n] for name, values in columns.items()})
        for name, values in {**tables, "crc32": crc32}.items():
            file[name] = values
        single = {name: value for name, value in asdict(made).items() if not isinstance(value, tuple)}
        file.attrs.update(single, parameters=made.to_json(), layout=LAYOUT, library_version=__version__)


def checksum(record: dict[str, np.ndarray]) -> int:
    """Compute the checksum of a record, over its fields in the order of their names."""
    crc32 = 0
    for name in sorted(record):
        crc32 = zlib.crc32(np.ascontiguousarray(record[name]).tobytes(), crc32)
    return crc32


def parameters_of(file: h5py.File) -> Parameters | Imported:
    """Read what an open data set was made with. Raises ValueError where its text and its single numbers disagree."""
    known = json.loads(file.attrs["parameters"])
    made = Imported(**known) if "source" in known else Parameters(**known)
    for name, value in asdict(made).items():
        if not isinstance(value, tuple) and file.attrs[name] != value:
            raise ValueError(f"{name} is {value!r} in the parameters, but {file.attrs[name]!r} beside them")
    return made


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. Raises OSError with the system's reason, or with what is wrong with the file."""
    if not path.exists():
        raise FileNotFoundError(f"No data set {path}: make it with `python -m rlnlib.dataset make {path} --n ...`.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
            advice = "Another program, a notebook perhaps, has it open for writing: close it there."
            raise type(error)(f"{path} cannot be opened now: {os.strerror(error.errno)}. {advice}") from error
        if error.errno is not None:
            raise type(error)(f"{path} cannot be opened: {os.strerror(error.errno)}.") from error
        if "consistency flags" in str(error):
            raise OSError(
                f"{path} is marked as open for writing: a program that wrote to it was killed. `h5clear -s {path}`, of "
                f"HDF5's tools, takes the mark away; then `python -m rlnlib.dataset verify {path}` says what it holds."
            ) from error
        if "truncated file" in str(error):
            raise OSError(f"{path} is truncated, its end is missing ({error}): copy it again.") from error
        raise OSError(f"{path} is no HDF5 file, or its first bytes are damaged ({error}).") from error


@contextmanager
def opened(path):
    """Open a data set for reading. Raises OSError, with what to do, if it is not complete or not of this layout."""
    path = _checks.as_path(path)
    with open_file(path) as file:
        try:
            if "layout" not in file.attrs or "parameters" not in file.attrs:
                reason = "has no parameters of one"
            elif file.attrs["layout"] != LAYOUT:
                reason = f"has the layout {file.attrs['layout']}, this version of the library reads {LAYOUT}"
            else:
                found = {name: (field.shape, field.dtype) for name, field in file.items()}
                reason = "" if found == schema(parameters_of(file)) else "has other fields than its parameters tell"
        except (*DAMAGE, AttributeError) as error:
            reason = f"is damaged outside of its records, which cannot be repaired: {error or type(error).__name__}"
        if reason:
            raise OSError(
                f"{path} is an HDF5 file, but not a complete data set: it {reason}. Take a copy of it, make it again "
                f"under another name, or import arrays with `python -m rlnlib.dataset import`."
            )
        yield file


class Records:
    """The records of an open data set, each compared with its checksum when it is read."""

    def __init__(self, file: h5py.File):
        self._file = file
        self.tables = {name: file[name][:] for name in (*TABLES, "iterations", "residual", "crc32")}
        self._fields = [name for name in file if name not in self.tables]

    def __len__(self) -> int:
        return len(self.tables["crc32"])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Read all fields of a record. Raises OSError where they do not match their checksum or cannot be unpacked."""
        try:
            record = {name: self._file[name][index] for name in self._fields}
            record.update({name: values[index] for name, values in self.tables.items() if name != "crc32"})
            sound = checksum(record) == self.tables["crc32"][index]
        except DAMAGE as error:  # a chunk that cannot be found or unpacked
            raise OSError(f"record {index} cannot be read: {error}") from error
        if not sound:
            raise OSError(f"record {index} does not match its checksum")
        return record


@contextmanager
def reading(path):
    """Turn damage that is met while reading records into an error that says how to mend it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} is damaged ({error}): `python -m rlnlib.dataset verify {path}` names the records, and "
            f"`repair` computes them again."
        ) from error
