import hashlib

import numpy as np
import pytest

import rlnlib
from rlnlib import microstructure
from rlnlib.microstructure import pymks_cell


@pytest.mark.reference
def test_pymks_cell_equals_the_authors_cells_bit_for_bit(reference_data):
    data = np.load(reference_data / "author_cells_31.npz")
    design = zip(data["stiff_packed"], data["grain_size"], data["soft_fraction"], data["seed"], strict=True)
    equal = 0
    for packed, grain_size, soft_fraction, seed in design:
        stored = np.unpackbits(packed)[: 31**3].reshape(31, 31, 31).astype(bool)
        equal += np.array_equal(pymks_cell(31, grain_size, soft_fraction, seed), stored)
    assert equal == len(data["seed"]) >= 64


def test_pymks_cell_is_pinned():
    """Even and odd grain sizes, odd and even cells: hashes of cells that agreed with the authors' recipe."""
    cells = [pymks_cell(31, (4, 7, 31), 0.37, 5), pymks_cell(8, (2, 3, 8), 0.5, 9)]
    digest = hashlib.sha256(b"".join(np.packbits(cell).tobytes() for cell in cells)).hexdigest()
    assert digest[:16] == "867568c9f92632c5"


@pytest.mark.parametrize("soft_fraction", [0.0, 0.25, 0.9])
def test_pymks_volume_fraction_is_exact(soft_fraction):
    cell = pymks_cell(9, (3, 2, 5), soft_fraction, 1)
    assert cell.shape == (9, 9, 9) and cell.dtype == bool
    assert cell.sum() == 729 - int(soft_fraction * 729) - 1


def test_pymks_cell_leaves_the_global_generator_alone():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    pymks_cell(5, (2, 2, 2), 0.5, 7)
    assert np.random.random() == expected


def test_larger_grain_size_along_an_axis_makes_longer_grains_there():
    cell = pymks_cell(31, (1, 1, 15), 0.5, 3)
    changes = [np.mean(cell != np.roll(cell, 1, axis)) for axis in range(3)]
    assert changes[2] < 0.5 * min(changes[:2])


def test_generated_cells_are_the_same_alone_and_together():
    cells = rlnlib.generate_cells(20, size=7, grain_size=(1, 5), repeats=5, seed=3)
    sizes, fractions = microstructure.design(4, (1, 5), (0, 1), 3)
    for index in (0, 7, 19):
        alone = microstructure.generate_cell(index, sizes, fractions, 7, 5, 3)
        assert np.array_equal(alone, cells[index])
    assert not np.array_equal(cells, rlnlib.generate_cells(20, size=7, grain_size=(1, 5), repeats=5, seed=4))


def test_generated_fractions_are_those_of_the_design_and_both_phases_are_there():
    cells = rlnlib.generate_cells(40, size=6, grain_size=(1, 4), repeats=2, seed=0)
    assert cells.shape == (40, 6, 6, 6) and cells.dtype == bool
    _, fractions = microstructure.design(20, (1, 4), (0, 1), 0)
    counts = cells.sum((1, 2, 3))
    assert np.array_equal(counts, np.clip(np.rint(np.repeat(fractions, 2) * 216), 1, 215))
    narrow = rlnlib.generate_cells(8, size=4, grain_size=(1, 4), stiff_fraction=(0, 0.001))
    assert (narrow.sum((1, 2, 3)) == 1).all()


def test_cells_smaller_than_the_default_grains_are_refused_with_the_default():
    with pytest.raises(ValueError, match=r"grain_size is \(1, 10\), as by default, and a cell has 8 voxels"):
        microstructure.generate_cells(1, size=8)


@pytest.mark.parametrize(("points", "seed"), [(1, 0), (50, 7), (4096, 12345)])
def test_the_designs_are_those_of_scipy(points, seed):
    from scipy.stats import qmc

    theirs = qmc.LatinHypercube(d=4, rng=np.random.default_rng(seed)).random(points)
    sizes, fractions = microstructure.design(points, (1, 10), (0, 1), seed)
    assert np.array_equal(sizes, 1 + np.floor(10 * theirs[:, :3])) and np.array_equal(fractions, theirs[:, 3])


def test_design_is_a_latin_hypercube():
    sizes, fractions = microstructure.design(50, (1, 10), (0.2, 0.8), 0)
    for axis in range(3):
        assert np.array_equal(np.bincount(sizes[:, axis], minlength=11)[1:], [5] * 10)
    assert np.array_equal(np.sort(np.floor((fractions - 0.2) / 0.6 * 50)), np.arange(50))


@pytest.mark.parametrize(
    "call",
    [
        lambda: pymks_cell(1, (1, 1, 1), 0.5, 0),
        lambda: pymks_cell(5, (1, 1), 0.5, 0),
        lambda: pymks_cell(5, (1, 1, 6), 0.5, 0),
        lambda: pymks_cell(5, (1, 1, 0), 0.5, 0),
        lambda: pymks_cell(5, (1, 1, 1), 1.0, 0),
        lambda: pymks_cell(5, (1, 1, 1), 0.999, 0),
        lambda: pymks_cell(5, (1, 1, 1), float("nan"), 0),
        lambda: pymks_cell(5, (1, 1, 1), 0.5, -1),
        lambda: pymks_cell(5, (1, 1, 1), "", 0),
        lambda: pymks_cell(5, "nan", 0.5, 0),
        lambda: rlnlib.generate_cells(0),
        lambda: rlnlib.generate_cells(4, size=31, repeats=3),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(1, 6)),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(4, 2)),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(0, 2)),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(1, 2), stiff_fraction=(0.5, 1.5)),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(1, 2), seed=-1),
        lambda: rlnlib.generate_cells(1, size=5, grain_size="nan"),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(1, 2.5)),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=3),
        lambda: rlnlib.generate_cells(10**12, size=5, grain_size=(1, 2)),
        lambda: rlnlib.generate_cells(10**12, repeats=10**12),
        lambda: rlnlib.generate_cells(10**400),
        lambda: rlnlib.generate_cells(1, size=5, grain_size=(1, 2), seed=2**64),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_a_cell_larger_than_the_memory_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match=r"size=20000.*GiB of memory"):
        rlnlib.generate_cells(1, size=20000)
    with pytest.raises(ValueError, match="memory"):
        pymks_cell(20000, (1, 1, 1), 0.5, 0)
