"""stiff = (Gaussian filter * white noise) > quantile: the two-phase cells of the paper, and cells from a file.

A cell is an array (N1, N2, N3) of bool, True where the stiff phase is. Axis 0 is the loading axis.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path

import numpy as np
import tifffile

from rlnlib import _checks


def pymks_cell(size: int, grain_size, soft_fraction: float, seed: int) -> np.ndarray:
    """One cell of the authors' generator, bit for bit.

    White noise from NumPy's legacy generator is filtered along each axis by a Gaussian of standard deviation
    g / (2 pi) voxels, cut at g voxels, and thresholded at the value of rank ``floor(soft_fraction * size**3)``, so
    ``size**3 - rank - 1`` voxels are stiff. Where size - g is odd, the authors' padding sets the kernel
    ``ceil((size - g) / 2)`` voxels from the edge; for even g on odd sizes that shifts the cell by one voxel.

    Shape: grain_size (3,), whole numbers from 1 to ``size``, by array axis -> (size, size, size) bool.
    Raises ValueError for a grain size, fraction or seed out of range, or if a phase would be missing.
    """
    size = _checks.positive_integer("size", size, least=2)
    grain_size = _grain_sizes(grain_size, size)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1; it is {seed!r}.")
    rank = _threshold_rank(soft_fraction, size)
    noise = np.random.RandomState(int(seed)).random_sample((size,) * 3)
    return _threshold(_smooth(noise, grain_size), rank)


def _grain_sizes(grain_size, size: int) -> tuple[int, int, int]:
    if np.shape(grain_size) != (3,):
        raise ValueError(f"grain_size must be three whole numbers, one for each axis; it is {grain_size!r}.")
    first, second, third = (_checks.positive_integer("grain_size", g) for g in grain_size)
    checked = (first, second, third)
    if max(checked) > size:
        raise ValueError(f"grain_size must not exceed the cell's {size} voxels; it is {checked}.")
    return checked


def _threshold_rank(soft_fraction, size: int) -> int:
    if not 0 <= soft_fraction < 1:
        raise ValueError(f"soft_fraction must lie in [0, 1); it is {soft_fraction!r}.")
    rank = int(np.floor(soft_fraction * size**3))
    if rank >= size**3 - 1:
        raise ValueError(f"soft_fraction={soft_fraction!r} leaves no stiff voxel in a cell of {size}**3: lower it.")
    return rank


def _smooth(noise: np.ndarray, grain_size) -> np.ndarray:
    size = noise.shape[0]
    spectrum = np.fft.fftn(noise)
    for axis, g in enumerate(grain_size):
        offsets = (np.fft.fftfreq(g) * g).round().astype(int)
        shift = -((g - size) // 2) + g // 2 - size // 2  # 0, or 1 for even g on odd sizes
        kernel = np.zeros(size)
        kernel[(offsets + shift) % size] = np.exp(-2 * np.pi**2 * offsets**2 / g**2)
        spectrum *= np.fft.fft(kernel).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.fft.ifftn(spectrum).real


def _threshold(field: np.ndarray, rank: int) -> np.ndarray:
    return field > np.partition(field, rank, axis=None)[rank]


def design(points: int, grain_size=(1, 10), stiff_fraction=(0, 1), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latin hypercube over the three grain sizes and the volume fraction of the stiff phase.

    ``grain_size`` is an inclusive range of whole numbers, the same for each axis.

    Shape: -> grain sizes (points, 3) int64, stiff fractions (points,) float64.
    Raises ValueError for an empty or impossible range.
    """
    points = _checks.positive_integer("points", points)
    seed = _checks.positive_integer("seed", seed, least=0)
    low, high = _range("grain_size", grain_size)
    if low < 1 or low != int(low) or high != int(high):
        raise ValueError(f"grain_size must be a range of whole numbers from 1 on; it is {grain_size!r}.")
    least, most = _range("stiff_fraction", stiff_fraction)
    if least < 0 or most > 1:
        raise ValueError(f"stiff_fraction must be a range within 0 and 1; it is {stiff_fraction!r}.")
    from scipy.stats import qmc  # here, since it takes a second to import

    unit = qmc.LatinHypercube(d=4, rng=np.random.default_rng(seed)).random(points)
    sizes = np.minimum(low + np.floor(unit[:, :3] * (high - low + 1)), high).astype(np.int64)
    return sizes, least + unit[:, 3] * (most - least)


def generate_cells(
    n: int, size: int = 31, grain_size=(1, 10), stiff_fraction=(0, 1), repeats: int = 1, seed: int = 0
) -> np.ndarray:
    """Random two-phase cells as in the paper: a Latin hypercube of designs, ``repeats`` random cells for each.

    The paper's set is ``generate_cells(20480, repeats=5)``; the ranges, which the paper does not state, are those
    that its released networks fit best. Cell i depends on (design, i, seed) alone, so any part of a set can be made
    by itself with :func:`generate_cell`. Each cell has the stiff voxel count nearest to its design's fraction, but
    at least one voxel of each phase.

    Shape: -> (n, size, size, size) bool.
    Raises ValueError for a range that cannot hold, or an n that is not a multiple of ``repeats``.
    """
    n, repeats = _checks.positive_integer("n", n), _checks.positive_integer("repeats", repeats)
    size = _checks.positive_integer("size", size, least=2)
    if n % repeats:
        raise ValueError(f"n must be a multiple of repeats: {n} cells do not make designs of {repeats} cells each.")
    _grain_sizes((int(np.max(grain_size)),) * 3, size)
    sizes, fractions = design(n // repeats, grain_size, stiff_fraction, seed)
    return np.stack([generate_cell(i, sizes, fractions, size, repeats, seed) for i in range(n)])


def generate_cell(index: int, grain_sizes, stiff_fractions, size: int, repeats: int, seed: int) -> np.ndarray:
    """Cell ``index`` of the set whose :func:`design` is given. Shape: -> (size, size, size) bool."""
    point = index // repeats
    noise = np.random.default_rng([seed, index]).random((size,) * 3)
    stiff = int(np.clip(np.rint(stiff_fractions[point] * size**3), 1, size**3 - 1))
    return _threshold(_smooth(noise, grain_sizes[point]), size**3 - stiff - 1)


def _range(name: str, value) -> tuple[float, float]:
    if np.shape(value) != (2,) or not np.all(np.isfinite(value)) or value[0] > value[1]:
        raise ValueError(f"{name} must be a range (lowest, highest); it is {value!r}.")
    return float(value[0]), float(value[1])


def load_cell(path, stiff_label=None, loading_axis: int = 0, array: str | None = None) -> np.ndarray:
    """A two-phase cell from a file: ``.npy``, ``.npz``, a TIFF stack, a folder of TIFF slices, or VTK image data.

    ``stiff_label`` names the label of the stiff phase, or several of them, (2, 3); the others are soft. Without it, an
    image of two labels is needed, and the larger is stiff. ``array`` names one of several arrays of an ``.npz`` or VTK
    file. ``loading_axis`` of the file becomes axis 0; the axes 0, 1, 2 of VTK image data are x, y, z, and a voxel is
    a cell of it, or a point where the array belongs to points. ``.vti`` and legacy ``.vtk`` need the package vtk.

    The solvers repeat the cell periodically; a RuntimeWarning says so where opposite faces fit together much worse
    than neighbouring planes do.

    Shape: -> (N1, N2, N3) bool, True where the cell is stiff; ready for solve_strain and predict_strain.
    Raises FileNotFoundError or OSError for a file that is missing, damaged or of another kind; ValueError for an
    array that is not a cell, or a label or an array that is not there; ImportError where vtk is missing.
    """
    image = _load_image(path, loading_axis, array)
    labels = np.unique(image)
    shown = ", ".join(map(str, labels[:6])) + (", ..." if len(labels) > 6 else "")
    if stiff_label is None:
        if len(labels) != 2:
            raise ValueError(
                f"{path} has the {len(labels)} labels {shown}; a two-phase cell has two. Name those of the stiff phase "
                f"with stiff_label, threshold the image first, or solve a cell of more phases with "
                f"solve_strain(microstructure.load_labels(path)[0], phases=[(young, poisson), ...])."
            )
        stiff_label = labels[-1]
    for label in np.atleast_1d(stiff_label):
        if label not in labels:
            raise ValueError(f"stiff_label={stiff_label!r} does not occur in {path}; its labels are {shown}.")
    return np.isin(image, stiff_label)


def load_labels(path, loading_axis: int = 0, array: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A cell of any number of phases from a file, as :func:`load_cell` reads it.

    Shape: -> labels (N1, N2, N3) int64, numbered from 0 as solve_strain takes them with ``phases``; and the value
    that each has in the file, ascending (phases,). Raises what load_cell does.
    """
    image = _load_image(path, loading_axis, array)
    values, labels = np.unique(image, return_inverse=True)
    if len(values) > 100:
        raise ValueError(f"{path} has {len(values)} different values, too many for labels: segment the image first.")
    return labels.reshape(image.shape).astype(np.int64), values


def _load_image(path, loading_axis: int, array: str | None) -> np.ndarray:
    """The image of a file, checked; with a warning where it is not periodic."""
    path = Path(path)
    if loading_axis not in (0, 1, 2):
        raise ValueError(f"loading_axis must be 0, 1 or 2; it is {loading_axis!r}.")
    image = _read_image(path, array)
    if image.ndim != 3:
        raise ValueError(f"{path} holds an array of shape {image.shape}; a cell has three axes.")
    if image.dtype.kind not in "buif" or (image.dtype.kind == "f" and not np.isfinite(image).all()):
        raise ValueError(f"{path} must hold finite numbers as phase labels; its dtype is {image.dtype}.")
    if min(image.shape) < 2:
        raise ValueError(f"{path} holds a cell of shape {image.shape}; each axis needs at least 2 voxels.")
    image = np.ascontiguousarray(np.moveaxis(image, loading_axis, 0))
    seam, inside = periodic_mismatch(image)
    if seam > 2 * inside + 0.02:
        warnings.warn(
            f"{path} does not look periodic: {100 * seam:.0f} % of voxels differ across its opposite faces, against "
            f"{100 * inside:.0f} % between neighbouring planes. The solution is that of the repeated cell, and near "
            f"the faces it is not that of the imaged material.",
            RuntimeWarning,
            stacklevel=3,
        )
    return image


def periodic_mismatch(cell: np.ndarray) -> tuple[float, float]:
    """Fraction of voxels that differ across opposite faces, and between neighbouring planes inside; the worst axis."""
    seams, insides = [], []
    for axis in range(3):
        planes = np.moveaxis(cell, axis, 0)
        seams.append(np.mean(planes[0] != planes[-1]))
        insides.append(np.mean(planes[1:] != planes[:-1]))
    worst = int(np.argmax(np.array(seams) - np.array(insides)))
    return float(seams[worst]), float(insides[worst])


def _read_image(path: Path, array: str | None) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"No file {path}: check the name and the working folder ({Path.cwd()}).")
    kind = ".tif" if path.is_dir() else path.suffix.lower()
    if array is not None and kind in (".npy", ".tif", ".tiff"):
        raise ValueError(f"{path} holds one array without a name: leave out array={array!r}.")
    try:
        if kind == ".npy":
            return np.load(path, allow_pickle=False)
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return archive[_chosen(path, archive.files, array)]
        if kind in (".vti", ".vtk"):
            return _read_vtk(path, array)
        if kind in (".tif", ".tiff"):
            if not path.is_dir():
                return _read_tiff(path)
            slices = sorted(p for p in path.iterdir() if p.suffix.lower() in (".tif", ".tiff"))
            if not slices:
                raise FileNotFoundError(f"The folder {path} holds no .tif or .tiff slices.")
            return np.stack([_read_tiff(p) for p in slices])
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tifffile.TiffFileError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise OSError(
            f"{path} cannot be read as {kind} ({error}). It may be truncated: copy or export it again."
        ) from error
    raise OSError(f"{path} is of an unknown kind; .npy, .npz, .tif, a folder of .tif slices, .vti and .vtk are read.")


def _chosen(path: Path, there: list[str], array: str | None) -> str:
    """The name of the array that is meant."""
    if array is None and len(there) != 1:
        raise ValueError(f"{path} holds the arrays {there}: name the one with the phases, array='...'.")
    if array is not None and array not in there:
        raise ValueError(f"array={array!r} is not in {path}; it holds the arrays {there}.")
    return there[0] if array is None else array


def _read_vtk(path: Path, array: str | None) -> np.ndarray:
    """Shape: -> (x, y, z) of the file; VTK keeps x fastest."""
    try:
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow
        from vtkmodules.vtkCommonDataModel import vtkImageData
        from vtkmodules.vtkIOLegacy import vtkGenericDataObjectReader
        from vtkmodules.vtkIOXML import vtkXMLGenericDataObjectReader
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package vtk: `pip install vtk`, or rlnlib with its extra [vtk]."
        ) from error
    legacy = vtkGenericDataObjectReader()
    legacy.ReadAllScalarsOn()  # else only the first of several
    legacy.ReadAllFieldsOn()
    reader = vtkXMLGenericDataObjectReader() if path.suffix.lower() == ".vti" else legacy
    reader.SetFileName(str(path))
    # VTK reports damage in words only, through one window and one log for all.
    former, window = vtkOutputWindow.GetInstance(), vtkStringOutputWindow()
    verbosity = vtkLogger.GetCurrentVerbosityCutoff()
    vtkOutputWindow.SetInstance(window)
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        reader.Update()
        data, said = reader.GetOutput(), window.GetOutput()
    finally:
        vtkOutputWindow.SetInstance(former)
        vtkLogger.SetStderrVerbosity(verbosity)
    if data is None or "error" in said.lower():
        raise OSError(" ".join(said.split()[-12:]) or "VTK finds no data in it")
    if not isinstance(data, vtkImageData):
        raise ValueError(f"{path} holds {data.GetClassName()}, not image data: export it as voxels (vtkImageData).")
    spacing = data.GetSpacing()
    if max(spacing) > 1.001 * min(spacing):
        raise ValueError(f"{path} has voxels of the size {spacing}, but ours are cubes: resample the image.")
    points = data.GetDimensions()
    found = {}  # an array of cells before one of points with the same name
    for attributes, shape in ((data.GetPointData(), points), (data.GetCellData(), tuple(n - 1 for n in points))):
        for number in range(attributes.GetNumberOfArrays()):
            if (values := attributes.GetArray(number)) is not None:  # None for text
                found[values.GetName()] = values, shape
    values, shape = found[_chosen(path, list(found), array)]
    if values.GetNumberOfComponents() != 1:
        raise ValueError(f"{path}: {values.GetName()!r} has {values.GetNumberOfComponents()} components, a label one.")
    return vtk_to_numpy(values).reshape(shape, order="F")


def _read_tiff(path: Path) -> np.ndarray:
    """The image of a TIFF file. Where it is cut off, tifffile logs an error and fills up; here that is an error."""
    problems: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: problems.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        with tifffile.TiffFile(path) as file:
            image = file.asarray()
    finally:
        logger.removeHandler(listener)
    if problems:
        raise OSError(problems[0])
    return image
