import pytest
import torch

from rlnlib import elasticity, green
from rlnlib.green import DISCRETIZATIONS, GreenOperator

SHAPES = [(5, 5, 5), (4, 4, 4), (4, 6, 5), (6, 3, 4)]


def random_field(operator, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, operator.integration_points, 6, *operator.shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def times(stiffness, field):
    return torch.einsum("nm,bgmxyz->bgnxyz", stiffness, field)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_gamma_projects_and_is_self_adjoint(name, shape):
    operator = GreenOperator(shape, name, young=2.0, poisson=0.25)
    c0 = elasticity.isotropic_stiffness(2.0, 0.25)
    a, b = random_field(operator, 1), random_field(operator, 2)
    gamma_a = operator(a)
    assert torch.allclose(operator(times(c0, gamma_a)), gamma_a, atol=1e-12)
    assert abs(((b * gamma_a).sum() - (a * operator(b)).sum()) / (b * gamma_a).sum()) < 1e-11
    assert gamma_a.abs().max() > 0.1  # not trivially zero
    assert gamma_a.mean((-3, -2, -1)).abs().max() < 1e-14


def test_gamma_with_another_reference_does_not_project():
    operator = GreenOperator((5, 5, 5), "bbar", young=2.0, poisson=0.25)
    field = operator(random_field(operator))
    wrong = times(elasticity.isotropic_stiffness(3.0, 0.25), field)
    assert (operator(wrong) - field).abs().max() > 0.1


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_divergence_is_the_adjoint_of_the_gradient(name):
    operator = GreenOperator((4, 5, 6), name)
    u = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stress = random_field(operator)
    work = (operator.gradient(u) * stress).sum() / operator.integration_points
    assert torch.allclose(work, (u * operator.divergence(stress)).sum(), rtol=1e-12)


@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_element_strain_of_an_affine_displacement_is_exact(name):
    gradient = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corners = torch.tensor(green._CORNERS, dtype=torch.float64)
    strain = torch.einsum("gnic,ic->gn", green.element_gradient(name), gradient @ corners.T)
    exact = elasticity.mandel_from_tensor((gradient + gradient.T) / 2)
    assert torch.allclose(strain, exact.expand_as(strain), atol=1e-14)


def test_bbar_has_one_volumetric_strain_and_keeps_the_deviator():
    full, bbar = green.element_gradient("hex8"), green.element_gradient("bbar")
    trace = bbar[:, :3].sum(1)
    assert torch.allclose(trace, trace[:1].expand_as(trace), atol=1e-14)
    assert not torch.allclose(full[:, :3].sum(1), trace, atol=1e-3)
    assert torch.allclose(full[:, 3:], bbar[:, 3:])
    assert torch.allclose(full[:, 0] - full[:, 1], bbar[:, 0] - bbar[:, 1], atol=1e-14)


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_hartley_and_fourier_transforms_give_one_operator(name, monkeypatch):
    force = torch.randn(2, 3, 7, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = GreenOperator((7, 4, 5), name)
    assert dense._transform
    monkeypatch.setattr(green, "_prefers_hartley", lambda *_: False)
    fast = GreenOperator((7, 4, 5), name)
    assert not fast._transform
    assert torch.allclose(dense.displacement(force), fast.displacement(force), atol=1e-12)


def test_reference_symbol_of_the_continuous_operator_is_moulinecs_acoustic_tensor():
    operator = GreenOperator((5, 5, 5), "continuous", young=2.0, poisson=0.25)
    lam, mu = elasticity.lame_parameters(2.0, 0.25)
    xi = 2 * torch.pi / 5 * torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    exact = (lam + mu) * torch.outer(xi, xi) + mu * xi.dot(xi) * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(operator.reference_symbol(half=False)[:, :, 1, 2, -1], exact, rtol=1e-13)


@pytest.mark.parametrize(
    "arguments",
    [
        ((5, 5), "bbar"),
        ((5, 5, 1), "bbar"),
        ((5, 5, 5), "hex20"),
        ((5, 5, 5), "bbar", -1.0),
        ((5, 5, 5), "bbar", 1, 0.5),
    ],
)
def test_bad_input_is_refused(arguments):
    with pytest.raises(ValueError):
        GreenOperator(*arguments)
