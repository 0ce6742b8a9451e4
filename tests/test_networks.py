import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import networks, proximals, rln
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
    assert count(proximals.make_proximal("vnet-160k", 6)) == 160_513
    assert count(networks.PeriodicVNet()) == 132_801
    counts = {kind: count(RLN(**options)) for kind, options in rln.KINDS.items()}
    assert counts == {"fln": 132_801, "rln-t": 132_801, "rln": 5 * 132_801}


@pytest.mark.parametrize("size", [6, 7, 8])
def test_output_has_the_size_of_the_input(size):
    for name in networks.PROXIMALS:
        network = proximals.make_proximal(name, 6)
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
    network, x = proximals.make_proximal(name, 6), field(2, 6, 8, 8, 8)
    out = network(x)
    for moved in (lambda f: f.flip(2), lambda f: f.flip(4), lambda f: f.transpose(3, 4)):
        assert (network(moved(x)) - moved(out)).abs().max() / out.std() > 1e-2
    assert torch.allclose(network(x[:1]), out[:1], atol=1e-6)


@torch.no_grad()
def test_the_three_layer_network_moves_with_every_shift():
    network, x = networks.ThreeLayerNet(), field(1, 6, 7, 5, 6)
    assert torch.allclose(network(x.roll((1, 2, 3), (2, 3, 4))), network(x).roll((1, 2, 3), (2, 3, 4)), atol=1e-5)


@torch.no_grad()
def test_an_odd_axis_that_is_shorter_than_what_surrounds_it_is_refused_with_a_way_out():
    informed = rlnlib.load_pretrained("informed")
    cell = np.zeros((3, 5, 4), bool)
    cell[1:, 2] = True
    with pytest.raises(ValueError, match=r"odd axis must have at least 5 voxels; a cell has \(3, 5, 4\): repeat it"):
        rlnlib.predict(informed, cell, 10)
    assert rlnlib.predict(informed, np.tile(cell, (2, 1, 1)), 10).strain.shape == (1, 6, 6, 5, 4)


def test_an_odd_axis_is_padded_by_two_below_and_three_above():
    """The released networks' padding of 31 to 36, written out."""
    network, x = networks.VNet(), field(1, 6, 7, 7, 7)
    padded = torch.cat([x[..., -2:], x, x[..., :3]], -1)
    padded = torch.cat([padded[..., -2:, :], padded, padded[..., :3, :]], -2)
    padded = torch.cat([padded[..., -2:, :, :], padded, padded[..., :3, :, :]], -3)
    assert torch.allclose(network(x), network(padded)[..., 2:9, 2:9, 2:9], atol=1e-6)


def test_the_number_of_outputs_is_free():
    network = networks.PeriodicVNet(16, 3)
    assert network(field(1, 16, 7, 8, 7)).shape == (1, 3, 7, 8, 7)
    assert network.end[-1].weight.shape == (3, 16, 1, 1, 1)


@pytest.mark.parametrize(
    ("proximal", "words"),
    [
        ("unet", "'vnet'"),
        ("rlnlib.networks:UNet", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
        (":f", "cannot be imported"),
        ("math:sqrt", "must make a torch.nn.Module"),
        (len, "proximal must make a torch.nn.Module from .* input channels; builtins:len.6. raised TypeError"),
        (torch.nn.Linear, "proximal must make .* raised TypeError.*out_features"),
        (0, "must be a name, or a function"),
    ],
)
def test_what_is_no_network_is_refused(proximal, words):
    with pytest.raises(ValueError, match=words):
        proximals.make_proximal(proximal, 6)


def test_the_error_of_a_function_that_makes_no_network_is_kept_as_the_cause():
    with pytest.raises(ValueError, match="proximal") as caught:
        proximals.make_proximal(len, 6)
    assert isinstance(caught.value.__cause__, TypeError)


def of_my_own(channels):
    return networks.PeriodicConv3d(channels, 1)


def test_a_network_is_found_again_by_the_name_that_is_stored_for_it():
    for name, made_by in networks.PROXIMALS.items():
        assert proximals.full_name(name) == proximals.full_name(made_by) == name
    name = proximals.full_name(networks.PeriodicConv3d)
    assert name == "rlnlib.networks:PeriodicConv3d" and proximals.find_proximal(name) is networks.PeriodicConv3d
    assert proximals.full_name(of_my_own) == f"{__name__}:of_my_own"
