"""What the public functions accept, said once: each check returns the cleaned value, or raises ValueError.

The error names the argument, what came, and what was expected. A caller stores what the check returns: Python's own
int, float or bool, or a torch tensor in the machine's byte order.
"""

from __future__ import annotations

import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

#: The largest whole number that HDF5, NumPy and torch store.
LARGEST = 2**63 - 1


def as_labels(cells, phases: int = 2, name: str = "stiff") -> torch.Tensor:
    """Cells of integer phase labels as one batch.

    An axis of one voxel is repeated to two: the fields do not change along it. So a picture (N1, N2) is a cell under
    plane strain, uniform along axis 2; its fields have the shape (N1, N2, 2), two equal planes.

    Shape: (B, N1, N2, N3), (N1, N2, N3) or (N1, N2), bool or integer, numpy or torch -> (B, N1, N2, N3) int64 on the
    CPU or on the tensor's device.
    """
    labels = as_tensor(cells, name)
    if labels.ndim == 2:
        labels = labels[None, :, :, None]
    elif labels.ndim == 3:
        labels = labels[None]
    if labels.ndim != 4:
        raise ValueError(
            f"{name} must have the shape (B, N1, N2, N3), (N1, N2, N3) for one cell, or (N1, N2) for a cell that is "
            f"uniform along axis 2; this one has {tuple(labels.shape)}."
        )
    if labels.numel() == 0:
        raise ValueError(f"{name} holds no cell: its shape is {tuple(labels.shape)}. Pass at least one cell.")
    if labels.is_floating_point() or labels.is_complex():
        if not bool(torch.isfinite(labels.to(torch.complex128).abs()).all()):
            raise ValueError(f"{name} contains NaN or infinity; it must hold phase labels 0 to {phases - 1}.")
        raise ValueError(
            f"{name} has the dtype {labels.dtype}, but phase labels are bool or integer: "
            f"convert it, for instance with `cells > 0.5`."
        )
    memory(f"{name} of {tuple(labels.shape)} labels", 8 * labels.numel())
    labels = labels.to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= phases:
        kept = "True where the cell is stiff" if phases == 2 else "one for each entry of phases"
        raise ValueError(
            f"{name} holds the labels {low} to {high}, but {phases} phases have the labels 0 to {phases - 1} "
            f"({kept}). Relabel the cell, or name every phase with phases=[(young, poisson), ...]."
        )
    for axis in (1, 2, 3):
        if labels.shape[axis] == 1:
            labels = labels.repeat_interleave(2, axis)
    return labels


def as_tensor(value, name: str) -> torch.Tensor:
    """A dense tensor of numbers: of any byte order, strides, or nested lists."""
    if not isinstance(value, torch.Tensor):
        if np.ma.is_masked(value):
            raise ValueError(f"{name} is masked in places: fill them, for instance with `array.filled(0)`.")
        try:
            array = np.asarray(value)
        except Exception as error:  # whatever a foreign object raises
            raise ValueError(f"{name} must be an array of numbers, not {shown(value)} ({error}).") from error
        if array.dtype.kind not in "buifc":
            raise ValueError(f"{name} must be an array of numbers, not {shown(value)} (dtype {array.dtype}).")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            if array.size and int(array.max()) > LARGEST:
                raise ValueError(f"{name} holds {array.max()}, more than {LARGEST}.")
            array = array.astype(np.int64)  # torch knows these in part only
        if array.dtype in (np.longdouble, np.clongdouble):
            array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C", ndmin=0))
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        kind = "quantized" if value.is_quantized else f"{value.layout} on {value.device}"
        raise ValueError(f"{name} must be a dense tensor that holds numbers; this one is {kind}.")
    return value.detach()


def positive(name: str, value) -> float:
    """A finite number above zero."""
    number = _as_float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be a positive finite number; it is {shown(value)}.")
    return number


def within(name: str, value, least: float, most: float) -> float:
    """A number from ``least`` to ``most``, both allowed."""
    number = _as_float(value)
    if not least <= number <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}; it is {shown(value)}.")
    return number


def positive_integer(name: str, value, least: int = 1, most: int = LARGEST) -> int:
    """A whole number from ``least`` to ``most``, both allowed."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        bounds = f"of at least {least}" if most == LARGEST else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {bounds}; it is {shown(value)}.")
    return int(value)


def from_environment(name: str, default: int, least: int = 1) -> int:
    """A whole number that the environment gives under this name, such as torchrun's RANK."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.strip().isdecimal() or len(text) > 18 or int(text) < least:
        raise ValueError(
            f"The environment says {name}={text!r}, but it must be a whole number of at least {least}: start with "
            f"torchrun, or unset it."
        )
    return int(text)


def boolean(name: str, value) -> bool:
    """True or False, and nothing that Python would take for one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False; it is {shown(value)}.")
    return bool(value)


def poisson_ratio(value, name: str = "poisson") -> float:
    """A Poisson ratio for which isotropic stiffness is positive definite."""
    number = _as_float(value)
    if not -1 < number < 0.5:
        raise ValueError(f"{name} must lie between -1 and 0.5 (both excluded); it is {shown(value)}.")
    return number


def pair(name: str, value) -> tuple:
    """Two entries, such as (young, poisson) or (lowest, highest)."""
    if isinstance(value, (str, bytes)) or length(value) != 2:
        raise ValueError(f"{name} must be two numbers; it is {shown(value)}.")
    first, second = value
    return first, second


def grid_shape(name: str, value) -> tuple[int, int, int]:
    """Voxels along three axes, at least two each."""
    if isinstance(value, (str, bytes)) or length(value) != 3:
        raise ValueError(f"{name} must be the voxels along three axes (N1, N2, N3); it is {shown(value)}.")
    first, second, third = (positive_integer(f"an axis of {name}", n, least=2) for n in value)
    return first, second, third


def one_of(name: str, value, known) -> str:
    """A name among the known ones."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; it is {shown(value)}.")
    return str(value)


def known_options(function: str, options: dict, accepted: Callable) -> None:
    """Refuse keywords that ``function`` would hand on to ``accepted``, which does not have them."""
    known = list(inspect.signature(accepted).parameters)
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"{function} has no argument {unknown[0]!r}; handed on are {', '.join(known)}.")


def floating(dtype, known=(torch.float32, torch.float64), name: str = "dtype"):
    """A dtype among the known ones; a known name, such as "mixed", may stand among them."""
    if not isinstance(dtype, (torch.dtype, str)) or dtype not in known:
        raise ValueError(f"{name} must be {' or '.join(map(str, known))}; it is {shown(dtype)}.")
    return dtype


def as_device(device, default="cpu") -> torch.device:
    """A device that is there; ``default`` for None."""
    try:
        known = torch.device(default if device is None else device)
        if known.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=known)
    except Exception as error:  # torch raises RuntimeError, TypeError, AssertionError, NotImplementedError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"device must be a device of this machine, 'cpu' or 'cuda'; {shown(device)}: {reason}."
        ) from error
    return known


def as_path(value, name: str = "path") -> Path:
    """The path of a file or folder."""
    try:
        text = os.fsdecode(value)
        if not text or "\0" in text:
            raise ValueError("it holds a zero byte" if text else "it is empty")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be the path of a file; it is {shown(value)} ({error}).") from error
    return Path(text)


def as_phases(contrast, poisson, phases) -> list:
    """What each phase is, from the two-phase short form or the list: (young, poisson), or a stiffness (6, 6)."""
    if (contrast is None) == (phases is None):
        raise ValueError("Give either contrast (two phases) or phases=[(young, poisson), ...], and not both.")
    if phases is None:
        nu = poisson_ratio(poisson)
        return [(1.0, nu), (_modulus("contrast", contrast), nu)]
    if np.ndim(poisson) or poisson != 0.3:  # the default
        raise ValueError(f"Give poisson with contrast; each of phases has its own. It is {shown(poisson)}.")
    pairs = list(phases) if isinstance(phases, Iterable) and not isinstance(phases, (str, bytes)) else []
    if not pairs or any(length(phase) not in (2, 6) for phase in pairs):
        raise ValueError(
            f"phases must be a list of (young, poisson) pairs or of stiffnesses (6, 6) in Mandel notation, one for "
            f"each label; it is {shown(phases)}."
        )
    return [_stiffness(phase) if length(phase) == 6 else _isotropic(*phase) for phase in pairs]


def _isotropic(young, poisson) -> tuple[float, float]:
    return _modulus("phases: Young's modulus", young), poisson_ratio(poisson)


def _stiffness(value) -> torch.Tensor:
    """A stiffness that is symmetric and positive definite. Shape: -> (6, 6) float64."""
    matrix = as_tensor(value, "phases: a stiffness")
    if matrix.shape != (6, 6) or matrix.is_complex() or not bool(torch.isfinite(matrix).all()):
        raise ValueError(
            f"phases: a stiffness must be finite real numbers of the shape (6, 6); it has {tuple(matrix.shape)} and "
            f"the dtype {matrix.dtype}."
        )
    matrix = matrix.to("cpu", torch.float64)
    size = float(matrix.abs().max())
    if not 1e-300 < size < 1e300 or float((matrix - matrix.mT).abs().max()) > 1e-6 * size:
        raise ValueError("phases: a stiffness must be a symmetric matrix with entries of 1e-300 to 1e300.")
    matrix = (matrix + matrix.mT) / 2
    least = float(torch.linalg.eigvalsh(matrix / size)[0])
    if least < 1e-12:
        raise ValueError(
            f"phases: a stiffness must be positive definite; its least eigenvalue is {least * size:g}. A stiffness in "
            f"Voigt notation becomes one in Mandel notation by rlnlib.engineering.mandel_from_voigt."
        )
    return matrix


def _modulus(name: str, value) -> float:
    if is_number(value) and value == 0:
        raise ValueError(
            f"{name} must be positive; it is {value!r}. For a pore take a millionth of the solid's, "
            f"phases=[(1e-6, 0.3), (1.0, 0.3)] with the label 0 in the pores."
        )
    return positive(name, value)


def as_spacing(spacing) -> tuple[float, float, float]:
    """The three edges of a voxel, in any unit, none more than a thousand times as long as another."""
    values = as_tensor(spacing, "spacing")
    if values.shape != (3,):
        raise ValueError(f"spacing must be the three edges of a voxel; its shape is {tuple(values.shape)}.")
    first, second, third = (positive("spacing", edge) for edge in values.tolist())
    edges = first, second, third
    if max(edges) > 1000 * min(edges):
        raise ValueError(f"spacing must not have edges more than 1000 times another; it is {edges}.")
    return edges


def as_medium(reference) -> tuple[float, float]:
    """The (young, poisson) of a reference medium."""
    young, nu = pair("reference", reference)
    return positive("reference: Young's modulus", young), poisson_ratio(nu, "reference: Poisson ratio")


def mandel_vector(name: str, value, batch: int | None = None) -> torch.Tensor:
    """Six finite Mandel components, float64; with ``batch``, one row for each cell.

    Shape: (6,) or (B, 6) -> (6,), or (B, 6) where ``batch`` is given.
    """
    vector = as_tensor(value, name)
    allowed = [(6,)] + ([(batch, 6)] if batch is not None else [])
    if tuple(vector.shape) not in allowed or vector.is_complex():
        raise ValueError(
            f"{name} must be real numbers of the shape {' or '.join(map(str, allowed))} "
            f"(Mandel order 11, 22, 33, 23, 13, 12); it has {tuple(vector.shape)} and the dtype {vector.dtype}."
        )
    vector = vector.to(torch.float64)
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{name} contains NaN or infinity: {vector.tolist()}.")
    return vector if batch is None else vector.expand(batch, 6)


def memory(name: str, needed: float) -> None:
    """Refuse what needs more bytes than the machine has, before it is asked for."""
    there = memory_of_machine()
    if needed > there:
        sizes = f"needs {needed / 2**30:,.1f} GiB of memory; this machine has {there / 2**30:,.1f}"
        raise ValueError(f"{name} {sizes}: take fewer or smaller cells. rlnlib.fans hands a large one to a cluster.")


def memory_of_machine() -> float:
    """Bytes that this process can have: of the machine, or less where a container or the shell sets a limit."""
    limits = [math.inf]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        limits.append(math.inf if soft == resource.RLIM_INFINITY else soft)
    except ImportError:  # Windows
        pass
    return min(limits)


def _as_float(value) -> float:
    """NaN for what is no real number, or too large for one."""
    if not is_number(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def length(value) -> int:
    try:
        return len(value)
    except TypeError:
        return -1


def shown(value) -> str:
    """What came, on one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object that cannot be shown, or a number of too many digits
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
