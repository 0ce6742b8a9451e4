import numpy as np
import pytest
import torch

import rlnlib


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
