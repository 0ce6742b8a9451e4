"""Pictures and stacks of them: TIFF (plain, ImageJ, OME), PNG, BMP, and folders of slices."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
import warnings
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from rlnlib.images.image import Image, Options, missing, reading, refuse_if_too_large

#: What TIFF calls its axes: those of space, or of pages without a meaning; and those that are none of space.
_SPACE = "ZYXIQ"
_OTHER_AXES = {"S": "samples, as red, green and blue", "C": "channels", "T": "time"}
#: Compressions that change values: JPEG of three kinds, and WebP.
_LOSSY = (6, 7, 34892, 50001, 34927)
#: Lengths of OME in micrometres.
_MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6}


def read_tiff(path: Path, options: Options) -> Image:
    """Shape: -> (planes, rows, columns), or (rows, columns) for one page."""
    with _no_guesses(path), tifffile.TiffFile(path) as file:
        if file.is_ome:
            _refuse_missing_parts(path, file.ome_metadata)
        if len(file.series) != 1:
            shapes = ", ".join(map(str, dict.fromkeys(series.shape for series in file.series)))
            raise ValueError(f"{path} holds {len(file.series)} images ({shapes}), a cell is one: save it by itself.")
        series = file.series[0]
        axes, shape = series.axes, series.shape
        if other := [axis for axis in axes if axis not in _SPACE]:
            named = _OTHER_AXES.get(other[0], "none of space")
            raise ValueError(
                f"{path} has the axes {axes} of the lengths {shape}, and {other[0]} is {named}: a cell has axes of "
                f"space alone. Convert it to one grey value or label a voxel, or choose one channel and time, and save "
                f"it as planes (Z), rows (Y) and columns (X): tifffile.imwrite(path, array, "
                f"metadata={{'axes': 'ZYX'}})."
            )
        if any(page is None for page in series.pages):
            raise OSError(f"{path} says that it has {len(series.pages)} planes, but some of them are not there.")
        if len(file.pages) > len(series.pages) and not series.is_multifile:
            raise OSError(f"{path} has {len(file.pages)} planes, more than its header speaks of: save it anew.")
        _refuse_pages(path, series)
        refuse_if_too_large(path, shape, series.dtype.itemsize)
        spacing = dict.fromkeys("Z" + axes, math.nan)
        spacing.update(_tiff_spacing(file, axes))
        try:
            values = series.asarray()
        except (ValueError, ImportError) as error:  # for some compressions it imports from the newest Python
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            values = _decoded_by_pillow(path, series)
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
            # Stored the other way round: white, the larger value as each program shows it, is 0 in the file.
            values = ~values
    return Image(values, tuple(spacing[axis] for axis in axes), spacing["Z"])


def _refuse_pages(path: Path, series) -> None:
    """Refuse pages of which parts were never written, which tifffile fills up, and those that lost their values."""
    for number, page in enumerate(series.pages):
        if page.compression in _LOSSY:
            raise ValueError(
                f"{path} is compressed as {page.compression.name}, which changes the values of labels: export the "
                f"original image without it."
            )
        if not all(page.dataoffsets) or not all(page.databytecounts):
            raise OSError(f"{path} is not whole: parts of its plane {number + 1} were never written.")


@contextmanager
def _no_guesses(path: Path):
    """Turn what tifffile fills up, leaves out or guesses, which it only logs, into an error."""
    problems: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: problems.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield
    except Exception:
        if not problems:
            raise
    finally:
        logger.removeHandler(listener)
    if problems:
        raise OSError(f"{path} is not whole, or has parts that its reader would have to guess: {problems[0]}.")


def _refuse_missing_parts(path: Path, description: str | None) -> None:
    """Name the files of a multi-file OME-TIFF that are not beside it; tifffile would fill their planes with zeros."""
    if master := re.search(r"<(?:\w+:)?BinaryOnly\b[^>]*MetadataFile=[\"']([^\"']*)", description or ""):
        raise ValueError(f"{path} is one part of an image in several files: load {master[1]}, which names them all.")
    names = re.findall(r'<UUID[^>]*FileName="([^"]*)"', description or "")
    if absent := [name for name in dict.fromkeys(names) if not (path.parent / name).exists()]:
        raise FileNotFoundError(
            f"{path} is one part of an image in {len(set(names))} files, of which {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} missing: copy all of them into {path.parent}."
        )


def _tiff_spacing(file: tifffile.TiffFile, axes: str) -> dict[str, float]:
    """The distance of planes, rows and columns, as far as the file says it."""
    planes = next((axis for axis in axes if axis not in "YX"), "Z")
    if file.is_ome:
        return _ome_spacing(file.ome_metadata, planes)
    tags = file.pages[0].tags  # type: ignore[union-attr]
    found = {}
    for axis, name in (("X", "XResolution"), ("Y", "YResolution")):
        if name in tags and (resolution := _number(tags[name].value)) > 0:
            found[axis] = 1 / resolution
    imagej = file.imagej_metadata or next(iter(file.shaped_metadata or ()), {})  # tifffile's own is alike
    unit = str(imagej.get("unit", "")).strip().lower()
    if "spacing" in imagej:
        found = {"X": found.get("X", 1.0), "Y": found.get("Y", 1.0), planes: abs(float(imagej["spacing"]))}
    elif file.is_imagej and planes in axes and unit not in ("", "pixel", "pixels", "inch"):
        found[planes] = 1.0  # ImageJ writes the distance of planes only where it is not one unit
    return found


def _number(value) -> float:
    """A TIFF fraction."""
    numerator, denominator = value if isinstance(value, tuple) else (value, 1)
    return numerator / denominator if denominator else math.nan


def _ome_spacing(description: str | None, planes: str) -> dict[str, float]:
    root = xml.etree.ElementTree.fromstring(description or "<OME/>")
    pixels = next((element.attrib for element in root.iter() if element.tag.endswith("Pixels")), {})
    sizes = {"X": "PhysicalSizeX", "Y": "PhysicalSizeY", planes: "PhysicalSizeZ"}
    sizes = {axis: name for axis, name in sizes.items() if name in pixels}
    if planes not in sizes and (distance := _between_planes(root)):
        pixels, sizes[planes] = {**pixels, **distance}, "PhysicalSizeZ"
    units = {name: pixels.get(f"{name}Unit", "um") for name in sizes.values()}
    if len(set(units.values())) > 1 and (odd := [unit for unit in units.values() if unit not in _MICROMETRES]):
        raise ValueError(f"the edges of its voxels are in different units, among them {odd[0]!r}")
    return {axis: float(pixels[name]) * _MICROMETRES.get(units[name], 1.0) for axis, name in sizes.items()}


def _between_planes(root: xml.etree.ElementTree.Element) -> dict[str, str]:
    """The distance of planes by their positions, as OME's attributes would say it; nothing where these say none."""
    planes = [element.attrib for element in root.iter() if element.tag.endswith("Plane")]
    positions = {int(plane["TheZ"]): float(plane["PositionZ"]) for plane in planes if "PositionZ" in plane}
    steps = np.diff([positions[z] for z in sorted(positions)]) / np.diff(sorted(positions))
    if not steps.any():  # one plane, or a stage that stood still
        return {}
    if np.abs(steps - steps.mean()).max() > 0.1 * abs(steps.mean()):  # less is how a stage moves
        raise ValueError(
            f"its planes are {min(abs(steps)):g} to {max(abs(steps)):g} apart by their PositionZ: resample it to "
            f"equal distances"
        )
    unit = next(plane.get("PositionZUnit", "reference frame") for plane in planes if "PositionZ" in plane)
    return {"PhysicalSizeZ": str(abs(steps.mean())), "PhysicalSizeZUnit": "um" if unit == "reference frame" else unit}


def _decoded_by_pillow(path: Path, series) -> np.ndarray:
    """The pages of a TIFF in a compression that tifffile leaves to imagecodecs, such as LZW and group 4."""
    from PIL import Image as Pillow

    page = series.keyframe
    kinds = {(1, "b"): "?", (8, "u"): "u1", (16, "u"): "u2", (32, "f"): "f4", (32, "i"): "i4"}
    kind = kinds.get((page.bitspersample, page.dtype.kind))
    if kind is None or page.is_tiled or series.is_multifile:
        raise missing(path, "imagecodecs", "images")
    try:
        picture = Pillow.open(path)
    except OSError as error:  # it knows a TIFF by its compression
        raise missing(path, "imagecodecs", "images") from error
    with picture:
        planes = []
        for number in (page.index for page in series.pages):
            try:
                picture.seek(number)
                plane = np.asarray(picture)
            except (OSError, EOFError, SyntaxError) as error:
                raise missing(path, "imagecodecs", "images") from error
            if plane.shape != page.shape or plane.dtype.newbyteorder("=") != np.dtype(kind):
                raise missing(path, "imagecodecs", "images")
            planes.append(plane)
    values = np.stack(planes).reshape(series.shape)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and page.bitspersample <= 8:
        values = ~values  # Pillow turns these, tifffile does not
    return values


def read_picture(path: Path, options: Options) -> Image:
    """Grey values, or the numbers of a palette's colours, of a PNG or BMP. Shape: -> (rows, columns)."""
    from PIL import Image as Pillow

    with Pillow.open(path) as picture:
        if len(picture.getbands()) != 1:
            raise ValueError(
                f"{path} has the channels {', '.join(picture.getbands())}: convert it to one grey value or label a "
                f"pixel, for instance with `Image.open(path).convert('L')` of Pillow."
            )
        if (pictures := getattr(picture, "n_frames", 1)) > 1:
            raise ValueError(f"{path} holds {pictures} pictures: save them as slices, or as one TIFF.")
        refuse_if_too_large(path, picture.size, 4)
        across, down = picture.info.get("dpi", picture.info.get("aspect", (1, 1)))  # the latter without a unit
        return Image(np.asarray(picture), (1 / down, 1 / across) if across > 0 and down > 0 else None)


_SLICE_READERS: dict[str, Callable[[Path, Options], Image]] = {
    **dict.fromkeys((".tif", ".tiff"), read_tiff),
    **dict.fromkeys((".png", ".bmp"), read_picture),
}


def read_folder(path: Path, options: Options) -> Image:
    """The slices of a folder in the order of their numbers. Shape: -> (slices, rows, columns)."""
    files = [p for p in path.iterdir() if p.suffix.lower() in _SLICE_READERS and not p.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"The folder {path} holds no slices: .tif, .tiff, .png or .bmp (JPEG changes labels).")
    slices = []
    for file in _in_order(path, files):
        with reading(file, "a slice"):
            image = _SLICE_READERS[file.suffix.lower()](file, options)
        if image.values.ndim != 2:
            raise ValueError(
                f"{file} holds an array of shape {image.values.shape}, a slice has two axes: load it alone."
            )
        slices.append((file, image))
    kinds = Counter((image.values.shape, image.values.dtype) for _, image in slices)
    (usual, _), *others = kinds.most_common()
    if others:
        file, image = next((f, i) for f, i in slices if (i.values.shape, i.values.dtype) != usual)
        raise ValueError(
            f"{file} is {image.values.shape} of {image.values.dtype}, but {kinds[usual]} of the {len(slices)} slices "
            f"in {path} are {usual[0]} of {usual[1]}: all slices of a cell are alike. Mend it, or move it away."
        )
    refuse_if_too_large(path, (len(slices), *usual[0]), usual[1].itemsize)
    edges = {file: (image.between, *(image.spacing or (math.nan, math.nan))) for file, image in slices}
    spacing = tuple(_common(path, dict(zip(edges, along, strict=True))) for along in zip(*edges.values(), strict=True))
    return Image(np.stack([image.values for _, image in slices]), spacing)


def _common(folder: Path, edges: dict[Path, float]) -> float:
    """The edge of a voxel that all slices have which say one; NaN where none does."""
    known = {file: edge for file, edge in edges.items() if not math.isnan(edge)}
    if not known:
        return math.nan
    usual = sorted(known.values())[len(known) // 2]
    for file, edge in known.items():
        if abs(edge - usual) > 1e-3 * abs(usual):
            raise ValueError(
                f"{file} has voxels with an edge of {edge:.6g}, but others of {folder} of {usual:.6g}: all slices of a "
                f"cell are alike. Mend it, or move it away."
            )
    return usual


def _in_order(folder: Path, files: list[Path]) -> list[Path]:
    """The slices by the numbers in their names, "slice9" before "slice10"; a missing number gets a warning.

    Raises ValueError for names of several kinds, for one number twice, and where names leave the order open.
    """
    parts = {file: re.split(r"(\d+(?:\.\d+)?)", file.stem) for file in files}  # text, number, text, number, ..., text
    texts = Counter((*part[::2], file.suffix.lower()) for file, part in parts.items())
    if len(texts) > 1 and any(len(part) > 1 for part in parts.values()):
        (usual, _), *_ = texts.most_common()
        odd = min((f for f, part in parts.items() if (*part[::2], f.suffix.lower()) != usual), key=lambda f: f.name)
        raise ValueError(
            f"The folder {folder} holds files named in {len(texts)} ways, among them {odd.name}: its slices are named "
            f"alike, with the same ending, but for their numbers. Rename them, or move the others away."
        )
    if len(texts) > 1 and len({len(file.stem) for file in files}) > 1:
        raise ValueError(f"The slices in {folder} have no numbers in their names: give them some, to say their order.")
    columns = [_counts(folder, texts) for texts in zip(*(part[1::2] for part in parts.values()), strict=True)]
    numbers = dict(zip(parts, zip(*columns, strict=True), strict=True)) if columns else dict.fromkeys(files, ())
    ordered = sorted(files, key=lambda file: (numbers[file], file.name))
    for former, file in itertools.pairwise(ordered):
        if numbers[former] == numbers[file] != ():
            raise ValueError(f"{former.name} and {file.name} in {folder} have the same number: move one of them away.")
    varying = [column for column in zip(*numbers.values(), strict=True) if len(set(column)) > 1]
    counts = [len(set(column)) for column in varying]
    if len(counts) > 1 and math.prod(counts) == len(files):
        raise ValueError(
            f"The {len(files)} slices in {folder} are numbered by {' x '.join(map(str, counts))}, such as "
            f"{ordered[-1].name}: one number counts planes, but the others may count channels or times. Keep one "
            f"of these in a folder by itself."
        )
    if len(varying) == 1:
        there = set(varying[0])
        step = functools.reduce(math.gcd, (number - min(there) for number in there))
        if absent := sorted(set(range(min(there), max(there) + 1, step)) - there):
            shown = ", ".join(map(str, absent[:6])) + (", ..." if len(absent) > 6 else "")
            warnings.warn(
                f"The slices in {folder} go from {min(there)} to {max(there)}, but {len(absent)} of these numbers are "
                f"missing: {shown}. The cell is made without them.",
                RuntimeWarning,
                stacklevel=6,
            )
    return ordered


def _counts(folder: Path, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Whole numbers in the order of numbers with a point, such as "0.25" and "0.50", or "1.9" and "1.10".

    Raises ValueError where it is not to be seen which of the two kinds they are.
    """
    parts = [text.partition(".") for text in texts]
    if len({len(decimals) for _, _, decimals in parts}) == 1:
        return tuple(int(whole + decimals) for whole, _, decimals in parts)
    counted = [int(decimals or -1) for _, _, decimals in parts]
    if len({whole for whole, _, _ in parts}) > 1 or max(counted) - min(counted) != len(set(counted)) - 1:
        ordered = sorted(texts, key=lambda text: (len(text), text))
        raise ValueError(
            f"The slices in {folder} have the numbers {ordered[0]} and {ordered[-1]}: give all as many digits after "
            f"the point."
        )
    return tuple(counted)
