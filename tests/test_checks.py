"""One checking layer: what is accepted comes back cleaned, what is not is refused by the name of its argument."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import _checks, dataset

CELL = np.arange(24).reshape(2, 3, 4) % 3 == 0


@pytest.mark.parametrize(
    "cells",
    [
        CELL,
        CELL.astype(">i4"),
        CELL.astype(np.uint16),
        CELL.astype(">u8"),
        CELL[::-1, :, ::-1].copy()[::-1, :, ::-1],
        np.asfortranarray(CELL),
        CELL.tolist(),
        torch.from_numpy(CELL),
        torch.from_numpy(CELL).byte(),
    ],
)
def test_labels_of_every_integer_type_byte_order_and_stride_are_the_same_cell(cells):
    labels = _checks.as_labels(cells)
    assert labels.dtype == torch.int64 and torch.equal(labels[0], torch.from_numpy(CELL).long())


def test_the_solver_takes_big_endian_and_flipped_cells():
    stiff = rlnlib.generate_cells(1, size=6, grain_size=(1, 3))
    expected = rlnlib.solve_strain(stiff, 10.0).effective_stress
    turned = stiff.astype(">i2")[:, ::-1].copy()[:, ::-1]
    assert torch.equal(rlnlib.solve_strain(turned, 10.0).effective_stress, expected)


def test_a_picture_is_a_cell_under_plane_strain_however_thick_it_is_made():
    disc = np.hypot(*(np.mgrid[:12, :12] - 5.5)) < 4
    flat = rlnlib.solve_strain(disc, 10.0, rtol=1e-10)
    assert flat.strain.shape == (1, 6, 12, 12, 2) and flat.strain[:, 2].abs().max() < 1e-12
    thick = rlnlib.solve_strain(np.repeat(disc[..., None], 5, 2), 10.0, rtol=1e-10)
    assert torch.allclose(flat.effective_stress, thick.effective_stress, atol=1e-8)
    assert torch.equal(rlnlib.solve_strain(disc[..., None], 10.0, rtol=1e-10).strain, flat.strain)
    standing = rlnlib.solve_strain(disc[None], 10.0, rtol=1e-10)  # now loaded across the plane
    assert standing.strain.shape == (1, 6, 2, 12, 12)
    assert (standing.effective_stress[0, 0] - flat.effective_stress[0, 0]).abs() > 0.01


@pytest.mark.parametrize(
    "cells",
    [
        None,
        "cell",
        7,
        [[1, 0], [1]],
        np.zeros((2, 2, 2), complex),
        np.zeros((2, 2, 2), object),
        np.full((2, 2, 2), np.nan),
        np.zeros((0, 4, 4, 4), bool),
        np.zeros((1, 4, 0, 4), bool),
        np.full((2, 2, 2), 2**63, np.uint64),
        np.ma.masked_equal(np.arange(8).reshape(2, 2, 2), 3),
        torch.zeros(2, 2, 2, dtype=torch.bool).to_sparse(),
        torch.zeros(2, 2, 2, dtype=torch.bool, device="meta"),
        torch.quantize_per_tensor(torch.zeros(2, 2, 2), 1.0, 0, torch.quint8),
        np.full((2, 2, 2), -1),
        np.zeros((1, 1, 2, 2, 2), bool),
    ],
)
def test_what_is_no_cell_is_refused_by_name(cells):
    with pytest.raises(ValueError, match="stiff"):
        _checks.as_labels(cells)


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), Fraction(1, 4), 0.25])
def test_numbers_come_back_as_pythons_own(value):
    assert type(_checks.positive("contrast", value)) is float
    assert type(_checks.poisson_ratio(value)) is float
    assert type(_checks.within("warm_up", value, 0, 1)) is float
    assert type(_checks.positive_integer("n", np.int32(3))) is int
    assert type(_checks.boolean("tied", np.True_)) is bool


@pytest.mark.parametrize(
    "value", [None, "1", "", True, [], {}, math.nan, math.inf, 10**400, -(10**400), 1j, Decimal(1), np.array([1.0])]
)
def test_what_is_no_number_is_refused_by_name(value):
    for check in (_checks.positive, _checks.positive_integer, lambda name, v: _checks.within(name, v, 0, 2)):
        with pytest.raises(ValueError, match="size"):
            check("size", value)
    with pytest.raises(ValueError, match="poisson"):
        _checks.poisson_ratio(value)
    if value is not True:
        with pytest.raises(ValueError, match="tied"):
            _checks.boolean("tied", value)


def test_whole_numbers_have_an_upper_bound_that_files_and_loops_can_hold():
    assert _checks.positive_integer("seed", 2**63 - 1) == 2**63 - 1
    for value in (2**63, 2**64, 10**400):
        with pytest.raises(ValueError, match="max_iterations"):
            _checks.positive_integer("max_iterations", value)
    with pytest.raises(ValueError, match=r"passes.*from 1 to 1000"):
        _checks.positive_integer("passes", 10**9, most=1000)


@pytest.mark.parametrize("device", ["", "gpu", "meta", "cuda:99", 3.5, [], "cpu:x", object()])
def test_a_device_that_is_not_there_is_refused_by_name(device):
    with pytest.raises(ValueError, match="device"):
        _checks.as_device(device)


def test_a_device_that_is_there_is_returned():
    assert _checks.as_device(None) == _checks.as_device("cpu") == torch.device("cpu")
    assert _checks.as_device(torch.device("cpu", 0)).type == "cpu"


@pytest.mark.parametrize("phases", [[], [(1, 0.3, 2)], [(1, 0.3), 5], "ab", 3, [(1, 0.3), (10**400, 0.3)], [(1, 0.5)]])
def test_odd_phases_are_refused_by_name(phases):
    with pytest.raises(ValueError, match=r"phases|poisson"):
        _checks.as_phases(None, 0.3, phases)


def test_phases_may_be_an_array():
    assert _checks.as_phases(None, 0.3, np.array([[1.0, 0.3], [5.0, 0.2]])) == [(1.0, 0.3), (5.0, 0.2)]


@pytest.mark.parametrize("call", [lambda: _checks.as_phases(None, 0.3, [(0, 0.3), (1.0, 0.3)])])
def test_a_pore_of_no_stiffness_is_told_what_serves(call):
    with pytest.raises(ValueError, match=r"Young's modulus.*pore.*1e-6"):
        call()


@pytest.mark.parametrize("vector", [None, "abcdef", [1, 2], [1j] * 6, [10**400] * 6, [math.nan] * 6, {}])
def test_odd_strains_are_refused_by_name(vector):
    with pytest.raises(ValueError, match="macroscopic_strain"):
        _checks.mandel_vector("macroscopic_strain", vector)


def test_a_big_endian_strain_is_taken():
    assert _checks.mandel_vector("strain", np.arange(6.0).astype(">f4")).tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_that_the_memory_does_not_hold_are_refused_before_they_are_copied(monkeypatch):
    monkeypatch.setattr(_checks, "memory_of_machine", lambda: 8 * 4**3)
    assert _checks.as_labels(np.zeros((4, 4, 4), bool)).shape == (1, 4, 4, 4)
    with pytest.raises(ValueError, match=r"stiff of \(1, 4, 4, 5\) labels needs .* GiB of memory"):
        _checks.as_labels(np.zeros((4, 4, 5), bool))


def test_a_solution_that_the_memory_does_not_hold_is_refused_with_a_way_out(monkeypatch):
    cell = np.zeros((1, 8, 8, 8), bool)
    monkeypatch.setattr(_checks, "memory_of_machine", lambda: 110 * 8**3)
    with pytest.raises(ValueError, match=r"A solution of 1 x \(8, 8, 8\) voxels needs .*smaller cells.*rlnlib.fans"):
        rlnlib.solve_strain(cell, 10)


def test_a_poisson_ratio_beside_phases_is_refused():
    with pytest.raises(ValueError, match="Give poisson with contrast; each of phases has its own"):
        rlnlib.solve_strain(np.zeros((4, 4, 4), int), phases=[(1, 0.2)], poisson=0.2)
    with pytest.raises(ValueError, match="Give poisson with contrast; each of phases has its own"):
        rlnlib.solve_strain(np.zeros((4, 4, 4), int), phases=[(1, 0.2)], poisson=np.array([0.2, 0.3]))


def test_more_memory_than_the_machine_has_is_refused_before_it_is_asked_for():
    assert 2**28 < _checks.memory_of_machine() < 2**50
    with pytest.raises(ValueError, match=r"size=2000.*GiB of memory"):
        _checks.memory("a cell of size=2000", 2.0**60)
    _checks.memory("a small cell", 2.0**20)


@pytest.mark.parametrize("function", [rlnlib.effective_stiffness, dataset.make_dataset])
def test_an_option_that_a_function_does_not_hand_on_is_refused_in_its_name(function):
    with pytest.raises(TypeError, match=rf"{function.__name__} has no argument 'tolerance'; .*rtol"):
        function("cells", 10, tolerance=1e-3)


@pytest.mark.parametrize("path", [None, 7, [], "", "a\0b", object()])
def test_what_is_no_path_is_refused_by_name(path):
    with pytest.raises(ValueError, match="folder"):
        _checks.as_path(path, "folder")
