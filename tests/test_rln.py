from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import rlnlib
from rlnlib import _checks, elasticity, green, inference, rln, runs, solvers, training
from rlnlib.rln import KINDS, RLN


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_do_not_depend_on_the_batch_and_have_mean_one(kind, random_cells):
    model, cells = RLN(**KINDS[kind]), random_cells(3, 6, 6, 6)
    indicators = rln.phase_indicators(cells)
    together = model(indicators)
    assert together.shape == (3, 1, 6, 6, 6)
    assert torch.allclose(together[:1], model(indicators[:1]), atol=1e-6)
    assert (together.mean((1, 2, 3, 4)) - 1).abs().max() < 1e-6


@torch.no_grad()
def test_the_released_batch_mean_makes_cells_depend_on_their_mates(random_cells):
    model = RLN(passes=2, batch_mean=True)
    indicators = rln.phase_indicators(random_cells(1, 6, 6, 6, fraction=0.1))
    mates = torch.cat([indicators, rln.phase_indicators(torch.ones(1, 6, 6, 6, dtype=torch.bool))])
    assert (model(mates)[0] - model(indicators)[0]).abs().max() > 1e-5


@torch.no_grad()
def test_iterates_are_returned_and_follow_the_recurrence(random_cells):
    model, indicators = RLN(passes=3, history=1), rln.phase_indicators(random_cells(2, 6, 6, 6))
    iterates = model(indicators, return_iterates=True)
    assert len(iterates) == 3 and torch.equal(iterates[-1], model(indicators))
    past = [torch.ones_like(iterates[0]), torch.zeros_like(iterates[0])]
    for network, iterate in zip(model.proximals, iterates, strict=True):
        update = network(torch.cat([indicators * past[0], indicators * past[1]], 1))
        past = [1 + update - update.mean((1, 2, 3, 4), keepdim=True), past[0]]
        assert torch.allclose(past[0], iterate, atol=1e-6)


def test_tied_passes_share_their_weights():
    assert len(RLN(passes=5, tied=True).proximals) == 1
    assert len(RLN(passes=5).proximals) == 5


class ScalarMoulinec(nn.Module):
    """Moulinec's step for a scalar field, as a proximal operator that a network could have learned."""

    def __init__(self, kernel, perturbations):
        super().__init__()
        self.kernel, self.perturbations = kernel, perturbations

    def forward(self, segmented):
        polarization = (self.perturbations.view(1, 2, 1, 1, 1) * segmented).sum(1, keepdim=True)
        spectrum = self.kernel * torch.fft.fftn(polarization, dim=(-3, -2, -1))
        return -torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real


@torch.no_grad()
def test_a_classical_scheme_runs_in_the_same_class(random_cells):
    """Conduction along x: y = 1 - Gamma * (c' y) with Gamma = xi_x^2 / (c0 |xi|^2), a fixed point of one channel.

    The component along x alone is no closed problem in three dimensions, but it is in laminates normal to x.
    """
    stiff = torch.zeros(1, 8, 2, 2, dtype=torch.bool)
    stiff[:, :3] = True
    c0, kernel = 3.0, torch.zeros(8, 2, 2)
    kernel[1:] = 1 / c0
    perturbations = torch.tensor([1.0 - c0, 5.0 - c0])
    model = RLN(passes=60, tied=True, history=0, proximal=lambda inputs: ScalarMoulinec(kernel, perturbations))
    iterates = model(rln.phase_indicators(stiff), return_iterates=True)
    fraction = 3 / 8
    exact_soft = 1 / (1 - fraction + fraction / 5)
    exact = torch.where(stiff[:, None], exact_soft / 5, exact_soft)
    errors = [float((iterate - exact).abs().max()) for iterate in iterates]
    assert errors[-1] < 1e-5 < errors[5] < errors[0]


def test_moulinecs_scheme_in_the_shared_loop_solves_the_elastic_problem(random_cells):
    """f_i of eq. 25, with the reference medium halfway between the phases."""
    cells, contrast = random_cells(1, 6, 6, 6), 4.0
    operator = green.GreenOperator((6, 6, 6), "rotated", young=(1 + contrast) / 2)
    reference = elasticity.isotropic_stiffness((1 + contrast) / 2, 0.3)
    soft = elasticity.isotropic_stiffness(1.0, 0.3)
    scale = torch.where(cells, contrast, 1.0).double()[:, None, None]

    def moulinec(past):
        excess = scale * torch.einsum("nm,bgm...->bgn...", soft, past[0])
        return -operator(excess - torch.einsum("nm,bgm...->bgn...", reference, past[0]))

    uniform = torch.zeros(1, 1, 6, 6, 6, 6, dtype=torch.float64)
    uniform[:, :, 0] = 1
    *_, last = solvers.recurrence([moulinec] * 200, uniform)
    exact = rlnlib.solve_strain(cells, contrast, discretization="rotated", rtol=1e-12).strain
    assert (last[:, 0] - exact).abs().max() < 1e-8


def test_predict_strain_takes_cells_of_any_kind_and_leaves_the_model_alone(random_cells):
    model, cells = RLN(passes=1).train(), random_cells(3, 6, 6, 6)
    whole = rlnlib.predict_strain(model, cells)
    assert whole.shape == (3, 6, 6, 6) and whole.dtype == torch.float32 and model.training
    assert torch.allclose(whole, rlnlib.predict_strain(model, cells.numpy().astype(np.uint8), batch_size=2), atol=1e-6)
    assert torch.allclose(whole[:1], rlnlib.predict_strain(model, cells[0]), atol=1e-6)
    reduced = rlnlib.predict_strain(model, cells, dtype=torch.bfloat16)
    assert 0 < (reduced - whole).abs().max() < 0.1


def test_predictions_without_a_batch_size_are_those_of_the_whole_batch(random_cells, monkeypatch):
    """Cells in small batches, a thread each; but a network that couples its batch gets 16 cells, as in training."""
    cells = random_cells(5, 7, 7, 7)
    monkeypatch.setitem(inference.BATCH_VOXELS, "cpu", 2 * 7**3)
    model, coupled = RLN(passes=2), RLN(passes=2, batch_mean=True)
    for network in (model, coupled):
        assert torch.allclose(
            rlnlib.predict_strain(network, cells), rlnlib.predict_strain(network, cells, 5), atol=1e-6
        )
    apart = rlnlib.predict_strain(coupled, cells, batch_size=2)
    assert (apart - rlnlib.predict_strain(coupled, cells)).abs().max() > 1e-6


@pytest.mark.parametrize("proximal", [lambda inputs: nn.Identity(), lambda inputs: nn.Conv3d(inputs, 1, 3)])
def test_a_network_that_gives_another_shape_is_refused_by_name(proximal, random_cells):
    own = RLN(passes=1, proximal=proximal)
    with pytest.raises(ValueError, match=r"proximal .*\(1, 6, 6, 6, 6\) to \(1, 1, 6, 6, 6\)"):
        own(rln.phase_indicators(random_cells(1, 6, 6, 6)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: RLN(passes=0),
        lambda: RLN(history=-1),
        lambda: RLN(passes=10**9),
        lambda: RLN(history=10**6),
        lambda: RLN(tied="no"),
        lambda: RLN(proximal=0),
        lambda: RLN(proximal="unet"),
        lambda: RLN()(torch.ones(1, 1, 6, 6, 6)),
        lambda: rlnlib.predict_strain(RLN(), np.zeros((0, 6, 6, 6), bool)),
        lambda: rlnlib.predict_strain(RLN(), np.full((1, 6, 6, 6), 2)),
        lambda: rlnlib.predict_strain(RLN(), np.full((1, 6, 6, 6), np.nan)),
        lambda: rlnlib.predict_strain(RLN(), np.zeros((1, 6, 6, 6), bool), batch_size=0),
        lambda: rlnlib.predict_strain(RLN(), np.zeros((1, 6, 6, 6), bool), dtype=torch.int8),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_a_copy_with_other_options_has_the_same_weights():
    torch.manual_seed(0)
    model = RLN(passes=2).eval()
    copy = model.with_options(proximal="vnet-periodic", batch_mean=True)
    assert copy.config == {**model.config, "proximal": "vnet-periodic", "batch_mean": True} and not copy.training
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters(), strict=True))
    copy.proximals[0].begin[0].weight.data.zero_()
    assert model.proximals[0].begin[0].weight.abs().sum() > 0
    with pytest.raises(ValueError, match="do not fit"):
        model.with_options(passes=3)
    own = RLN(passes=1, proximal=lambda inputs: torch.nn.Conv3d(inputs, 1, 1))
    assert torch.equal(own.with_options(batch_mean=True).proximals[0].weight, own.proximals[0].weight)


def test_a_standard_type_of_float64_does_not_reach_the_networks(random_cells, tmp_path):
    """Other codes set it for the whole process; the shipped weights still load, predict and train as float32."""
    torch.set_default_dtype(torch.float64)
    try:
        cells = random_cells(2, 6, 6, 6)
        for network in (rlnlib.load_pretrained("fln", 10), RLN(passes=1)):
            assert {p.dtype for p in network.parameters()} == {torch.float32}
            fields = rlnlib.predict_strain(network, cells)
            assert fields.dtype == torch.float32
        informed = rlnlib.load_pretrained("informed")
        assert {p.dtype for p in informed.parameters()} == {torch.float32}
        assert bool(rlnlib.predict(informed, cells[:1], contrast=10).strain.isfinite().all())
        config = training.TrainingConfig(epochs=1, batch_size=2, loss="mae", pass_weights=(1.0,), augment=True)
        runs.train(network, (cells, fields), (cells, fields), config, tmp_path, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_iterates_of_a_prediction_are_those_of_the_model(random_cells):
    model, cells = RLN(passes=3), random_cells(3, 6, 6, 6)
    with torch.no_grad():
        expected = model.eval()(rln.phase_indicators(cells), return_iterates=True)
    found = rlnlib.predict_strain(model, cells, batch_size=2, return_iterates=True)
    assert len(found) == 3
    for field, iterate in zip(found, expected, strict=True):
        assert torch.allclose(field, iterate[:, 0], atol=1e-6)
    assert torch.equal(found[-1], rlnlib.predict_strain(model, cells, batch_size=2))


def test_predictions_from_several_threads_on_a_model_in_training_agree_and_leave_its_mode(random_cells):
    model, cells = RLN(passes=2).train(), random_cells(2, 6, 6, 6)
    expected = rlnlib.predict_strain(model, cells)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: rlnlib.predict_strain(model, cells), range(40)))
    assert all(torch.equal(field, expected) for field in found)
    assert all(module.training for module in model.modules())


def test_a_cell_that_the_memory_does_not_suffice_for_is_refused_before_the_network_runs(random_cells, monkeypatch):
    cells = random_cells(4, 6, 6, 6)
    monkeypatch.setattr(_checks, "memory_of_machine", lambda: 1000 * 6**3)  # one cell at a time fits
    assert len(rlnlib.predict_strain(RLN(passes=1).eval(), cells, batch_size=1)) == 4
    with pytest.raises(ValueError, match=r"A prediction of 2 x \(6, 6, 6\) voxels needs .* GiB of memory"):
        rlnlib.predict_strain(RLN(passes=1), cells, batch_size=2)
    with pytest.raises(ValueError, match=r"A prediction of \(16, 6, 6\) voxels needs .* GiB of memory"):
        rlnlib.predict(rlnlib.load_pretrained("informed"), random_cells(1, 16, 6, 6), 10)


def test_a_device_that_cannot_compute_is_refused_and_the_model_stays_whole(random_cells):
    model, cells = RLN(passes=1), random_cells(1, 6, 6, 6)
    before = rlnlib.predict_strain(model, cells)
    with pytest.raises(ValueError, match="device"):
        rlnlib.predict_strain(model, cells, device="meta")
    assert torch.equal(rlnlib.predict_strain(model, cells), before)
