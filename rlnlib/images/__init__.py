"""A cell from an image file: read, checked, and refused where its content would have to be guessed.

:mod:`rlnlib.images.pictures` reads TIFF, PNG and folders of slices, :mod:`rlnlib.images.volumes` NumPy, raw, HDF5 and
NRRD files, :mod:`rlnlib.images.vtk_files` those that VTK reads. Each gives the array as it stands in the file, and the
distance of its voxels along each axis where the file says it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlnlib import _checks
from rlnlib.images.image import Image, Options, reading

__all__ = ["load_cell", "load_labels", "periodic_mismatch"]

_FOLDER = "a folder of slices (.tif, .tiff, .png, .bmp)"
#: Files that hold several arrays, from which ``array`` chooses.
_SEVERAL_ARRAYS = (".npz", ".h5", ".hdf5", ".dream3d", ".vti", ".vtr", ".vtk")
#: Files that do not name the axes of an array.
_NO_AXES = (".npy", ".npz", ".h5", ".hdf5", ".dream3d", ".nrrd", ".nhdr")
#: A file of another kind: the line that makes one of ours of it.
_CONVERSIONS = {
    ".nii": "nibabel: np.save('cell.npy', np.asarray(nibabel.load('cell.nii').dataobj))",
    ".gz": "the program gunzip, if the packed file is one of these",
    ".am": "Avizo or Amira itself: export as TIFF",
    ".jpg": "the original image and export it as PNG or TIFF, since JPEG changes the values of labels",
    ".jpeg": "the original image and export it as PNG or TIFF, since JPEG changes the values of labels",
    ".mat": "scipy: np.save('cell.npy', scipy.io.loadmat('cell.mat')['NAME'])",
    ".dcm": "pydicom, or SimpleITK: np.save('cell.npy', SimpleITK.GetArrayFromImage(image))",
}


def load_cell(
    path,
    stiff_label=None,
    loading_axis: int = 0,
    array: str | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
    return_spacing: bool = False,
):
    """Read a two-phase cell from an image file: ``image == stiff_label``, with the loading axis first.

    Read are ``.npy``, ``.npz``, TIFF stacks, PNG and BMP pictures, folders of such slices in the order of their
    numbers, HDF5 (also DREAM.3D), ``.raw``, and with extra packages NRRD, MetaImage (``.mhd``, ``.mha``) and VTK image
    data or rectilinear grids (``.vti``, ``.vtr``, ``.vtk``). An image of one plane becomes a cell of two equal planes:
    plane strain.

    The solvers repeat the cell periodically; a RuntimeWarning says so where opposite faces fit together much worse
    than neighbouring planes do. Another one names the numbers that a folder of slices misses.

    Args:
        path: the file, or the folder of slices.
        stiff_label: the label of the stiff phase, or several, (2, 3); all others are soft. Without it the image must
            have two labels, and the larger is stiff.
        loading_axis: the axis of the file that becomes axis 0. The axes are those of the array in the file: planes,
            rows, columns of TIFF and of slices; x, y, z of VTK, MetaImage and NRRD; z, y, x of DREAM.3D.
        array: the name of one of several arrays in an ``.npz``, HDF5 or VTK file.
        shape, dtype: of a ``.raw`` file, (200, 300, 300) and "uint8"; the last axis runs fastest. ">u2" is uint16 of
            the other byte order.
        return_spacing: also return the edges of a voxel. Without it a file whose voxels are not cubes is refused.

    Returns:
        stiff (N1, N2, N3) bool, True where the cell is stiff. With ``return_spacing`` the pair (stiff, spacing):
        three edges in the unit of the file, (1, 1, 1) where it says none.

    Raises:
        FileNotFoundError, OSError: the file is missing, damaged, cannot be read, or is of another kind.
        ValueError: an argument is wrong, the array is no cell, or a label or an array is not there.
        ImportError: the package that reads this file is missing.
    """
    image, spacing = _load_image(path, loading_axis, Options(array, shape, dtype), return_spacing)
    labels = np.unique(image)
    shown = ", ".join(map(str, labels[:6])) + (", ..." if len(labels) > 6 else "")
    if stiff_label is None:
        if len(labels) == 1:
            raise ValueError(
                f"{path} has the label {shown} alone, and a two-phase cell has two: segment the image anew, or say "
                f"with stiff_label={shown} that all of it is stiff."
            )
        if len(labels) != 2:
            raise ValueError(
                f"{path} has the {len(labels)} labels {shown}; a two-phase cell has two. Name those of the stiff phase "
                f"with stiff_label, threshold the image first, or solve a cell of more phases with "
                f"solve_strain(images.load_labels(path)[0], phases=[(young, poisson), ...])."
            )
        wanted = labels[-1:]
    else:
        given = _checks.as_tensor(stiff_label, "stiff_label")
        wanted = np.atleast_1d((given.double() if given.is_floating_point() else given).cpu().numpy())
    if wanted.size == 0 or not np.isin(wanted, labels).all():
        missing = ", ".join(f"{label:g}" for label in wanted[~np.isin(wanted, labels)][:5])
        raise ValueError(
            f"stiff_label={_checks.shown(stiff_label)}: {missing or 'no label'} does not occur in {path}; its labels "
            f"are {shown}. A grey image becomes a cell by a threshold, images.load_labels(path)[0] > 127."
        )
    cell = np.isin(image, wanted)
    return (cell, spacing) if return_spacing else cell


def load_labels(
    path,
    loading_axis: int = 0,
    array: str | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
    return_spacing: bool = False,
):
    """Read a cell of any number of phases: the labels of the image, numbered from 0.

    Args:
        path, loading_axis, array, shape, dtype, return_spacing: as in :func:`load_cell`.

    Returns:
        labels (N1, N2, N3) int64, as solve_strain takes them with ``phases``; and the value that each has in the
        file, ascending (phases,). With ``return_spacing`` the edges of a voxel come third.

    Raises:
        what :func:`load_cell` raises; ValueError for more than 100 different values.
    """
    image, spacing = _load_image(path, loading_axis, Options(array, shape, dtype), return_spacing)
    values, labels = np.unique(image, return_inverse=True)
    if len(values) > 100:
        raise ValueError(f"{path} has {len(values)} different values, too many for labels: segment the image first.")
    labels = labels.reshape(image.shape).astype(np.int64)
    return (labels, values, spacing) if return_spacing else (labels, values)


def _load_image(path, loading_axis, options: Options, any_spacing: bool) -> tuple[np.ndarray, tuple[float, ...]]:
    """The image of a file, checked, and the edges of its voxels; with a warning where it is not periodic."""
    path = _checks.as_path(path)
    loading_axis = _checks.positive_integer("loading_axis", loading_axis, least=0, most=2)
    any_spacing = _checks.boolean("return_spacing", any_spacing)
    image = _read(path, options)
    values, spacing = image.values, image.spacing or (math.nan,) * image.values.ndim
    if values.dtype.kind not in "buif" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise ValueError(f"{path} must hold finite numbers as phase labels; its dtype is {values.dtype}.")
    if values.size == 0:
        raise ValueError(f"{path} holds an image of shape {values.shape}, without a voxel.")
    kept = [axis for axis, n in enumerate(values.shape) if n > 1]
    if values.ndim not in (2, 3) or len(kept) < 2:
        way = " Save `array.squeeze()` of it." if values.ndim > 3 and len(kept) in (2, 3) else ""
        raise ValueError(f"{path} holds an array of shape {values.shape}; a cell has three axes, a picture two.{way}")
    if path.suffix.lower() in _NO_AXES:
        _refuse_colours(path, values)
    if len(kept) == 2:  # a picture: uniform along its normal, which has any thickness
        values = np.repeat(values.reshape([values.shape[axis] for axis in kept])[..., None], 2, axis=2)
        spacing = (*(spacing[axis] for axis in kept), math.nan)
    spacing = _edges(path, spacing, any_spacing)
    values = np.ascontiguousarray(np.moveaxis(values, loading_axis, 0), values.dtype.newbyteorder("="))
    spacing = (spacing[loading_axis], *(edge for axis, edge in enumerate(spacing) if axis != loading_axis))
    seam, inside = periodic_mismatch(values)
    if seam > 2 * inside + 0.02:
        warnings.warn(
            f"{path} does not look periodic: {100 * seam:.0f} % of voxels differ across its opposite faces, against "
            f"{100 * inside:.0f} % between neighbouring planes. The solution is that of the repeated cell, and near "
            f"the faces it is not that of the imaged material.",
            RuntimeWarning,
            stacklevel=3,
        )
    return values, spacing


def _refuse_colours(path: Path, values: np.ndarray) -> None:
    """Refuse a picture in colours in a file without names for axes: its channels are no planes of a cell."""
    for axis in {0, values.ndim - 1} if values.ndim == 3 else ():
        channels = np.moveaxis(values, axis, 0)
        if len(channels) in (3, 4) and min(channels.shape[1:]) >= 16 and (channels != channels[0]).any():
            raise ValueError(
                f"{path} has the shape {values.shape}, and axis {axis} of {len(channels)} looks like the channels of a "
                f"picture in colours: convert it to one label a pixel. If these are planes of a cell, pass the array "
                f"itself to the solver."
            )


def _edges(path: Path, spacing, any_spacing: bool) -> tuple[float, float, float]:
    """The three edges of a voxel; an axis for which the file says none has the edge of the others.

    Raises ValueError for edges that differ, unless they are asked for.
    """
    known = [edge for edge in spacing if not math.isnan(edge)]
    if any(not math.isfinite(edge) or edge <= 0 for edge in known):
        raise ValueError(f"{path} says that its voxels have the edges {spacing}; edges are positive numbers.")
    if not known:
        return 1.0, 1.0, 1.0
    first, second, third = (known[0] if math.isnan(edge) else float(edge) for edge in spacing)
    edges = (first, second, third)
    if max(edges) > 1.001 * min(edges) and not any_spacing:
        shown = " x ".join(f"{edge:.6g}" for edge in edges)
        raise ValueError(
            f"{path} has voxels of {shown} (by the axes of the file), which are no cubes. Solve it so: `cell, spacing "
            f"= rlnlib.load_cell(path, return_spacing=True)` and `rlnlib.solve_strain(cell, spacing=spacing, ...)`; or "
            f"make cubes of the image: `scipy.ndimage.zoom(image, [e / min(edges) for e in edges], order=0, "
            f"grid_mode=True, mode='nearest')` with edges = ({', '.join(f'{edge:.6g}' for edge in edges)})."
        )
    return edges


def periodic_mismatch(cell: np.ndarray) -> tuple[float, float]:
    """Fraction of voxels that differ across opposite faces, and between neighbouring planes inside; the worst axis."""
    seams, insides = [], []
    for axis in range(3):
        planes = np.moveaxis(cell, axis, 0)
        seams.append(np.mean(planes[0] != planes[-1]))
        insides.append(np.mean(planes[1:] != planes[:-1]))
    worst = int(np.argmax(np.array(seams) - np.array(insides)))
    return float(seams[worst]), float(insides[worst])


@functools.cache
def _readers() -> dict[str, Callable[[Path, Options], Image]]:
    """The reader of each kind of file."""
    from rlnlib.images import pictures, volumes, vtk_files  # here, since h5py and tifffile take a while to import

    return {
        ".npy": volumes.read_npy,
        ".npz": volumes.read_npz,
        ".raw": volumes.read_raw,
        **dict.fromkeys((".h5", ".hdf5", ".dream3d"), volumes.read_hdf5),
        **dict.fromkeys((".nrrd", ".nhdr"), volumes.read_nrrd),
        **dict.fromkeys((".vti", ".vtr", ".vtk"), vtk_files.read_vtk),
        **dict.fromkeys((".mhd", ".mha"), vtk_files.read_meta_image),
        **dict.fromkeys((".tif", ".tiff"), pictures.read_tiff),
        **dict.fromkeys((".png", ".bmp"), pictures.read_picture),
        _FOLDER: pictures.read_folder,
    }


def _read(path: Path, options: Options) -> Image:
    if not path.exists():
        way = "name the folder of the slices" if "*" in path.name else "check the name"
        raise FileNotFoundError(f"No file {path}: {way} and the working folder ({Path.cwd()}).")
    kind = _FOLDER if path.is_dir() else path.suffix.lower()
    if (reader := _readers().get(kind)) is None:
        way = f" To convert it, take {_CONVERSIONS[kind]}." if kind in _CONVERSIONS else ""
        raise OSError(f"{path} is of an unknown kind; {', '.join(_readers())} are read.{way}")
    if options.array is not None and kind not in _SEVERAL_ARRAYS:
        raise ValueError(f"{path} holds one array without a name: leave out array={options.array!r}.")
    if kind != ".raw" and (options.shape is not None or options.dtype is not None):
        raise ValueError(f"{path} says itself which shape and dtype it has: leave out shape and dtype.")
    with reading(path, kind):
        return reader(path, options)
