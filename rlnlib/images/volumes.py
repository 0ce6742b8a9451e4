"""Volumes with a shape of their own: NumPy's files, raw bytes, HDF5 (also of DREAM.3D), NRRD."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import h5py
import numpy as np

from rlnlib import _checks
from rlnlib.images.image import Image, Options, chosen, missing, refuse_if_too_large


def read_npy(path: Path, options: Options) -> Image:
    with open(path, "rb") as file:
        shape, dtype = _npy_header(file)
        if path.stat().st_size < file.tell() + math.prod(shape) * dtype.itemsize:
            raise OSError(f"{path} is truncated: it ends before its array of shape {shape} does. Copy it again.")
    refuse_if_too_large(path, shape, dtype.itemsize)
    return Image(np.load(path, allow_pickle=False))


def read_npz(path: Path, options: Options) -> Image:
    if not zipfile.is_zipfile(path):
        raise OSError(f"{path} is no .npz file, or is truncated: its table of contents, at the end, is not there.")
    with np.load(path, allow_pickle=False) as archive:
        name = chosen(path, archive.files, options.array)
        with archive.zip.open(f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name) as member:
            shape, dtype = _npy_header(member)
        refuse_if_too_large(path, shape, dtype.itemsize)
        return Image(archive[name])


def _npy_header(file) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that an array in NumPy's format announces."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    return shape, dtype


def read_raw(path: Path, options: Options) -> Image:
    """Bytes without a header, the last axis fastest."""
    if options.shape is None or options.dtype is None:
        raise ValueError(
            f"{path} does not say what it holds: name it, for instance load_cell(path, shape=(200, 300, 300), "
            f"dtype='uint8'). Its {path.stat().st_size} bytes are the product of the shape and the bytes of a voxel."
        )
    shape = _checks.as_tensor(options.shape, f"shape of {path}")
    if (
        shape.ndim != 1
        or shape.is_floating_point()
        or shape.is_complex()
        or len(shape) not in (2, 3)
        or shape.min() < 1
    ):
        raise ValueError(f"shape of {path} must be two or three positive whole numbers; it is {options.shape!r}.")
    try:
        dtype = np.dtype(options.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"dtype of {path} must be a NumPy dtype such as 'uint8' or '>u2'; it is {options.dtype!r}."
        ) from error
    if dtype.kind not in "buif":
        raise ValueError(f"dtype of {path} must be one of numbers, such as 'uint8' or '>u2'; it is {options.dtype!r}.")
    counts = tuple(shape.tolist())
    needed, there = math.prod(counts) * dtype.itemsize, path.stat().st_size
    if needed != there:
        raise ValueError(
            f"shape {counts} of dtype {dtype.name} is {needed} bytes, but {path} has {there}: check both "
            f"(a file with a header needs its header cut off)."
        )
    refuse_if_too_large(path, counts, dtype.itemsize)
    return Image(np.fromfile(path, dtype).reshape(counts))


def read_hdf5(path: Path, options: Options) -> Image:
    """One dataset of an HDF5 file; the last axis of DREAM.3D's, its components, must be one."""
    if not h5py.is_hdf5(path):
        raise OSError(f"{path} is no HDF5 file, or is truncated within its first bytes.")
    with h5py.File(path, "r") as file:
        found: dict[str, h5py.Dataset] = {}

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "buif" and item.ndim >= 2:
                found[name] = item

        file.visititems(visit)
        if options.array is None:  # tables are no images, unless there is nothing else
            there = [name for name, item in found.items() if item.ndim >= 3] or list(found)
        else:
            there = list(found)
        data = found[chosen(path, there, options.array and options.array.strip("/"))]
        refuse_if_too_large(path, data.shape, data.dtype.itemsize)
        _refuse_holes(path, data)
        values, spacing = data[()], _hdf5_spacing(data)
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    elif values.ndim == 4:
        raise ValueError(f"{path}: {data.name!r} has {values.shape[-1]} components, a label one.")
    return Image(values, spacing if spacing is not None and len(spacing) == values.ndim else None)


def _refuse_holes(path: Path, data: h5py.Dataset) -> None:
    """Refuse a dataset of which parts were never written, or stand in other files: HDF5 fills them up."""
    if data.is_virtual or data.external:
        raise ValueError(f"{path}: {data.name!r} stands in other files; copy it into one: `h5repack`, or with h5py.")
    if data.chunks is None:
        written = data.size == 0 or data.id.get_storage_size() > 0
    else:
        expected = math.prod(-(-n // chunk) for n, chunk in zip(data.shape, data.chunks, strict=True))
        written = data.id.get_num_chunks() == expected
    if not written:
        raise ValueError(f"{path}: parts of {data.name!r} were never written; HDF5 would fill them up.")


def _hdf5_spacing(data: h5py.Dataset) -> tuple[float, ...] | None:
    """Of DREAM.3D's geometry, x, y, z, turned to the axes of the data; or of ilastik's and Fiji's attribute."""
    if "element_size_um" in data.attrs:
        return tuple(map(float, np.ravel(data.attrs["element_size_um"])))
    group = data.parent
    while True:
        if "_SIMPL_GEOMETRY/SPACING" in group:
            return tuple(map(float, np.ravel(group["_SIMPL_GEOMETRY/SPACING"][()])[::-1]))
        if "_SPACING" in group.attrs:
            return tuple(map(float, np.ravel(group.attrs["_SPACING"])[::-1]))
        if group.name == "/":
            return None
        group = group.parent


def read_nrrd(path: Path, options: Options) -> Image:
    """Shape: -> (x, y, z) as the header lists its sizes."""
    try:
        import nrrd
    except ImportError as error:
        raise missing(path, "pynrrd", "images") from error
    header = nrrd.read_header(str(path))
    refuse_if_too_large(path, header["sizes"])
    kinds = [str(kind) for kind in header.get("kinds", [])]
    if other := [kind for kind in kinds if kind not in ("domain", "space", "???", "none")]:
        raise ValueError(
            f"{path} has an axis of the kind {other[0]!r}, which is none of space: choose one image of it."
        )
    values, _ = nrrd.read(str(path), index_order="F")
    if "space directions" in header:
        directions = np.asarray(header["space directions"], float)
        spacing = tuple(np.linalg.norm(directions, axis=1).tolist())
    else:
        spacing = tuple(map(float, header.get("spacings", [math.nan] * values.ndim)))
    return Image(values, spacing)
