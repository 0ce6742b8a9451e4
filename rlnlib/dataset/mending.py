"""Which records of a data set are damaged, and computing these again."""

from __future__ import annotations

import numpy as np
import torch

from rlnlib import _checks
from rlnlib._files import replacing, writing
from rlnlib.dataset.file import TABLES, Imported, Parameters, Records, opened, parameters_of, write
from rlnlib.dataset.making import design_tables, solve


def verify(path) -> list[int]:
    """List the records that do not match their checksum; none if the file is sound.

    Raises:
        OSError: the file is not a data set, or is damaged outside of its records.
    """
    path = _checks.as_path(path)
    with opened(path) as file:
        records, made = Records(file), parameters_of(file)
        sound = np.array([_is_sound(records, index) for index in range(len(records))], bool)
        if isinstance(made, Parameters) and not _fits_ranges(made, records.tables, sound):
            raise OSError(
                f"{path} says that its design has grain_size={made.grain_size} and "
                f"stiff_fraction={made.stiff_fraction}, but its records have others: one of its parameters is damaged, "
                f"so nothing can be repaired by them. Take a copy of the file."
            )
    return np.flatnonzero(~sound).tolist()


def repair(path) -> list[int]:
    """Compute the damaged records of a data set again, and return which they were.

    The file is written anew from its sound records and the new ones, and then takes the place of the old one.

    Raises:
        OSError: the file is not a data set, is imported, is damaged outside of its records, or cannot be written.
    """
    path = _checks.as_path(path)
    damaged = verify(path)
    if not damaged:
        return []
    with writing(path), replacing(path) as partial, opened(path) as file:
        parameters, records, lost = parameters_of(file), Records(file), set(damaged)
        if isinstance(parameters, Imported):
            raise OSError(
                f"{path} was imported from {parameters.source}, and {len(damaged)} of its records are damaged: import "
                f"the files again under another name, or take a copy of it."
            )
        ours = design_tables(parameters)
        sound = np.setdiff1d(np.arange(parameters.n), damaged)
        tables = {name: records.tables[name] for name in TABLES}
        if other := [name for name in TABLES if not np.array_equal(ours[name][sound], tables[name][sound])]:
            raise OSError(
                f"The parameters of {path} give another {other[0]} here than its sound records have: it was made with "
                f"another version of SciPy or NumPy, and what repair would compute does not belong to it. Repair it "
                f"with that version."
            )
        for name in TABLES:
            tables[name][damaged] = ours[name][damaged]
        solved = [name for name in file if name not in ("crc32", *TABLES)]

        def parts():
            for index in range(parameters.n):
                if index in lost:
                    yield slice(index, index + 1), solve(parameters, [index], torch.device("cpu"))
                else:
                    record = records[index]
                    yield slice(index, index + 1), {name: record[name][None] for name in solved}

        write(partial, parameters, tables, parts())
    return damaged


def _is_sound(records: Records, index: int) -> bool:
    try:
        records[index]
    except OSError:
        return False
    return True


def _fits_ranges(made: Parameters, tables: dict[str, np.ndarray], sound: np.ndarray) -> bool:
    """Say whether the sound records are a Latin hypercube over the ranges of the parameters.

    In each of ``points`` equal parts of a range there is one point: the number below any bound is known to one, and
    to those that are damaged.
    """
    first = np.arange(0, made.n, made.repeats)[sound[:: made.repeats]]
    points = made.n // made.repeats
    slack = 1 + points - len(first)
    (low, high), (least, most) = made.grain_size, made.stiff_fraction
    bounds = np.arange(low, high + 2)
    expected = points * (bounds - low) / (high + 1 - low)
    for sizes in np.sort(tables["grain_size"][first], axis=0).T:
        if np.abs(np.searchsorted(sizes, bounds) - expected).max() > slack:
            return False
    fractions, parts = np.sort(tables["stiff_fraction"][first]), np.arange(points + 1)
    if len(fractions) and not least <= fractions[0] <= fractions[-1] <= most:
        return False
    if least == most:
        return True
    below = np.searchsorted(fractions, least + (most - least) * parts / points)
    return bool(np.abs(below - parts).max() <= slack)
