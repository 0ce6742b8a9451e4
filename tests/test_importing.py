"""Foreign arrays are turned into our axes, or refused with what is wrong with them."""

import numpy as np
import pytest

import rlnlib
from rlnlib.dataset.importing import Pair


@pytest.fixture
def arrays():
    """Cells and strains in the authors' form. Shape: (3, 2, 5, 5, 5), (3, 5, 5, 5), the last axis loaded."""
    cells = rlnlib.generate_cells(3, size=5, grain_size=(1, 3), seed=0)
    strain = rlnlib.solve_strain(cells, 10.0).strain[:, 0].numpy()
    theirs = cells.astype(np.uint8).swapaxes(1, 3)
    return np.stack([1 - theirs, theirs], 1), 1e-3 * strain.swapaxes(1, 3), cells, strain


def save(folder, cells, strain):
    np.save(folder / "cells.npy", cells)
    np.save(folder / "strain.npy", strain)
    return Pair(folder / "cells.npy", folder / "strain.npy")


def test_a_pair_gives_cells_and_strains_in_our_axes(arrays, tmp_path, recwarn):
    theirs, scaled, cells, strain = arrays
    pair = save(tmp_path, theirs, scaled)
    assert len(pair) == 3 and pair.size == 5
    ((stiff, fields),) = pair.records()
    assert np.array_equal(stiff, cells) and np.abs(fields - strain).max() < 1e-6
    pair.compare_with_ours(10.0, 0.3)
    assert not recwarn.list


def test_a_wrong_axis_is_noticed(arrays, tmp_path):
    theirs, scaled, *_ = arrays
    with pytest.warns(UserWarning, match="last axis is the loading axis"):
        save(tmp_path, theirs, scaled.swapaxes(1, 3)).compare_with_ours(10.0, 0.3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda cells, strain: (cells[:, :1], strain), r"cells of the shape \(n, 2, N, N, N\)"),
        (lambda cells, strain: (cells[:0], strain[:0]), "cells of the shape"),
        (lambda cells, strain: (cells, strain[:2]), "3 cells of 5"),
        (lambda cells, strain: (cells[:, [1, 1]], strain), "indicators"),
        (lambda cells, strain: (2 * cells, strain), "indicators"),
        (lambda cells, strain: (cells, np.where(strain == strain.max(), np.nan, strain)), "NaN"),
        (lambda cells, strain: (cells, strain * np.array([1, 1, 1.1]).reshape(3, 1, 1, 1)), "more than 1 %"),
    ],
)
def test_arrays_of_another_form_get_their_sentence(change, sentence, arrays, tmp_path):
    with pytest.raises(ValueError, match=rf"(cells|strain)\.npy.*{sentence}"):
        list(save(tmp_path, *change(*arrays[:2])).records())


def test_files_that_cannot_be_read_get_their_sentence(arrays, tmp_path):
    save(tmp_path, *arrays[:2])
    with pytest.raises(FileNotFoundError, match="absent"):
        Pair(tmp_path / "absent.npy", tmp_path / "strain.npy")
    whole = (tmp_path / "cells.npy").read_bytes()
    (tmp_path / "cells.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"cells\.npy.*truncated"):
        Pair(tmp_path / "cells.npy", tmp_path / "strain.npy")
