"""The program for a GPU, on a CPU: the networks that it makes are those of `reproduce`, bit for bit."""

import functools
import time

import pytest
import torch

import gathered
import recorded
import table_1_side_by_side as experiment
from rlnlib import dataset, networks, reproduce, runs, training
from rlnlib.reproduce import Profile, Stage
from rlnlib.training import TrainingConfig

SMALL = {"n": 20, "size": 4, "repeats": 1, "grain_size": (1, 3)}
RECIPE = functools.partial(TrainingConfig, batch_size=4, loss="mae", pass_weights=(1, 1, 1, 1, 2), augment=True)
PROFILE = Profile(
    (Stage(SMALL, RECIPE(epochs=2)), Stage({**SMALL, "size": 7}, RECIPE(epochs=1), proximal="vnet-periodic"))
)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The gradients recorded, the data waited for; all is put back at the end."""
    replaced = ((training, "gradient"), (dataset, "make_dataset"), (networks, "pad_periodic"), (runs, "train"))
    for module, name in replaced:
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # another number of threads adds up otherwise
    benchmark = torch.backends.cudnn.benchmark
    yield functools.partial(experiment.train, PROFILE)
    torch.backends.cudnn.benchmark = benchmark


def test_a_network_of_the_side_by_side_run_is_that_of_reproduce(tmp_path, as_on_a_gpu, monkeypatch):
    expected = reproduce.network(PROFILE, tmp_path / "plain", "rln-t", 10.0, "cpu")
    (tmp_path / "beside").mkdir()
    experiment.make_data(PROFILE, tmp_path / "beside", 10.0, "cpu")
    monkeypatch.setattr(gathered, "use", lambda: None)  # another order of the sums
    as_on_a_gpu(tmp_path / "beside", "rln-t", 10.0, "cpu", float("inf"))
    found = reproduce.network(PROFILE, tmp_path / "beside", "rln-t", 10.0, "cpu")
    assert found["mase"] == expected["mase"] and found["recipe"] == expected["recipe"]


def test_a_stage_is_ended_by_its_share_of_the_time(tmp_path, as_on_a_gpu, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "SCORING", 0.0)
    experiment.make_data(PROFILE, tmp_path, 10.0, "cpu")
    begun = time.monotonic()
    as_on_a_gpu(tmp_path, "fln", 10.0, "cpu", begun + 30)
    config = runs.read_checkpoint(tmp_path / "fln-10-4")["config"]
    assert 0.1 <= config["max_minutes"] <= experiment.SMALL_SHARE * 30 / 60
    assert (tmp_path / "fln-10.safetensors").exists()
    as_on_a_gpu(tmp_path, "rln", 10.0, "cpu", time.monotonic() - 1)
    assert "rln-10 is left" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 6, 7)])
@pytest.mark.parametrize("widths", [(1,) * 6, (2, 3, 0, 0, 4, 1)])
def test_padding_by_one_gather_is_circular_padding_with_its_gradient(shape, widths):
    g = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, *shape, generator=g, dtype=torch.float64, requires_grad=True)
    ours, plain = gathered.pad_periodic(field, widths), networks.pad_periodic(field, widths)
    assert torch.equal(ours, plain)
    above = torch.randn(plain.shape, generator=g, dtype=torch.float64)
    (one,), (other,) = (torch.autograd.grad(padded, field, above) for padded in (ours, plain))
    assert torch.allclose(one, other, rtol=1e-14, atol=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_what_is_recorded_is_played_back_with_other_values():
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))

    def work(values):
        loss = (weight * values).square().sum()
        loss.backward()
        return loss.detach()

    played = recorded.Recorded(work, [torch.zeros(3, device="cuda")], [weight])
    for values in torch.arange(6.0, device="cuda").view(2, 3):
        assert float(played(values)) == float(values.square().sum())
        assert torch.equal(weight.grad, 2 * values.square())
