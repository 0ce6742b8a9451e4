import math

import pytest
import torch

from rlnlib import discretizations, elasticity, engineering, fast, green
from rlnlib.discretizations import DISCRETIZATIONS
from rlnlib.green import GreenOperator

pytestmark = pytest.mark.usefixtures("twin")

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
    assert (operator(times(c0, gamma_a)) - gamma_a).abs().max() < 1e-12
    work, reversed_work = (b * gamma_a).sum(), (a * operator(b)).sum()
    assert abs(work - reversed_work) < 1e-12 * b.norm() * gamma_a.norm()
    assert abs(work) > 1e-3 * b.norm() * gamma_a.norm()  # not trivially zero
    assert gamma_a.abs().max() > 0.1  # not trivially zero
    assert gamma_a.mean((-3, -2, -1)).abs().max() < 1e-14


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_gamma_with_another_reference_does_not_project(name):
    operator = GreenOperator((5, 5, 5), name, young=2.0, poisson=0.25)
    field = operator(random_field(operator))
    wrong = times(elasticity.isotropic_stiffness(3.0, 0.25), field)
    assert (operator(wrong) - field).abs().max() > 0.1
    # Gamma times a C that changes from voxel to voxel is not self-adjoint.
    weight = torch.rand(operator.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = random_field(operator, 1), random_field(operator, 2)
    assert abs((b * operator(weight * a)).sum() - (a * operator(weight * b)).sum()) > 1e-3 * a.norm() * b.norm() / 100


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_a_uniform_stress_loads_no_node(name):
    """The patch test: a homogeneous cell under any affine displacement is in equilibrium."""
    operator = GreenOperator((4, 5, 6), name)
    uniform = torch.ones_like(random_field(operator)) * torch.arange(1.0, 7.0).view(1, 1, 6, 1, 1, 1)
    assert operator.nodal_forces(uniform).abs().max() < 1e-13
    assert operator(uniform).abs().max() < 1e-13
    uniform[0, :, :, 1, 2, 3] *= 2
    assert operator.nodal_forces(uniform)[0].abs().max() > 0.1


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_nodal_forces_are_minus_the_divergence(name):
    operator = GreenOperator((8, 3, 3), name, spacing=(0.5, 1.0, 1.0))
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    stress = torch.zeros_like(random_field(operator, batch=1))
    stress[:, :, 0] = angle.sin()[:, None, None]  # sigma_xx, a sine along x
    # The Fourier derivative is exact; a node of an element lies between its voxel and the one before.
    derivative = angle.cos() * math.pi / 2 if name == "continuous" else (angle.sin() - angle.sin().roll(1)) / 0.5
    assert (operator.nodal_forces(stress)[0, 0] + derivative[:, None, None]).abs().max() < 1e-13


class HalfShear(discretizations.Hex8):
    """An element of one's own: its mean strain is not that of the trilinear displacement."""

    name = "half-shear"

    @classmethod
    def element_gradient(cls, spacing=(1.0, 1.0, 1.0)):
        gradient = super().element_gradient(spacing)
        gradient[:, 3:] /= 2
        return gradient


@pytest.mark.parametrize("kind", [HalfShear, discretizations.Rotated, discretizations.Hex8, discretizations.BBar])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1e-3, 0.5, 1.0)])
def test_the_mean_strain_of_a_voxel_is_that_of_its_own_element(kind, spacing):
    grid, usual = kind((4, 5, 3), spacing), discretizations.Hex8((4, 5, 3), spacing)
    u = torch.randn(2, 3, 4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = grid.mean_gradient(u)
    assert (mean - grid.gradient(u).mean(1)).abs().max() < 1e-13 * mean.abs().max()
    assert bool((mean - usual.mean_gradient(u)).abs().max() > 0.1) == (kind is HalfShear)


def alternating(shape, axes):
    """A displacement along x that changes sign from node to node along each of the axes. Shape: -> (1, 3, N...)."""
    u = torch.zeros(1, 3, *shape, dtype=torch.float64)
    grids = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    u[0, 0] = (-1.0) ** sum(grids[axis] for axis in axes)
    return u


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_the_nyquist_frequency_follows_the_rule_of_each_discretization(name, axes):
    operator = GreenOperator((4, 6, 4), name)
    u = alternating(operator.shape, axes)
    invisible = {"continuous": True, "rotated": len(axes) > 1}.get(name, False)
    assert (operator.gradient(u).abs().max() < 1e-14) == invisible
    # Gamma is zero there, and elsewhere the displacement undoes the force.
    back = operator.displacement(u)
    assert (back.abs().max() < 1e-14) == invisible
    if not invisible:
        c0 = elasticity.isotropic_stiffness(1.0, 0.3)
        assert (operator.nodal_forces(times(c0, operator.gradient(back))) - u).abs().max() < 1e-13


def test_the_continuous_derivative_keeps_the_other_axes_at_a_nyquist_frequency():
    operator = GreenOperator((4, 5, 6), "continuous")
    y = 2 * torch.pi * torch.arange(5, dtype=torch.float64) / 5
    u = alternating(operator.shape, (0,)) * torch.sin(y)[:, None]
    slope = 2 * torch.pi / 5 * alternating(operator.shape, (0,))[0, 0] * torch.cos(y)[:, None]
    strain = operator.gradient(u)[0, 0]
    assert strain[0].abs().max() < 1e-14
    assert (strain[5] - slope / 2**0.5).abs().max() < 1e-14  # sqrt(2) epsilon_12


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_divergence_is_the_adjoint_of_the_gradient(name):
    operator = GreenOperator((4, 5, 6), name)
    u = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stress = random_field(operator)
    work = (operator.gradient(u) * stress).sum() / operator.integration_points
    other = (u * operator.nodal_forces(stress)).sum()
    assert abs(work - other) < 1e-12 * u.norm() * operator.nodal_forces(stress).norm()
    assert abs(work) > 1e-3 * u.norm() * operator.nodal_forces(stress).norm()


@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_element_strain_of_an_affine_displacement_is_exact(name):
    gradient = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corners = torch.tensor(discretizations.CORNERS, dtype=torch.float64)
    strain = torch.einsum("gnic,ic->gn", discretizations.KINDS[name].element_gradient(), gradient @ corners.T)
    exact = engineering.mandel_from_tensor((gradient + gradient.T) / 2)
    assert (strain - exact).abs().max() < 1e-14


def test_bbar_has_one_volumetric_strain_and_keeps_the_deviator():
    full, bbar = discretizations.Hex8.element_gradient(), discretizations.BBar.element_gradient()
    trace = bbar[:, :3].sum(1)
    assert (trace - trace[:1]).abs().max() < 1e-14
    assert (full[:, :3].sum(1) - trace).abs().max() > 0.1
    assert torch.equal(full[:, 3:], bbar[:, 3:])
    assert (full[:, 0] - full[:, 1] - bbar[:, 0] + bbar[:, 1]).abs().max() < 1e-14


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_all_transforms_give_one_operator(name, monkeypatch):
    monkeypatch.setenv("RLN_PLAIN", "0")
    force = torch.randn(2, 3, 7, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = GreenOperator((7, 4, 5), name)
    assert isinstance(dense.transform, fast.transforms.Hartley)
    monkeypatch.setattr(fast.transforms, "DENSE", 6)
    torchs = GreenOperator((7, 4, 5), name)
    monkeypatch.setattr(fast.transforms, "_is_smooth", lambda n: False)
    scipys = GreenOperator((7, 4, 5), name)
    assert type(scipys.transform) is fast.transforms.Fourier
    if torch.backends.mkl.is_available():
        assert isinstance(torchs.transform, fast.transforms.MKLFourier)
    monkeypatch.setenv("RLN_PLAIN", "1")
    plain = GreenOperator((7, 4, 5), name)
    assert isinstance(plain.transform, green.Fourier)
    for operator in (dense, scipys, torchs):
        assert (operator.displacement(force) - plain.displacement(force)).abs().max() < 1e-12


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_an_operator_made_slab_by_slab_inverts_the_matrix_of_each_frequency(name, monkeypatch):
    """For an oblong voxel and a nearly incompressible medium, too."""
    monkeypatch.setattr(green, "_SLAB", 1)
    operator = GreenOperator((6, 4, 5), name, 3.0, 0.49, spacing=(1, 0.1, 2))
    u = torch.randn(1, 3, 6, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    strain = operator.gradient(u)
    again = operator.gradient(operator.displacement(operator.nodal_forces(elasticity.hooke(strain, *operator.lame))))
    assert (again - strain).abs().max() < 1e-11 * strain.abs().max()


def test_the_fast_product_knows_pairs_of_real_and_imaginary_parts():
    matrices, spectrum = torch.rand(6, 5, 4, 3), torch.rand(2, 3, 5, 4, 6)
    expected = fast.loops.times_by_frequency(matrices.repeat_interleave(2, -1), spectrum)
    assert torch.allclose(fast.loops.times_by_frequency(matrices, spectrum), expected)


def test_reference_symbol_of_the_continuous_operator_is_moulinecs_acoustic_tensor():
    operator = GreenOperator((5, 5, 5), "continuous", young=2.0, poisson=0.25)
    lam, mu = elasticity.lame_parameters(2.0, 0.25)
    xi = 2 * torch.pi / 5 * torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    symbol = operator.reference_symbol()
    exact = (lam + mu) * torch.outer(xi, xi) + mu * xi.dot(xi) * torch.eye(3, dtype=torch.float64)
    assert (symbol[:, :, 1, -2, 2] - exact).abs().max() < 1e-13 * exact.abs().max()


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
