"""stiff = (Gaussian filter * white noise) > quantile: the two-phase cells of the paper.

A cell is an array (N1, N2, N3) of bool, True where the stiff phase is. Axis 0 is the loading axis.
"""

import numpy as np

from rlnlib import _checks

#: Bytes a voxel that one cell takes while it is made: noise, spectrum and its copy, filtered field, a sorted copy.
_BYTES = 64


def pymks_cell(size: int, grain_size, soft_fraction: float, seed: int) -> np.ndarray:
    """One cell of the authors' generator, bit for bit.

    White noise from NumPy's legacy generator is filtered along each axis by a Gaussian of standard deviation
    g / (2 pi) voxels, cut at g voxels, and thresholded at the value of rank ``floor(soft_fraction * size**3)``, so
    ``size**3 - rank - 1`` voxels are stiff. Where size - g is odd, the authors' padding sets the kernel
    ``ceil((size - g) / 2)`` voxels from the edge; for even g on odd sizes that shifts the cell by one voxel.

    Args:
        size: voxels along each edge, at least 2.
        grain_size: three whole numbers from 1 to ``size``, by array axis.
        soft_fraction: part of the soft voxels, from 0 to less than 1.
        seed: from 0 to 2**32 - 1.

    Returns:
        stiff (size, size, size) bool.

    Raises:
        ValueError: an argument is out of its range, a phase would be missing, or the memory does not suffice.
    """
    size = _checks.positive_integer("size", size, least=2)
    seed = _checks.positive_integer("seed", seed, least=0, most=2**32 - 1)
    if _checks.as_tensor(grain_size, "grain_size").shape != (3,):
        raise ValueError(f"grain_size must be three whole numbers, one for each axis; it is {grain_size!r}.")
    sizes = [_checks.positive_integer("grain_size", g, most=size) for g in grain_size]
    rank = int(np.floor(_checks.within("soft_fraction", soft_fraction, 0, 1) * size**3))
    if rank >= size**3 - 1:
        raise ValueError(f"soft_fraction={soft_fraction!r} leaves no stiff voxel in a cell of {size}**3: lower it.")
    _checks.memory(f"A cell of size={size}", _BYTES * size**3)
    noise = np.random.RandomState(seed).random_sample((size,) * 3)
    return _above_rank(noise, sizes, rank)


def _above_rank(noise: np.ndarray, grain_size, rank: int) -> np.ndarray:
    """Convolve noise (S, S, S) with a Gaussian of standard deviation g / (2 pi) along each axis, cut at g voxels.

    True where the result is above its value of that rank, counted from the smallest.
    """
    size = noise.shape[0]
    spectrum = np.fft.fftn(noise)  # (S, S, S) complex
    for axis, g in enumerate(grain_size):
        offsets = (np.fft.fftfreq(g) * g).round().astype(int)
        shift = -((g - size) // 2) + g // 2 - size // 2  # 0, or 1 for even g on odd sizes
        kernel = np.zeros(size)
        kernel[(offsets + shift) % size] = np.exp(-2 * np.pi**2 * offsets**2 / g**2)
        spectrum *= np.fft.fft(kernel).reshape([-1 if a == axis else 1 for a in range(3)])
    field = np.fft.ifftn(spectrum).real
    return field > np.partition(field, rank, axis=None)[rank]


def check_design(size: int, grain_size, stiff_fraction) -> tuple[int, tuple[int, int], tuple[float, float]]:
    """Check the size and the ranges of a :func:`design`, and return them as plain numbers. Raises ValueError."""
    size = _checks.positive_integer("size", size, least=2)
    low, high = _checks.pair("grain_size", grain_size)
    if (low, high) == (1, 10) and size < 10:
        raise ValueError(
            f"grain_size is (1, 10), as by default, and a cell has {size} voxels: give a range up to that."
        )
    low = _checks.positive_integer("grain_size", low, most=size)
    high = _checks.positive_integer("grain_size", high, least=low, most=size)
    least, most = _checks.pair("stiff_fraction", stiff_fraction)
    least = _checks.within("stiff_fraction", least, 0, 1)
    return size, (low, high), (least, _checks.within("stiff_fraction", most, least, 1))


def design(points: int, grain_size=(1, 10), stiff_fraction=(0, 1), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latin hypercube over the three grain sizes and the volume fraction of the stiff phase.

    Args:
        points: how many designs.
        grain_size: an inclusive range of whole numbers, the same for each axis.
        stiff_fraction: a range within 0 and 1.
        seed: any whole number from 0 on.

    Returns:
        grain sizes (points, 3) int64, by array axis, and stiff fractions (points,) float64.

    Raises:
        ValueError: a range is empty or impossible.
    """
    points = _checks.positive_integer("points", points)
    seed = _checks.positive_integer("seed", seed, least=0)
    _, (low, high), (least, most) = check_design(_checks.LARGEST, grain_size, stiff_fraction)
    _checks.memory(f"A design of {points} points", 100 * points)
    # The numbers of scipy.stats.qmc.LatinHypercube, without a second for its import.
    random = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    within = random.uniform(size=(points, 4))
    slices = np.tile(np.arange(1, points + 1), (4, 1))  # each axis has one point in each of as many slices
    for of_axis in slices:
        random.shuffle(of_axis)
    drawn = (slices.T - within) / points  # (points, 4), from 0 to 1
    sizes = np.minimum(low + np.floor(drawn[:, :3] * (high - low + 1)), high).astype(np.int64)
    return sizes, least + drawn[:, 3] * (most - least)


def generate_cells(
    n: int, size: int = 31, grain_size=(1, 10), stiff_fraction=(0, 1), repeats: int = 1, seed: int = 0
) -> np.ndarray:
    """Random two-phase cells as in the paper: a Latin hypercube of designs, ``repeats`` random cells for each.

    The paper's set is ``generate_cells(20480, repeats=5)``; the ranges, which the paper does not state, are a guess
    by the errors of its released networks. Cell i depends on (design, i, seed) alone, so any part of a set can be made
    by itself with :func:`generate_cell`. Each cell has the stiff voxel count nearest to its design's fraction, but
    at least one voxel of each phase.

    Args:
        n: how many cells, a multiple of ``repeats``.
        size: voxels along each edge.
        grain_size: range of the grain size along each axis, whole numbers from 1 to ``size``.
        stiff_fraction: range of the stiff phase's volume fraction, within 0 and 1.
        repeats: cells of each design.
        seed: any whole number from 0 on.

    Returns:
        stiff (n, size, size, size) bool.

    Raises:
        ValueError: an argument is out of its range, or the memory does not suffice.
    """
    n, repeats = _checks.positive_integer("n", n), _checks.positive_integer("repeats", repeats)
    if n % repeats:
        raise ValueError(f"n must be a multiple of repeats: {n} cells do not make designs of {repeats} cells each.")
    size, grain_size, stiff_fraction = check_design(size, grain_size, stiff_fraction)
    seed = _checks.positive_integer("seed", seed, least=0)
    _checks.memory(f"{n} cells of size={size}", (n + _BYTES) * size**3)
    sizes, fractions = design(n // repeats, grain_size, stiff_fraction, seed)
    cells = np.empty((n, size, size, size), bool)
    for i in range(n):
        cells[i] = generate_cell(i, sizes, fractions, size, repeats, seed)
    return cells


def generate_cell(index: int, grain_sizes, stiff_fractions, size: int, repeats: int, seed: int) -> np.ndarray:
    """Make one cell of a set by itself; :func:`generate_cells` makes all of them.

    Args:
        index: which cell.
        grain_sizes, stiff_fractions: the set's :func:`design`, (points, 3) and (points,).
        size, repeats, seed: those of the set.

    Returns:
        stiff (size, size, size) bool.
    """
    point = index // repeats
    noise = np.random.default_rng([seed, index]).random((size,) * 3)
    count = int(np.clip(np.rint(stiff_fractions[point] * size**3), 1, size**3 - 1))
    return _above_rank(noise, grain_sizes[point], size**3 - count - 1)
