import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import metrics


def test_mase_is_equation_29_by_hand():
    true = torch.ones(2, 2, 2, 2)
    predicted = true.clone()
    predicted[0, 0, 0, 0] = 1.4
    predicted[1] = 0.9
    assert torch.allclose(rlnlib.mase(predicted, true), torch.tensor([5.0, 10.0], dtype=torch.float64))


def test_mase_takes_arrays_and_channels():
    true = np.zeros((3, 1, 4, 4, 4), dtype=np.float32)
    errors = rlnlib.mase(true + 0.25, true)
    assert errors.shape == (3,) and torch.allclose(errors, torch.full((3,), 25.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (torch.ones(2, 3, 3, 3), torch.ones(1, 3, 3, 3)),
        (torch.ones(0, 3, 3, 3), torch.ones(0, 3, 3, 3)),
        (torch.full((1, 3, 3, 3), float("nan")), torch.ones(1, 3, 3, 3)),
        (torch.ones(3), torch.ones(3)),
    ],
)
def test_bad_input_is_refused(predicted, true):
    with pytest.raises(ValueError):
        rlnlib.mase(predicted, true)


def test_energy_by_wavelength_adds_up_to_the_variance_and_finds_a_wave_in_its_band():
    field = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = rlnlib.metrics.energy_by_wavelength(field, (2.5, 4.0))
    assert torch.allclose(parts.sum(1), field.flatten(1).var(1, correction=0), rtol=1e-12)
    x = torch.arange(16.0, dtype=torch.float64)[:, None, None].expand(16, 16, 16)
    for wavelength, band in ((16, 2), (8, 1), (16 / 3, 1), (4, 0)):  # a bound belongs to the band below it
        wave = 3 + torch.cos(2 * torch.pi * x / wavelength)[None]
        parts = rlnlib.metrics.energy_by_wavelength(wave, (4, 8))[0]
        assert abs(float(parts[band]) - 0.5) < 1e-12 and abs(float(parts.sum()) - 0.5) < 1e-12


@pytest.mark.parametrize(
    ("shape", "wavelengths"), [((1, 1, 4, 4, 4), (4,)), ((1, 4, 4, 4), (8, 4)), ((1, 4, 4, 4), (0, 4))]
)
def test_energy_by_wavelength_refuses_other_shapes_and_bounds(shape, wavelengths):
    with pytest.raises(ValueError):
        rlnlib.metrics.energy_by_wavelength(torch.ones(shape), wavelengths)


def test_a_summary_has_the_mean_and_an_interval_that_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(1)
    found = [metrics.summary(3 + generator.normal(size=200), resamples=300) for _ in range(100)]
    assert sum(low <= 3 <= high for low, high in (row["interval"] for row in found)) in range(87, 101)
    assert found[0]["cells"] == 200 and abs(found[0]["deviation"] - 1) < 0.2
    assert found[0]["standard_error"] == pytest.approx(found[0]["deviation"] / 200**0.5, abs=1e-4)
    assert metrics.summary([1.0, 1.0, 4.0])["mean"] == 2 and metrics.summary([1.0, 1.0, 4.0])["deviation"] == 1.7321


@pytest.mark.parametrize("errors", [[1.0], [], [1.0, float("nan")]])
def test_errors_without_a_deviation_are_refused(errors):
    with pytest.raises(ValueError):
        metrics.summary(errors)


def test_fields_of_every_byte_order_and_stride_give_the_same_error():
    predicted, true = np.random.default_rng(0).random((2, 3, 4, 4, 4))
    expected = rlnlib.mase(predicted, true)
    assert torch.equal(rlnlib.mase(predicted.astype(">f8"), true), expected)
    assert torch.equal(
        rlnlib.mase(predicted[:, ::-1], true[:, ::-1].copy()), rlnlib.mase(predicted[:, ::-1].copy(), true[:, ::-1])
    )


@pytest.mark.parametrize(
    "field",
    [None, "x", [[1], [1, 2]], torch.ones(2, 2, device="meta"), torch.eye(2).to_sparse(), np.ones((2, 2), complex)],
)
def test_what_is_no_field_is_refused_by_name(field):
    with pytest.raises(ValueError, match="predicted"):
        rlnlib.mase(field, torch.ones(2, 2))


def test_one_cell_without_the_axis_of_the_batch_is_not_taken_for_a_batch_of_planes():
    field = torch.ones(4, 4, 4)
    with pytest.raises(ValueError, match=r"pass field\[None\] of a cell"):
        rlnlib.mase(field + 0.5, field)
    assert rlnlib.mase(field[None] + 0.5, field[None]).tolist() == [50.0]
    assert rlnlib.mase(field[..., None] + 0.5, field[..., None]).tolist() == [50.0] * 4


def test_an_error_beyond_float64_is_refused():
    with pytest.raises(ValueError, match="float64"):
        rlnlib.mase([[1e308, 1e308]], [[-1e308, -1e308]])
