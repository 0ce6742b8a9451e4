"""What a reader is asked for, and what it gives."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlnlib import _checks


class Image(NamedTuple):
    """The array of a file, and the distance of its voxels along each axis: NaN, or None, where the file says none."""

    values: np.ndarray
    spacing: tuple[float, ...] | None = None
    between: float = math.nan  # of a picture: the distance to the next one of a stack


class Options(NamedTuple):
    """Which array of the file is meant, and what a file without a header cannot say."""

    array: str | None = None
    shape: Any = None
    dtype: Any = None


def chosen(path: Path, there: list[str], array: str | None) -> str:
    """The name of the array that is meant."""
    if not there:
        raise ValueError(f"{path} holds no array of numbers with two or more axes.")
    if array is None and len(there) != 1:
        raise ValueError(f"{path} holds the arrays {there}: name the one with the phases, array='...'.")
    if array is not None and array not in there:
        raise ValueError(f"array={array!r} is not in {path}; it holds the arrays {there}.")
    return there[0] if array is None else array


def refuse_if_too_large(path: Path, shape, itemsize: float = 1) -> None:
    """Refuse, before memory is asked for, what this machine cannot hold."""
    needed, there = math.prod(map(int, shape)) * itemsize, _checks.memory_of_machine()
    if needed > there:
        raise OSError(
            f"{path} says that it holds an array of shape {tuple(shape)}, {needed / 2**30:,.1f} GiB; this machine has "
            f"{there / 2**30:,.1f}. Cut out a part of the image."
        )


@contextmanager
def reading(path: Path, kind: str):
    """Turn what the packages raise for damaged files, which has many types, into an error that names the file."""
    try:
        yield
    except ImportError:
        raise
    except MemoryError as error:
        raise OSError(f"{path} needs more memory than there is: cut out a part of the image.") from error
    except OSError as error:
        if error.errno is not None or str(path) in str(error):  # the system's reason, or a sentence of ours
            raise
        raise OSError(f"{path} cannot be read as {kind}: {error}.") from error
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):  # a sentence of ours
            raise
        raise OSError(f"{path} cannot be read as {kind}: {error or type(error).__name__}.") from error


def missing(path: Path, package: str, extra: str) -> ImportError:
    """The error for a package that is not installed."""
    return ImportError(
        f"{path} needs the package {package}: `pip install {package}`, or rlnlib with its extra [{extra}]."
    )
