"""Image data and rectilinear grids of VTK, and MetaImage, through the package vtk.

VTK allocates what a header announces, and ends the whole process where that fails. So the sizes in the header are
compared with the length of the file first.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rlnlib.images.image import Image, Options, chosen, missing, refuse_if_too_large

#: Voxels that a byte of a file can hold: eight bits, packed a thousand times as densely by deflate, at most.
_PACKED = 8 * 1032
#: Bytes of a number in MetaImage.
_SIZES = {b"MET_CHAR": 1, b"MET_UCHAR": 1, b"MET_SHORT": 2, b"MET_USHORT": 2, b"MET_INT": 4, b"MET_UINT": 4}
_SIZES.update({b"MET_FLOAT": 4, b"MET_DOUBLE": 8})
#: What VTK reads of a MetaImage's header, if it is written just so.
_KEYS = (
    *(b"NDims", b"DimSize", b"HeaderSize", b"TransformMatrix", b"BinaryData", b"BinaryDataByteOrderMSB"),
    *(b"CompressedData", b"CompressedDataSize", b"ElementType", b"ElementSpacing", b"ElementSize"),
    *(b"ElementByteOrderMSB", b"ElementNumberOfChannels", b"ElementDataFile"),
)
_NUMBER = rb"[-+]?\d+"


def read_vtk(path: Path, options: Options) -> Image:
    """Shape: -> (x, y, z) of the file; VTK keeps x fastest."""
    _check_sizes(path)
    with _vtk(path) as vtk:
        legacy = vtk.vtkGenericDataObjectReader()
        legacy.ReadAllScalarsOn()  # else only the first of several
        legacy.ReadAllFieldsOn()
        data = vtk.read(legacy if path.suffix.lower() == ".vtk" else vtk.vtkXMLGenericDataObjectReader())
        if isinstance(data, vtk.vtkImageData):
            spacing = data.GetSpacing()
        elif isinstance(data, vtk.vtkRectilinearGrid):
            steps = [getattr(data, f"Get{axis}Coordinates")() for axis in "XYZ"]
            spacing = tuple(_step(path, vtk.vtk_to_numpy(values)) for values in steps)
        else:
            raise ValueError(f"{path} holds {data.GetClassName()}, not image data: export it as voxels (vtkImageData).")
        points = data.GetDimensions()
        found = {}  # an array of cells before one of points with the same name
        cells = tuple(max(1, n - 1) for n in points)
        for attributes, shape in ((data.GetPointData(), points), (data.GetCellData(), cells)):
            for number in range(attributes.GetNumberOfArrays()):
                if (values := attributes.GetArray(number)) is not None:  # None for text
                    found[values.GetName()] = values, shape
        values, shape = found[chosen(path, list(found), options.array)]
        if values.GetNumberOfComponents() != 1:
            raise ValueError(
                f"{path}: {values.GetName()!r} has {values.GetNumberOfComponents()} components, a label one."
            )
        return Image(vtk.vtk_to_numpy(values).reshape(shape, order="F").copy(), spacing)


def read_meta_image(path: Path, options: Options) -> Image:
    """Shape: -> (x, y, z) of the file; MetaImage keeps x fastest."""
    with open(path, "rb") as file:
        head = file.read(2**16)
    last = re.search(rb"^[ \t]*ElementDataFile\b.*$", head, re.MULTILINE | re.IGNORECASE)  # data may follow
    header = head[: last.end()] if last else head
    found: dict[bytes, bytes] = dict(re.findall(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", header, re.MULTILINE))
    known = {key.lower(): key for key in _KEYS}
    for key in found:
        right = known.get(key.lower(), key)
        if right != key:
            raise ValueError(
                f"{path} has {key.decode()} in its header, which VTK would leave out: write {right.decode()}."
            )
    counts = [int(number) for number in found.get(b"DimSize", b"").split()]
    if b"ElementDataFile" not in found or len(counts) not in (2, 3) or min(counts) < 1:
        raise OSError(f"{path} is no MetaImage of two or three axes: its header must have DimSize and ElementDataFile.")
    data_file = found[b"ElementDataFile"].decode("utf-8", "replace")
    if data_file.split()[:1] == ["LIST"] or "%" in data_file:
        raise ValueError(f"{path} says that its voxels stand in several files ({data_file}): save it as one.")
    data = path if data_file == "LOCAL" else path.parent / data_file
    if not data.is_file():
        raise FileNotFoundError(f"{path} says that its voxels stand in {data_file}: copy that file beside it.")
    packed = _PACKED if found.get(b"CompressedData", b"").lower() == b"true" else 1
    if math.prod(counts) > packed * data.stat().st_size:
        raise OSError(f"{path} announces {counts} voxels, but {data.name} is truncated: {data.stat().st_size} bytes.")
    size = _SIZES.get(found.get(b"ElementType", b"").strip(), 0) * int(found.get(b"ElementNumberOfChannels", b"1"))
    needed, there = math.prod(counts) * size, data.stat().st_size
    if size and packed == 1 and data != path and b"HeaderSize" not in found and needed != there:
        raise OSError(f"{path} announces {needed:,} bytes, but {data.name} has {there:,}: one of them is wrong.")
    refuse_if_too_large(path, counts)
    with _vtk(path) as vtk:
        data = vtk.read(vtk.vtkMetaImageReader())
        values = data.GetPointData().GetScalars()
        if values is None or values.GetNumberOfComponents() != 1:
            raise ValueError(f"{path} has several channels a voxel, or none: a label is one number.")
        image = vtk.vtk_to_numpy(values).reshape(data.GetDimensions(), order="F").copy()
        return Image(image, data.GetSpacing())


def _step(path: Path, coordinates: np.ndarray) -> float:
    """The equal steps of a rectilinear grid along one axis; NaN for a single plane."""
    steps = np.diff(np.asarray(coordinates, np.float64))
    if len(steps) and not np.allclose(steps, steps.mean(), rtol=1e-3, atol=0):
        raise ValueError(
            f"{path} is a rectilinear grid of steps from {steps.min():g} to {steps.max():g}: resample it to equal ones."
        )
    return float(steps.mean()) if len(steps) else math.nan


def _check_sizes(path: Path) -> None:
    """Refuse a header that announces more voxels than the file can hold."""
    length = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(2**20).partition(b"<AppendedData")[0]
    announced = [0]
    for extent in re.findall(rb"Extent\s*=\s*[\"']([^\"']*)[\"']", head):
        announced.append(_voxels(extent))
    whole, pieces = (
        sum(_voxels(extent) for extent in re.findall(rb"\s" + name + rb"\s*=\s*[\"']([^\"']*)[\"']", head))
        for name in (b"WholeExtent", b"Extent")
    )
    for numbers in re.findall(rb"^\s*DIMENSIONS((?:\s+" + _NUMBER + rb"){3})", head, re.MULTILINE | re.IGNORECASE):
        announced.append(math.prod(max(1, int(number) - 1) for number in numbers.split()))
    single = (
        rb"(?:NumberOf(?:Tuples|Components)\s*=\s*[\"']|(?:POINT_DATA|CELL_DATA|[XYZ]_COORDINATES)\s+)("
        + _NUMBER
        + rb")"
    )
    announced += [int(number) for number in re.findall(single, head, re.IGNORECASE)]
    array = rb"^\s*\S+\s+(\d+)\s+(\d+)\s+(?:bit|char|short|int|long|float|double|unsigned_\w+|vtk\w+)\s*$"
    announced += [int(components) * int(n) for components, n in re.findall(array, head, re.MULTILINE)]
    if max(announced) > _PACKED * length:
        raise OSError(
            f"{path} announces {max(announced):,} values, more than its {length:,} bytes can hold: it is truncated, or "
            f"its header is wrong."
        )
    if 0 < pieces < whole:
        raise OSError(
            f"{path} announces {whole:,} voxels, but its pieces have {pieces:,}: VTK would leave the others as they "
            f"are in memory. Export it again."
        )
    refuse_if_too_large(path, (max(announced),))


def _voxels(extent: bytes) -> int:
    """Of an extent, the first and last point along each axis."""
    low_high = [int(number) for number in re.findall(_NUMBER, extent)]
    return math.prod(max(1, high - low) for low, high in zip(low_high[::2], low_high[1::2], strict=False))


class _Readers:
    """The parts of VTK that are used, and what its reader gives for one file."""

    def __init__(self, path: Path):
        try:
            from vtkmodules.util.numpy_support import vtk_to_numpy
            from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow
            from vtkmodules.vtkCommonDataModel import vtkImageData, vtkRectilinearGrid
            from vtkmodules.vtkIOImage import vtkMetaImageReader
            from vtkmodules.vtkIOLegacy import vtkGenericDataObjectReader
            from vtkmodules.vtkIOXML import vtkXMLGenericDataObjectReader
        except ImportError as error:
            raise missing(path, "vtk", "vtk") from error
        self.vtk_to_numpy, self.vtkImageData, self.vtkRectilinearGrid = vtk_to_numpy, vtkImageData, vtkRectilinearGrid
        self.vtkMetaImageReader, self.vtkXMLGenericDataObjectReader = vtkMetaImageReader, vtkXMLGenericDataObjectReader
        self.vtkGenericDataObjectReader = vtkGenericDataObjectReader
        self.logger, self.output, self.path = vtkLogger, vtkOutputWindow, path
        self.window = vtkStringOutputWindow()

    def read(self, reader):
        """The data of the file. VTK reports damage in words only, and fills up what is missing."""
        reader.SetFileName(str(self.path))
        reader.Update()
        data, said = reader.GetOutput(), self.window.GetOutput()
        if data is None or "error" in said.lower() or "warning" in said.lower():
            words = " ".join(said.split()[-12:]) or "VTK finds no data in it"
            raise OSError(f"{self.path} cannot be read by VTK, it may be truncated: {words}")
        return data


@contextmanager
def _vtk(path: Path):
    """VTK's readers, with its one window and one log for all kept quiet meanwhile."""
    readers = _Readers(path)
    former, verbosity = readers.output.GetInstance(), readers.logger.GetCurrentVerbosityCutoff()
    readers.output.SetInstance(readers.window)
    readers.logger.SetStderrVerbosity(readers.logger.VERBOSITY_OFF)
    try:
        yield readers
    finally:
        readers.output.SetInstance(former)
        readers.logger.SetStderrVerbosity(verbosity)
