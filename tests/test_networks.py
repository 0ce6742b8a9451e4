import pytest
import torch

from rlnlib import networks, rln
from rlnlib.rln import RLN


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def field(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_parameter_counts_are_those_of_the_released_and_of_the_stated_network():
    assert count(networks.VNet()) == 132_801
    assert count(networks.VNet(blocks=3)) == 160_513
    assert count(networks.make_proximal("vnet-160k", 6)) == 160_513
    assert count(networks.PeriodicVNet()) == 132_801
    counts = {kind: count(RLN(**options)) for kind, options in rln.KINDS.items()}
    assert counts == {"fln": 132_801, "rln-t": 132_801, "rln": 5 * 132_801}


@pytest.mark.parametrize("size", [6, 7, 8])
def test_output_has_the_size_of_the_input(size):
    for name in networks.PROXIMALS:
        network = networks.make_proximal(name, 6)
        assert network(field(2, 6, size, size, size)).shape == (2, 1, size, size, size)


@torch.no_grad()
def test_the_vnet_moves_with_even_shifts_on_even_sizes_only():
    network, x = networks.VNet(), field(1, 6, 8, 8, 8)
    out = network(x)

    def error(shift):
        return (network(x.roll(shift, (2, 3, 4))) - out.roll(shift, (2, 3, 4))).abs().max() / out.std()

    assert error((2, 4, 6)) < 1e-5
    assert error((1, 0, 0)) > 1e-3
    odd = field(1, 6, 7, 7, 7)
    assert (network(odd.roll(2, 2)) - network(odd).roll(2, 2)).abs().max() / network(odd).std() > 1e-3


def away_from_the_seams(network, x, wide):
    """Change, voxel by voxel, when the odd cell is continued around itself by ``wide`` voxels before the network."""
    continued = torch.nn.functional.pad(x, (wide, wide + 1) * 3, mode="circular")
    inner = slice(wide, wide + x.shape[-1])
    return (network(continued)[:, :, inner, inner, inner] - network(x)).abs() / network(x).std()


@torch.no_grad()
def test_the_periodic_vnet_has_no_seam_on_odd_sizes_where_the_released_padding_has_one():
    """Against the cell continued so far around itself that no voxel sees the end, where the pairs of voxels agree."""
    x, padded, periodic = field(1, 6, 13, 13, 13), networks.VNet(), networks.PeriodicVNet()
    periodic.load_state_dict(padded.state_dict())
    inside = slice(2, 11)  # the last two convolutions see the half resolution on both sides of the end
    assert away_from_the_seams(periodic, x, 12)[:, :, inside, inside, inside].max() < 1e-4
    assert away_from_the_seams(padded, x, 12)[:, :, inside, inside, inside].max() > 1e-2
    assert torch.equal(periodic(field(1, 6, 8, 8, 8)), padded(field(1, 6, 8, 8, 8)))


@torch.no_grad()
def test_the_periodic_vnet_sees_as_far_around_an_odd_axis_as_its_half_resolution():
    network = networks.PeriodicVNet(blocks=3)
    assert away_from_the_seams(network, field(1, 6, 15, 15, 15), 14)[:, :, 2:13, 2:13, 2:13].max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", networks.PROXIMALS)
def test_mirrors_and_transverse_exchange_are_no_symmetry_of_untrained_weights(name):
    """What holds exactly is stated; what does not must not be claimed by accident. Cells of a batch never mix."""
    network, x = networks.make_proximal(name, 6), field(2, 6, 8, 8, 8)
    out = network(x)
    for moved in (lambda f: f.flip(2), lambda f: f.flip(4), lambda f: f.transpose(3, 4)):
        assert (network(moved(x)) - moved(out)).abs().max() / out.std() > 1e-2
    assert torch.allclose(network(x[:1]), out[:1], atol=1e-6)


@torch.no_grad()
def test_the_three_layer_network_moves_with_every_shift():
    network, x = networks.ThreeLayerNet(), field(1, 6, 7, 5, 6)
    assert torch.allclose(network(x.roll((1, 2, 3), (2, 3, 4))), network(x).roll((1, 2, 3), (2, 3, 4)), atol=1e-5)


@torch.no_grad()
def test_an_odd_axis_is_padded_by_two_below_and_three_above():
    """The released networks' padding of 31 to 36, written out."""
    network, x = networks.VNet(), field(1, 6, 7, 7, 7)
    padded = torch.cat([x[..., -2:], x, x[..., :3]], -1)
    padded = torch.cat([padded[..., -2:, :], padded, padded[..., :3, :]], -2)
    padded = torch.cat([padded[..., -2:, :, :], padded, padded[..., :3, :, :]], -3)
    assert torch.allclose(network(x), network(padded)[..., 2:9, 2:9, 2:9], atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_fast_layers_are_the_plain_ones_with_their_gradients(layout):
    """Periodic padding and PReLU against torch's own, values and gradients."""
    x = torch.randn(2, 6, 4, 2, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    convolution, activation = networks.PeriodicConv3d(6, 3).double(), networks.PReLU(3).double()
    weights = torch.randn(2, 3, 4, 2, 5, dtype=torch.float64)
    plain = torch.nn.functional.prelu(
        torch.nn.functional.conv3d(
            torch.nn.functional.pad(x, (1,) * 6, mode="circular"), convolution.weight, convolution.bias
        ),
        activation.weight,
    )
    fast = activation(convolution(x))
    assert torch.allclose(fast, plain, atol=1e-12)
    inputs = [x, *convolution.parameters(), *activation.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((weights * fast).sum(), inputs),
        torch.autograd.grad((weights * plain).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 9, 9), (8, 8, 8), (7, 6, 4), (4, 5, 7)])
def test_inference_computes_the_plain_function(shape):
    """Cropped early and with the last two convolutions in one, and equal; also where only some axes are odd."""
    network, x = networks.VNet().eval(), field(2, 6, *shape)
    plain = network(x)  # gradients are on
    with torch.no_grad():
        assert network.train()(x).equal(plain.detach()), "training takes the plain path"
        quick = network.eval()(x)
        assert quick.shape == plain.shape and 0 < (quick - plain).abs().max() < 1e-5 * plain.abs().max()
        network.end[0].weight[0, 0, 0, 0, 0] += 0.1
        assert (network(x) - plain).abs().max() > 1e-4 * plain.abs().max(), "a wrong corner of one kernel is seen"


@torch.no_grad()
def test_one_cell_alone_is_convolved_as_among_others_in_either_precision():
    convolution, x = networks.PeriodicConv3d(6, 16).eval(), field(2, 6, 8, 6, 4)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(convolution(x[:1]), convolution(x)[:1], atol=1e-6)
    assert networks._one_alone(x[:1]) == torch.backends.mkldnn.is_available()
    with torch.autocast("cpu", torch.bfloat16):
        assert not networks._one_alone(x[:1])
        assert convolution(x[:1]).dtype == torch.bfloat16
    assert convolution.double()(x[:1].double()).dtype == torch.float64


@torch.no_grad()
@pytest.mark.parametrize("shape", [(6, 5, 7), (4, 4, 4)])
def test_winograds_convolution_is_the_plain_one_and_as_exact(shape):
    x = field(2, 6, *shape).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = field(4, 6, 3, 3, 3, seed=1), field(4, seed=2)
    exact = torch.nn.functional.conv3d(x.double(), weight.double(), bias.double())
    plain, quick = torch.nn.functional.conv3d(x, weight, bias), networks._winograd(x, weight, bias)
    assert quick.shape == plain.shape and quick.is_contiguous(memory_format=torch.channels_last_3d)
    assert 0 < (quick - exact).norm() < 2 * (plain - exact).norm() < 1e-5 * exact.norm()
    weight[0, 0, 1, 0, 0] += 0.1
    assert (networks._winograd(x, weight, bias) - exact).norm() > 1e-3 * exact.norm(), "a wrong weight is seen"


@torch.no_grad()
def test_the_activation_by_rows_of_voxels_is_the_plain_one_for_any_size_and_precision():
    activation = networks.PReLU(16)
    activation.weight.copy_(field(16))
    for shape in ((2, 16, 3, 3, 5), (1, 16, 4, 4, 4)):
        for dtype in (torch.float32, torch.bfloat16):
            x = field(*shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)
            plain = torch.nn.functional.prelu(x.contiguous(), activation.weight.to(dtype))
            assert torch.equal(activation(x), plain) and not torch.equal(x, plain)


def test_reduced_precision_keeps_the_first_and_the_last_convolution_in_float32():
    network, x = networks.VNet().eval(), field(2, 6, 7, 7, 7)

    def error(call):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return float((call(x).float() - exact).norm() / exact.norm())

    with torch.no_grad():
        exact = network(x)
    plain = error(network.train())
    assert error(network.eval()) < 0.75 * plain < 0.05


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="'vnet'"):
        networks.make_proximal("unet", 6)
