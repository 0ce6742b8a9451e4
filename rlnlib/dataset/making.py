"""(cells, strain_xx): data sets of microstructures and their strain fields in one HDF5 file, made resumably.

The file is described in :mod:`rlnlib.dataset.file`. A block is the records that the solver works on at once, at 31^3
four for each core and a third of a second, and never more than 32 for each core of a CPU. Blocks are solved one after
the other into ``FILE.parts/``, each file written in full before it gets its name, and joined at the end; so a killed
run loses at most the records in flight, and a file under its final name is complete. Several processes share the work
where torchrun or ``fabric run`` started them: each makes its own share of the records, the first one joins all, and
none goes on before; on several nodes, in a folder that all of them see.

Command line::

    python -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
    torchrun --nproc-per-node 2 -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
    python -m rlnlib.dataset verify|repair|info FILE
    python -m rlnlib.dataset import OUT.h5 --contrast 10 --train 31_c10_train.npy 31_c10_train_strain.npy
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from rlnlib import _checks, microstructure, voxel_fe
from rlnlib.dataset import authors_arrays
from rlnlib.dataset.file import (
    DAMAGE,
    SOLVED,
    TABLES,
    Imported,
    Parameters,
    checksum,
    opened,
    parameters_of,
    partial_file,
    reading,
    write,
    writing,
)
from rlnlib.fast import cores

SPLITS = ("train", "validation", "test")
#: Data sets by name: one that is made in a second, one for two cores, and the paper's.
PROFILES: dict[str, dict[str, Any]] = {
    "ci": {"n": 40, "size": 8, "repeats": 5, "grain_size": (1, 4)},
    "laptop": {"n": 5120, "size": 16, "repeats": 1, "grain_size": (1, 10)},
    "paper": {"n": 20480, "size": 31, "repeats": 5, "grain_size": (1, 10)},
}


def make_dataset(path, n: int, *, device=None, block: int | None = None, progress: bool = False, **parameters) -> Path:
    """Generate cells, solve them, and write ``path``; takes up where a killed run stopped.

    ``parameters`` are those of :class:`Parameters`. ``block`` is how many records are solved and saved together,
    which a kill can lose: by default as many as the solver works on at once. It does not change a bit of the file,
    nor does the number of threads or processes. A complete file of the same parameters is left as it is. On return
    the file is complete, also where other processes share the work: this one then waits for them.

    Raises ValueError for bad parameters, OSError for a file made with other ones or a place that cannot be written.
    """
    path, wanted = Path(path), Parameters(n, **parameters)
    rank, ranks = _rank()
    device = torch.device(device or "cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    block = _checks.positive_integer("block", _block(wanted.size**3, device) if block is None else block)
    parts = path.with_name(path.name + ".parts")
    share = slice(n * rank // ranks, n * (rank + 1) // ranks)  # of this process
    with writing(path):
        try:
            if not _is_made(path, wanted):
                parts.mkdir(parents=True, exist_ok=True)
                _same_run(parts / "parameters.json", wanted)
                missing = share.start + np.flatnonzero(~_done(parts, n, share)[share])
                if not _is_made(path, wanted):
                    _make_share(parts, wanted, missing, share, block, device, progress)
                while not path.exists() and not (rank == 0 and _done(parts, n).all()):
                    time.sleep(0.1)  # for the other processes
                if not path.exists():
                    _join(path, parts, wanted)
        except OSError:
            # Where the same command runs twice at once, the other one may have joined and cleared the blocks.
            if not _is_made(path, wanted):
                raise
        shutil.rmtree(parts, ignore_errors=True)
    return path


def import_arrays(path, contrast: float, train=None, validation=None, test=None, poisson: float = 0.3) -> Path:
    """The authors' published arrays, or others in their form, as a data set of this layout.

    ``train``, ``validation`` and ``test`` are each a pair of ``.npy`` files (cells, strain), described in
    :mod:`rlnlib.dataset.authors_arrays`; at least one is needed. A UserWarning names a file whose first strain field
    is far from our own solution of its cell.

    Raises ValueError for arrays of another form, OSError for a file that cannot be read, or an existing ``path``.
    """
    path = Path(path)
    if path.exists():
        raise OSError(f"{path} exists: choose another name, or delete it.")
    given = {kind: files for kind, files in enumerate((train, validation, test)) if files is not None}
    if not given:
        raise ValueError("Nothing to import: give the files (cells, strain) of train, validation or test.")
    contrast, poisson = _checks.positive("contrast", contrast), _checks.poisson_ratio(poisson)
    pairs = [authors_arrays.Pair(*files) for files in given.values()]
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

    with writing(path), partial_file(path.parent) as partial:
        write(partial, Imported(n, size, contrast, poisson, source), tables, records())
        os.replace(partial, path)
    return path


def read_parameters(path) -> Parameters | Imported:
    """What a data set was made with. Raises OSError if ``path`` is not a complete data set."""
    with opened(path) as file:
        return parameters_of(file)


def verify(path) -> list[int]:
    """The records that no longer match their checksum; empty if the file is sound.

    Raises OSError if the file is not a data set, or is damaged outside of its records.
    """
    with opened(path) as file:
        fields = [name for name in file if name != "crc32"]
        tables = {name: file[name][:] for name in ("crc32", *TABLES, "iterations", "residual")}
        damaged = []
        for index in range(len(tables["crc32"])):
            try:
                record = {name: tables[name][index] if name in tables else file[name][index] for name in fields}
                sound = checksum(record) == tables["crc32"][index]
            except DAMAGE:  # a chunk that cannot be found or unpacked
                sound = False
            if not sound:
                damaged.append(index)
        return damaged


def repair(path) -> list[int]:
    """Recompute the damaged records of a data set; returns which they were.

    The file is written anew from its sound records and the recomputed ones, and then takes the place of the old one.
    Raises OSError if the file is not a data set, is imported, or is damaged outside of its records.
    """
    path, damaged, parameters = Path(path), verify(path), read_parameters(path)
    if not damaged:
        return []
    if isinstance(parameters, Imported):
        raise OSError(
            f"{path} was imported from {parameters.source} and {len(damaged)} records are damaged: import the files "
            f"again, or copy it again."
        )
    with writing(path), partial_file(path.parent) as partial, opened(path) as file:
        lost, tables, ours = set(damaged), {name: file[name][:] for name in TABLES}, _tables(parameters)
        for name in TABLES:
            tables[name][damaged] = ours[name][damaged]
        solved = [name for name in file if name not in ("crc32", *TABLES)]

        def records():
            for index in range(parameters.n):
                if index in lost:
                    yield slice(index, index + 1), _solve(parameters, [index], torch.device("cpu"))
                else:
                    yield slice(index, index + 1), {name: file[name][index : index + 1] for name in solved}

        write(partial, parameters, tables, records())
        os.replace(partial, path)
    return damaged


class StrainDataset(Dataset):
    """Records of one split of a data set file, as pairs of tensors.

    Each item is (stiff uint8 (N, N, N), strain_xx float32 (N, N, N), divided by the macroscopic strain). With
    ``in_memory=False`` each worker process reads from the file by itself.

    Raises OSError for a missing or damaged file, ValueError for an unknown split.
    """

    def __init__(self, path, split: str | None = None, by_design: bool = False, in_memory: bool = True):
        self.path = Path(path)
        with opened(path) as file, reading(path):
            self.parameters = parameters_of(file)
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
        with reading(self.path):
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


def _block(voxels: int, device: torch.device) -> int:
    """How many cells solve_strain works on at once: with fewer in a block, some cores or units would wait. Of small
    cells no more than 32 for each core, so that a block stays below a second."""
    chunk, workers = cores.chunking(voxels, device)
    return min(chunk, 32) * workers if device.type == "cpu" else chunk


def _make_share(parts: Path, wanted: Parameters, missing, share: slice, block: int, device, progress: bool) -> None:
    total = share.stop - share.start
    with tqdm(total=total, initial=total - len(missing), unit="cell", disable=not progress) as bar:
        for run in _runs(missing, block):
            _save_block(parts, run, _solve(wanted, run, device))
            bar.update(len(run))


def _runs(missing: np.ndarray, block: int) -> list[np.ndarray]:
    """The records of each block to make: consecutive, so that its file is named after the first and the last."""
    gaps = 1 + np.flatnonzero(np.diff(missing) > 1)
    runs = np.split(missing, gaps)
    return [part for run in runs for part in np.split(run, range(block, len(run), block)) if len(part)]


def _design(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Grain sizes and stiff fraction of each design point."""
    points = parameters.n // parameters.repeats
    return microstructure.design(points, parameters.grain_size, parameters.stiff_fraction, parameters.seed)


def _tables(parameters: Parameters) -> dict[str, np.ndarray]:
    """The fields of all records that need no solution."""
    (sizes, fractions), n = _design(parameters), parameters.n
    points = np.arange(n) // parameters.repeats
    by_cell, by_design = draw_split(n, parameters.seed), draw_split(len(sizes), parameters.seed)[points]
    return dict(zip(TABLES, (sizes[points], fractions[points], by_cell, by_design), strict=True))


def _solve(parameters: Parameters, records, device: torch.device) -> dict[str, np.ndarray]:
    sizes, fractions = _design(parameters)

    def generate(index):
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
        device=device,
    ).to(torch.float32)
    strain = (solution.strain if parameters.all_components else solution.strain[:, :1]).cpu().numpy()
    fields = (stiff.astype(np.uint8), strain[:, 0], solution.iterations.cpu().numpy(), solution.residual.cpu().numpy())
    solved = dict(zip(SOLVED, fields, strict=True))
    return {**solved, "strain": strain} if parameters.all_components else solved


def _blocks(parts: Path) -> list[tuple[slice, Path]]:
    """The finished blocks, by name: their records, and the file."""
    found = []
    for file in sorted(parts.glob("*-*.npz")):
        first, last = map(int, file.stem.split("-"))
        found.append((slice(first, last), file))
    return found


def _done(parts: Path, n: int, share: slice | None = None) -> np.ndarray:
    """Which records are in finished blocks. Those of a ``share`` are read; what is damaged of them goes."""
    done = np.zeros(n, bool)
    for records, file in _blocks(parts):
        mine = share is not None and records.start < share.stop and share.start < records.stop
        if mine and _load_block(file) is None:
            file.unlink(missing_ok=True)
        else:
            done[records] = True
    return done


def _save_block(parts: Path, records: np.ndarray, solved: dict[str, np.ndarray]) -> None:
    with partial_file(parts) as partial:
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
        with partial_file(path.parent) as partial:
            partial.write_text(wanted.to_json())
            os.replace(partial, path)
    elif (found := path.read_text()) != wanted.to_json():
        raise OSError(
            f"{path.parent} holds the beginning of a data set with other parameters ({found}): "
            f"finish that one, choose another name, or delete the folder."
        )


def _join(path: Path, parts: Path, parameters: Parameters) -> None:
    """Write the data set from its blocks."""

    def solved_blocks():
        for block, file in _blocks(parts):
            if (solved := _load_block(file)) is None:
                raise OSError(f"{file} was damaged since it was written: run the same command again.")
            yield block, solved

    with partial_file(parts) as partial:
        write(partial, parameters, _tables(parameters), solved_blocks())
        os.replace(partial, path)


def draw_split(n: int, seed: int) -> np.ndarray:
    """40 % train, 20 % validation, the rest test, in random order. Shape: -> (n,) uint8, 0, 1, 2 as in SPLITS."""
    kind = np.full(n, 2, dtype=np.uint8)
    kind[: round(0.6 * n)] = 1
    kind[: round(0.4 * n)] = 0
    return np.random.default_rng([seed, 1]).permutation(kind)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlnlib.dataset", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, text):
        added = commands.add_parser(name, help=text, argument_default=argparse.SUPPRESS)
        added.add_argument("path")
        return added

    make = command("make", "generate and solve; run again after a kill to go on")
    make.add_argument("--profile", choices=PROFILES, default="paper", help="number and size of the cells")
    make.add_argument("--n", "--cells", dest="n", type=int, help="number of cells; torchrun takes only --cells")
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
            first = _rank()[0] == 0
            made = make_dataset(path, progress=first, **{**PROFILES[options.pop("profile")], **options})
            if first:
                print(made)
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
