"""Volumes with a shape of their own: NumPy's files, raw bytes, HDF5 (also of DREAM.3D), NRRD."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np

from rlnlib import _checks
from rlnlib.images.image import Image, Options, chosen, missing, refuse_if_too_large

#: Names under which programs keep the edges of a voxel.
_SPACING = re.compile(r"spacing|resolution|(voxel|pixel|element)_?size", re.IGNORECASE)
#: Those of DREAM.3D, which lists x, y, z where its arrays have z, y, x.
_TURNED = ("SPACING", "_SPACING")
_NRRD_DISTANCES = ("spacings", "thicknesses", "axis mins", "axis maxs")


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
        headers = {}
        for name in archive.files:
            with archive.zip.open(f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name) as member:
                headers[name] = _npy_header(member)
        images = [name for name, (shape, _) in headers.items() if len(shape) != 1 or not _SPACING.search(name)]
        name = chosen(path, images, options.array)
        shape, dtype = headers[name]
        refuse_if_too_large(path, shape, dtype.itemsize)
        beside = {other: archive[other] for other, (size, _) in headers.items() if size == (len(shape),)}
        return Image(archive[name], _edges_among(beside, shape))


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
        _refuse_other_axes(path, data)
        values, spacing = data[()], _hdf5_spacing(data, data.shape[:3])  # a fourth axis has components
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    elif values.ndim == 4:
        raise ValueError(f"{path}: {data.name!r} has {values.shape[-1]} components, a label one.")
    return Image(values, spacing)


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


def _refuse_other_axes(path: Path, data: h5py.Dataset) -> None:
    """Refuse channels and times, where the file names its axes: by HDF5's labels, or as ilastik does."""
    names = [axis.label for axis in data.dims]
    if "axistags" in data.attrs:
        names = [axis.get("key", "") for axis in json.loads(data.attrs["axistags"])["axes"]]
    for name, length in zip(names, data.shape, strict=False):
        if length > 1 and name.lower() in ("c", "t", "channel", "channels", "time", "rgb"):
            raise ValueError(
                f"{path}: the axes of {data.name!r} are {names} of the lengths {data.shape}, and {name!r} is none of "
                f"space: choose one channel and time of it."
            )


def _edges_among(found, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """The edges of a voxel among named values, by the axes of the array; not its numbers of voxels."""
    for name, value in found.items():
        numbers = np.ravel(value)
        if _SPACING.search(name) and numbers.dtype.kind in "uif" and len(numbers) == len(shape):
            if sorted(numbers.tolist()) == sorted(shape):
                continue
            return tuple(map(float, numbers[::-1] if name in _TURNED else numbers))
    return None


def _hdf5_spacing(data: h5py.Dataset, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """From the attributes of a dataset, or the attributes and small datasets of the groups around it."""
    place: h5py.Group | h5py.Dataset = data
    while True:
        places = [place, place.get("_SIMPL_GEOMETRY")] if isinstance(place, h5py.Group) else [place]
        for near in filter(None, places):
            found = dict(near.attrs)
            if isinstance(near, h5py.Group):
                items = ((name, near[name]) for name in near if _SPACING.search(name))
                found.update({name: item[()] for name, item in items if getattr(item, "size", 0) == len(shape)})
            if (edges := _edges_among(found, shape)) is not None:
                return edges
        if place.name == "/":
            return None
        place = place.parent


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
    known = {name: np.asarray(header.get(name, [math.nan] * values.ndim), float) for name in _NRRD_DISTANCES}
    mins, maxs = known["axis mins"], known["axis maxs"]
    spacing = known["spacings"]
    for instead in (known["thicknesses"], (maxs - mins) / values.shape):
        spacing = np.where(np.isnan(spacing), instead, spacing)
    if "space directions" in header:
        directions = np.asarray(header["space directions"], float)
        spacing = np.linalg.norm(directions, axis=1)
        products = directions @ directions.T - np.diag(spacing**2)
        if np.abs(products).max() > 1e-3 * spacing.max() ** 2:
            raise ValueError(f"{path} has axes that are not at right angles: resample it.")
    return Image(values, tuple(spacing.tolist()))
