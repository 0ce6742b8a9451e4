"""Generate cells, solve them, write a data set; taken up again after a kill, and shared by several processes.

A block is the records that the solver works on at once, at 31^3 four for each core and a third of a second, and never
more than 32 for each core of a CPU. Blocks are solved one after the other into ``FILE.parts/``, each file written in
full before it gets its name, and joined at the end; so a killed run loses at most the records in flight, and a file
under its final name is complete. Several processes share the work where torchrun or ``fabric run`` started them: each
makes its own share of the records, the first one joins all, and none goes on before; on several nodes, in a folder
that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from rlnlib import _checks, microstructure, voxel_fe
from rlnlib._files import differences, replacing, write_atomically, writing
from rlnlib.dataset.file import SOLVED, TABLES, Parameters, schema, write
from rlnlib.dataset.reading import read_parameters
from rlnlib.fast import cores

#: Data sets by name: the sample, one for two cores, and the paper's.
PROFILES: dict[str, dict[str, Any]] = {
    "ci": {"n": 40, "size": 16, "repeats": 5, "grain_size": (1, 10)},
    "laptop": {"n": 5120, "size": 16, "repeats": 1, "grain_size": (1, 10)},
    "paper": {"n": 20480, "size": 31, "repeats": 5, "grain_size": (1, 10)},
}


def make_dataset(path, n: int, *, device=None, block: int | None = None, progress: bool = False, **parameters) -> Path:
    """Generate cells, solve them, and write ``path``; takes up where a killed run stopped.

    On return the file is complete, also where other processes share the work: this one then waits for them. A complete
    file of the same parameters is left as it is. The number of threads, processes and blocks does not change a bit.

    Args:
        path: the file to be made.
        n: how many records.
        device: of the solver; the CPU without it.
        block: how many records are solved and saved together, which a kill can lose; without it as many as the solver
            works on at once.
        progress: show a bar.
        parameters: those of :class:`rlnlib.dataset.Parameters`.

    Returns:
        the path.

    Raises:
        ValueError: a parameter is out of its range; nothing has been solved or written then.
        OSError: the file or the begun one has other parameters, or the place cannot be written.
    """
    _checks.known_options("make_dataset", parameters, Parameters)
    path, wanted = _checks.as_path(path), Parameters(n, **parameters)
    rank, ranks = rank_of_process()
    device = _checks.as_device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", _checks.from_environment("LOCAL_RANK", 0, least=0))
    block = _checks.positive_integer("block", block_size(wanted.size**3, device) if block is None else block)
    progress = _checks.boolean("progress", progress)
    _checks.memory(f"The tables of n={wanted.n} records", 100 * wanted.n)
    _checks.memory(f"A block of {block} cells of size={wanted.size}", 100 * block * wanted.size**3)
    parts = path.with_name(path.name + ".parts")
    share = slice(wanted.n * rank // ranks, wanted.n * (rank + 1) // ranks)  # of this process
    with writing(path):
        try:
            if not _is_made(path, wanted):
                parts.mkdir(parents=True, exist_ok=True)
                _same_run(parts / "parameters.json", wanted)
                missing = share.start + np.flatnonzero(~finished(parts, wanted, share)[share])
                if not _is_made(path, wanted):
                    _make_share(parts, wanted, missing, share, block, device, progress)
                while not path.exists() and not (rank == 0 and finished(parts, wanted).all()):
                    time.sleep(0.1)  # for the other processes
                if not path.exists():
                    _join(path, parts, wanted)
        except OSError:
            # Where the same command runs twice at once, the other one may have joined and cleared the blocks.
            if not _is_made(path, wanted):
                raise
        shutil.rmtree(parts, ignore_errors=True)
    return path


def rank_of_process() -> tuple[int, int]:
    """Read the number of this process, and of all, that torchrun or ``fabric run`` gave; (0, 1) without them."""
    ranks = _checks.from_environment("WORLD_SIZE", 1)
    rank = _checks.from_environment("RANK", 0, least=0)
    if rank >= ranks:
        raise ValueError(f"The environment says RANK={rank} of WORLD_SIZE={ranks}: start with torchrun, or unset both.")
    return rank, ranks


def block_size(voxels: int, device: torch.device) -> int:
    """Choose as many cells as solve_strain works on at once: with fewer in a block, some cores or units would wait.

    Of small cells no more than 32 for each core, so that a block stays below a second.
    """
    chunk, workers = cores.chunking(voxels, device)
    return min(chunk, 32) * workers if device.type == "cpu" else chunk


def _make_share(parts: Path, wanted: Parameters, missing, share: slice, block: int, device, progress: bool) -> None:
    """Solve the missing records of this process, and save them block by block."""
    total = share.stop - share.start
    with tqdm(total=total, initial=total - len(missing), unit="cell", disable=not progress) as bar:
        for run in _runs(missing, block):
            _save_block(parts, wanted, run, solve(wanted, run, device))
            bar.update(len(run))


def _runs(missing: np.ndarray, block: int) -> list[np.ndarray]:
    """Group records into blocks of consecutive ones: the file of a block is named after its first and its last."""
    gaps = 1 + np.flatnonzero(np.diff(missing) > 1)
    runs = np.split(missing, gaps)
    return [part for run in runs for part in np.split(run, range(block, len(run), block)) if len(part)]


def _design(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Draw grain sizes and stiff fraction of each design point."""
    points = parameters.n // parameters.repeats
    return microstructure.design(points, parameters.grain_size, parameters.stiff_fraction, parameters.seed)


def design_tables(parameters: Parameters) -> dict[str, np.ndarray]:
    """Make the fields of all records that need no solution."""
    (sizes, fractions), n = _design(parameters), parameters.n
    points = np.arange(n) // parameters.repeats
    by_cell, by_design = draw_split(n, parameters.seed), draw_split(len(sizes), parameters.seed)[points]
    return dict(zip(TABLES, (sizes[points], fractions[points], by_cell, by_design), strict=True))


def draw_split(n: int, seed: int) -> np.ndarray:
    """Draw 40 % of the records for training and 20 % for validation; the rest is for the test.

    Returns:
        The part of each record, as numbered in ``SPLITS``: (n,) uint8.
    """
    kind = np.full(n, 2, dtype=np.uint8)
    kind[: round(0.6 * n)] = 1
    kind[: round(0.4 * n)] = 0
    return np.random.default_rng([seed, 1]).permutation(kind)


def generate(parameters: Parameters, records) -> np.ndarray:
    """The cells of some records. Shape: -> (len(records), N, N, N), True where stiff."""
    sizes, fractions = _design(parameters)

    def cell(index):
        return microstructure.generate_cell(
            index, sizes, fractions, parameters.size, parameters.repeats, parameters.seed
        )

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.stack(list(pool.map(cell, map(int, records))))


def solve(parameters: Parameters, records, device: torch.device) -> dict[str, np.ndarray]:
    """Generate and solve the cells of some records: all fields but those of :func:`design_tables`."""
    stiff = generate(parameters, records)
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


def blocks(parts: Path) -> list[tuple[slice, Path]]:
    """List the finished blocks: their records, and the file."""
    named = ((re.fullmatch(r"(\d+)-(\d+)", file.stem), file) for file in sorted(parts.glob("*-*.npz")))
    return [(slice(int(match[1]), int(match[2])), file) for match, file in named if match]


def finished(parts: Path, wanted: Parameters, share: slice | None = None) -> np.ndarray:
    """Say which records are in finished blocks. Of this process's ``share``, read them, and delete the damaged ones.

    Shape: -> (n,) bool.
    """
    done = np.zeros(wanted.n, bool)
    for records, file in blocks(parts):
        mine = share is not None and records.start < share.stop and share.start < records.stop
        if mine and _load_block(file, records, wanted) is None:
            file.unlink(missing_ok=True)
        else:
            done[records] = True
    return done


def _key(parameters: Parameters) -> np.ndarray:
    """Hash the parameters: a block carries it, so that it is never joined with those of another data set."""
    return np.frombuffer(hashlib.sha256(parameters.to_json().encode()).digest(), np.uint8)


def _save_block(parts: Path, parameters: Parameters, records: np.ndarray, solved: dict[str, np.ndarray]) -> None:
    """Write the solved fields of consecutive records as one block."""
    with replacing(parts / f"{records[0]:08d}-{records[-1] + 1:08d}.npz") as partial, open(partial, "wb") as file:
        np.savez(file, parameters=_key(parameters), **solved)  # type: ignore[arg-type]


def _load_block(path: Path, records: slice, wanted: Parameters) -> dict[str, np.ndarray] | None:
    """Read a finished block, by its checksums; None if it has to be made (again).

    Raises OSError for a sound block that was solved with other parameters, or does not say with which.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            solved = {name: archive[name] for name in archive.files}
    except PermissionError:
        raise
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    shapes = {name: (field.shape, field.dtype) for name, field in solved.items() if name != "parameters"}
    fields = {name: kind for name, kind in schema(wanted).items() if name not in (*TABLES, "crc32")}
    expected = {name: ((records.stop - records.start, *shape[1:]), dtype) for name, (shape, dtype) in fields.items()}
    same = np.array_equal(solved.pop("parameters", np.zeros(0)), _key(wanted))
    if not same or shapes != expected or records.stop > wanted.n:
        raise OSError(
            f"{path} was not solved for these parameters by this version of the library: finish the set with the "
            f"version that began it, or make it under another name."
        )
    return solved


def _is_made(path: Path, wanted: Parameters) -> bool:
    """Say whether the data set is there. Raises OSError if it was made with other parameters."""
    if not path.exists():
        return False
    found = read_parameters(path)
    if found != wanted:
        raise OSError(
            f"{path} exists and was made with other parameters ({_differing(found.to_json(), wanted)}): choose another "
            f"name, or move it away."
        )
    return True


def _same_run(path: Path, wanted: Parameters) -> None:
    """Note the parameters of a begun data set. Raises OSError if it was begun with others."""
    if not path.exists():
        write_atomically(path, wanted.to_json().encode())
    elif (found := path.read_text(encoding="utf-8", errors="replace")) != wanted.to_json():
        raise OSError(
            f"{path.parent} holds the beginning of a data set with other parameters ({_differing(found, wanted)}): "
            f"finish that one, choose another name, or move the folder away."
        )


def _differing(found: str, wanted: Parameters) -> str:
    """Name the parameters that differ; a text that holds none is shown itself."""
    try:
        return differences(json.loads(found), json.loads(wanted.to_json()))
    except (ValueError, AttributeError):
        return found[:500]


def _join(path: Path, parts: Path, parameters: Parameters) -> None:
    """Write the data set from its blocks."""

    def solved_blocks():
        joined = np.zeros(parameters.n, bool)
        for records, file in blocks(parts):
            if (solved := _load_block(file, records, parameters)) is None:
                raise OSError(f"{file} was damaged since it was written: run the same command again.")
            joined[records] = True
            yield records, solved
        if not joined.all():  # another process has joined them meanwhile, and cleared the folder
            raise OSError(f"Blocks in {parts} are gone: run the same command again.")

    with replacing(path) as partial:
        write(partial, parameters, design_tables(parameters), solved_blocks())
