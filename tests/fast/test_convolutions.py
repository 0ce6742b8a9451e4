"""The layers and the forward pass of a CPU against their plain twins, which a GPU runs: values and gradients."""

import pytest
import torch

from rlnlib import networks, proximals
from rlnlib.fast import convolutions


def field(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def plain(monkeypatch):
    """Call a function with the plain twins, as a GPU would."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setenv("RLN_PLAIN", "1")
            return function(*arguments)

    return call


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_layers_are_torchs_own_with_their_gradients(layout):
    x = torch.randn(2, 6, 4, 2, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    convolution, activation = networks.PeriodicConv3d(6, 3).double(), networks.PReLU(3).double()
    weights = torch.randn(2, 3, 4, 2, 5, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (1,) * 6, mode="circular")
    own = torch.nn.functional.prelu(
        torch.nn.functional.conv3d(padded, convolution.weight, convolution.bias), activation.weight
    )
    ours = activation(convolution(x))
    assert torch.allclose(ours, own, atol=1e-12)
    inputs = [x, *convolution.parameters(), *activation.parameters()]
    gradients = (torch.autograd.grad((weights * out).sum(), inputs) for out in (ours, own))
    for gradient, expected in zip(*gradients, strict=True):
        assert torch.allclose(gradient, expected, atol=1e-12)


SHAPES = [(9, 9, 9), (8, 8, 8), (7, 6, 4), (4, 7, 9)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", networks.PROXIMALS)
def test_every_network_computes_what_its_plain_twin_does_with_the_same_gradients(name, shape, plain):
    network, x = proximals.make_proximal(name, 6).double(), field(2, 6, *shape).double().requires_grad_()

    def outputs():
        out = network(x)
        return [out, *torch.autograd.grad(out.sin().sum(), [x, *network.parameters()])]

    for quick, expected in zip(outputs(), plain(outputs), strict=True):
        assert torch.allclose(quick, expected, atol=1e-10)
    with torch.no_grad():
        network.eval()
        assert torch.allclose(network(x), plain(network, x), atol=1e-10)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_inference_computes_the_plain_function(shape, outputs, plain):
    """Cropped early and with the last two convolutions in one, and equal; also where only some axes are odd."""
    network, x = networks.VNet(6, outputs).eval(), field(2, 6, *shape)
    with torch.no_grad():
        expected = plain(network, x)
        quick = network(x)
        assert quick.shape == expected.shape == (2, outputs, *shape)
        assert 0 < (quick - expected).abs().max() < 1e-5 * expected.abs().max()
        network.end[0].weight[0, 0, 0, 0, 0] += 0.1
        assert (network(x) - expected).abs().max() > 1e-4 * expected.abs().max(), "a wrong corner of a kernel is seen"


def test_only_a_pass_without_gradients_in_evaluation_mode_is_shortened(monkeypatch):
    network, x, calls = networks.VNet(), field(1, 6, 7, 7, 7), []
    whole = convolutions.vnet
    monkeypatch.setattr(convolutions, "vnet", lambda *arguments: calls.append(1) or whole(*arguments))
    network.eval()(x)
    with torch.no_grad():
        network.train()(x)
        assert not calls
        network.eval()(x)
        assert calls
        monkeypatch.setenv("RLN_PLAIN", "1")
        network(x)
    assert len(calls) == 1


@torch.no_grad()
def test_one_cell_alone_is_convolved_as_among_others_in_either_precision():
    convolution, x = networks.PeriodicConv3d(6, 16).eval(), field(2, 6, 8, 6, 4)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(convolution(x[:1]), convolution(x)[:1], atol=1e-6)
    assert convolutions._needs_onednn(x[:1]) == torch.backends.mkldnn.is_available()
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolutions._needs_onednn(x[:1])
        assert convolution(x[:1]).dtype == torch.bfloat16
    assert convolution.double()(x[:1].double()).dtype == torch.float64


@torch.no_grad()
def test_the_activation_by_rows_of_voxels_is_the_plain_one_for_any_size_and_precision(plain):
    activation = networks.PReLU(16)
    activation.weight.copy_(field(16))
    for shape in ((2, 16, 3, 3, 5), (1, 16, 4, 4, 4)):
        for dtype in (torch.float32, torch.bfloat16):
            x = field(*shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)
            expected = plain(activation, x.contiguous())
            assert torch.equal(activation(x), expected) and not torch.equal(x, expected)


def test_reduced_precision_keeps_the_first_and_the_last_convolution_in_float32(plain):
    network, x = networks.VNet().eval(), field(2, 6, 7, 7, 7)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            quick, all_reduced = network(x).float(), plain(network, x).float()

    def error(out):
        return float((out - exact).norm() / exact.norm())

    assert error(quick) < 0.75 * error(all_reduced) < 0.05


@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_network_is_trained_and_predicts_with_the_switch_either_way(switch, monkeypatch):
    """Under bfloat16, too, as on a GPU: the plain twins are what it runs."""
    monkeypatch.setenv("RLN_PLAIN", switch)
    network, x = proximals.make_proximal("vnet-periodic", 6), field(2, 6, 9, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        network(x).float().square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())
