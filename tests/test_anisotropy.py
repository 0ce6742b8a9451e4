"""Phases of any stiffness: against exact laminates, an independent assembly, the isotropic path, and turned cells."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_voxel_fe import IndependentElements, exact_laminate_strain, laminate

import rlnlib
from rlnlib import (
    bounds,
    elasticity,
    engineering,
    equilibrium,
    fans,
    green,
    informed,
    lippmann_schwinger,
    problem,
    solvers,
)
from rlnlib.discretizations import DISCRETIZATIONS

LOAD = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("twin")


def triclinic(phases, seed=0):
    """Stiffnesses with 21 different constants, (P, 6, 6)."""
    root = torch.randn(phases, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT + torch.eye(6, dtype=torch.float64)


def rotations(count, seed=0):
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def cubic(c11, c12, c44):
    stiffness = torch.diag(torch.tensor([c11 - c12] * 3 + [2 * c44] * 3, dtype=torch.float64))
    stiffness[:3, :3] += c12
    return stiffness


COPPER = cubic(168.4, 121.4, 75.4)  # GPa


def labels_of(phases, *shape, seed=0):
    return torch.randint(0, phases, (1, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_laminates_of_anisotropic_layers_are_exact_along_every_axis(name, axis):
    stiffnesses, cells = triclinic(2), laminate(axis)
    solution = rlnlib.solve_strain(
        cells.astype(int), phases=stiffnesses, macroscopic_strain=LOAD, discretization=name, rtol=1e-12
    )
    exact = exact_laminate_strain(cells, axis, LOAD, stiffnesses)
    assert (solution.strain[0].movedim(1 + axis, 1) - exact.T[:, :, None, None]).abs().max() < 1e-10
    layers = np.moveaxis(cells[0], axis, 0)[:, 0, 0].astype(int)
    stress = torch.stack([stiffnesses[p] @ e for p, e in zip(layers, exact, strict=True)])
    assert (solution.stress[0].movedim(1 + axis, 1) - stress.T[:, :, None, None]).abs().max() < 1e-9


class AnisotropicElements(IndependentElements):
    """scikit-fem's assembly of sigma = C epsilon with all 21 constants of each element.

    B-bar takes the trace of the strain from the centre. The terms with a trace are the centre's alone, since there a
    trilinear element's strain has its mean.
    """

    def assembled(self, name, labels, phases):
        import skfem
        from skfem.helpers import ddot, div, eye, sym_grad

        basis = engineering.tensor_from_mandel(torch.eye(6, dtype=torch.float64)).numpy()
        c = np.einsum("pmn,mij,nkl->ijklp", phases.numpy(), basis, basis)[..., labels[self.voxels], None]

        def stress(strain):
            return np.einsum("ijkleq,kleq->ijeq", np.broadcast_to(c, (*c.shape[:-1], strain.shape[-1])), strain)

        def deviator(v):
            return sym_grad(v) - eye(div(v) / 3, 3)

        @skfem.BilinearForm
        def whole(v, w, _):
            return ddot(stress(sym_grad(v)), sym_grad(w))

        @skfem.BilinearForm
        def deviatoric(v, w, _):
            return ddot(stress(deviator(v)), deviator(w))

        if name != "bbar":
            return whole.assemble(self.centre if name == "rotated" else self.full)
        with_trace = whole.assemble(self.centre) - deviatoric.assemble(self.centre)
        return with_trace + deviatoric.assemble(self.full)


@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_stiffness_and_strain_equal_those_of_an_independent_assembly(name):
    stiffnesses, labels = triclinic(3), labels_of(3, 5, 3, 4)
    theirs = AnisotropicElements(name, labels[0].numpy(), stiffnesses)
    cell = problem.cell_problem(labels, phases=stiffnesses, macroscopic_strain=LOAD)
    equations = equilibrium.voxel_problem(cell, green.GreenOperator(cell.shape, name))
    u = torch.randn(1, 3, *cell.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forces = theirs.forces(u[0].numpy())
    assert np.abs(equations.apply(u)[0].numpy() - forces).max() < 1e-12 * np.abs(forces).max()

    expected = torch.from_numpy(theirs.strain(engineering.tensor_from_mandel(LOAD).numpy()))
    expected = engineering.mandel_from_tensor(expected.movedim((0, 1), (-2, -1))).movedim(-1, 0)
    arguments = {"phases": stiffnesses, "macroscopic_strain": LOAD, "rtol": 1e-12}
    assert (rlnlib.solve_strain(labels, discretization=name, **arguments).strain[0] - expected).abs().max() < 1e-9
    for other in set(DISCRETIZATIONS) - {name}:
        assert (rlnlib.solve_strain(labels, discretization=other, **arguments).strain[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", DISCRETIZATIONS)
@pytest.mark.parametrize("solver", ["conjugate_gradient", "anderson"])
def test_an_isotropic_matrix_is_the_pair_of_its_moduli(name, solver):
    cells, pairs = labels_of(3, 5, 4, 6), [(1.0, 0.3), (4.0, 0.3), (2.0, 0.1)]
    matrices = [elasticity.isotropic_stiffness(*pair) for pair in pairs]
    arguments = {"discretization": name, "solver": solver, "macroscopic_strain": LOAD, "rtol": 1e-13}
    arguments |= {"dtype": torch.float64, "spacing": (1, 2, 0.7)}
    expected = rlnlib.solve_strain(cells, phases=pairs, **arguments)
    for phases in (matrices, torch.stack(matrices), [pairs[0], matrices[1], pairs[2]]):
        solution = rlnlib.solve_strain(cells, phases=phases, **arguments)
        assert bool(solution.converged)
        for field in ("strain", "stress", "effective_stress", "displacement"):
            assert (getattr(solution, field) - getattr(expected, field)).abs().max() < 1e-12
    matrices[1] = triclinic(1)[0]  # another material is seen
    assert (rlnlib.solve_strain(cells, phases=matrices, **arguments).strain - expected.strain).abs().max() > 0.1


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_a_cell_whose_crystals_are_turned_with_it_has_the_turned_field(name):
    """The 24 rotations of the cube take grid to grid; C turns by R, the load and the strain do."""
    cells, grains = labels_of(4, 3, 4, 5), engineering.rotated(COPPER, rotations(4))
    arguments = {"discretization": name, "rtol": 1e-12}
    strain = rlnlib.solve_strain(cells, phases=grains, macroscopic_strain=LOAD, **arguments).strain[0]
    field, load = engineering.tensor_from_mandel(strain.movedim(0, -1)), engineering.tensor_from_mandel(LOAD)
    for order, signs in [((1, 2, 0), (1, 1, 1)), ((1, 0, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1))]:
        turn = torch.zeros(3, 3, dtype=torch.float64)
        for new, old in enumerate(order):
            turn[new, old] = signs[new]
        assert torch.linalg.det(turn) > 0
        mirrored = [axis for axis in range(3) if signs[axis] < 0]
        turned = cells[0].permute(order).flip(mirrored)
        arguments["macroscopic_strain"] = engineering.mandel_from_tensor(turn @ load @ turn.T)
        got = rlnlib.solve_strain(turned, phases=engineering.rotated(grains, turn), **arguments).strain[0]
        expected = turn @ field.permute(*order, 3, 4).flip(mirrored) @ turn.T
        assert (engineering.tensor_from_mandel(got.movedim(0, -1)) - expected).abs().max() < 1e-9
        unturned = rlnlib.solve_strain(turned, phases=grains, **arguments).strain[0]
        assert (unturned - got).abs().max() > 1e-2  # crystals that stay as they were make another cell


def test_a_polycrystal_lies_between_the_bounds_and_its_stiffness_is_symmetric():
    cells, grains = labels_of(12, 6, 6, 6), engineering.rotated(COPPER, rotations(12))
    effective = rlnlib.effective_stiffness(cells, phases=grains, rtol=1e-10)[0]
    fractions = torch.bincount(cells.flatten(), minlength=12).double() / cells.numel()
    assert (effective - effective.T).abs().max() < 1e-8 * effective.max()
    assert torch.linalg.eigvalsh(bounds.voigt_bound(grains, fractions) - effective).min() > -1e-8
    assert torch.linalg.eigvalsh(effective - bounds.reuss_bound(grains, fractions)).min() > -1e-8
    # A cubic crystal has one bulk modulus however it lies, so no grain is in the way of a hydrostatic strain.
    assert abs(float(effective[:3, :3].sum()) / 9 - (168.4 + 2 * 121.4) / 3) < 1e-8
    assert float(effective[3, 3]) < float(bounds.voigt_bound(grains, fractions)[3, 3]) - 1


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_one_crystal_is_uniform_and_needs_no_iteration(name):
    grain = engineering.rotated(COPPER, rotations(1)[0])
    solution = rlnlib.solve_strain(
        torch.zeros(1, 4, 5, 4, dtype=torch.int64), phases=[grain], macroscopic_strain=LOAD, discretization=name
    )
    assert solution.iterations.tolist() == [0] and bool(solution.converged)
    assert (solution.effective_stress[0] - grain @ LOAD).abs().max() < 1e-12 * float(grain.max())


def test_both_forms_of_the_equation_have_one_solution():
    cells, grains = labels_of(3, 4, 5, 4), engineering.rotated(COPPER, rotations(3))
    arguments = {"phases": grains, "macroscopic_strain": LOAD, "rtol": 1e-11}
    strains = [rlnlib.solve_strain(cells, solver=name, **arguments).strain for name in ("fixed_point", "anderson")]
    expected = rlnlib.solve_strain(cells, **arguments).strain
    assert all((strain - expected).abs().max() < 1e-8 for strain in strains)
    equation = lippmann_schwinger.elastic_equation(cells, phases=grains, macroscopic_strain=LOAD)
    y, _ = solvers.iterate(equation, solvers.moulinec(equation), solvers.StoppingRule(1e-11))
    assert (y.mean(1) - expected).abs().max() < 1e-8 < (equation.reference.mean(1) - expected).abs().max()


@pytest.mark.parametrize("dtype, tolerance", [("mixed", 1e-6), (torch.float32, 1e-3)])
def test_other_precisions_and_units_agree(dtype, tolerance):
    cells, grains = labels_of(3, 5, 4, 6), engineering.rotated(COPPER, rotations(3))
    expected = rlnlib.solve_strain(cells, phases=grains, macroscopic_strain=LOAD, rtol=1e-11, dtype=torch.float64)
    in_pascal = rlnlib.solve_strain(cells, phases=1e9 * grains, macroscopic_strain=1e-3 * LOAD, dtype=dtype)
    assert bool(in_pascal.converged) and in_pascal.strain.dtype == (torch.float64 if dtype == "mixed" else dtype)
    assert (1e3 * in_pascal.strain - expected.strain).abs().max() < tolerance
    assert (1e-6 * in_pascal.stress - expected.stress).abs().max() < tolerance * float(expected.stress.abs().max())


def test_a_mean_stress_along_one_axis_strains_a_polycrystal_by_its_compliance():
    cells, grains = labels_of(3, 4, 4, 5), engineering.rotated(COPPER, rotations(3))
    stress = torch.tensor([0.1, 0, 0, 0, 0, 0], dtype=torch.float64)
    solution = rlnlib.solve_strain(cells, phases=grains, macroscopic_stress=stress, rtol=1e-11)
    expected = torch.linalg.solve(rlnlib.effective_stiffness(cells, phases=grains, rtol=1e-11)[0], stress)
    assert (solution.strain.mean((2, 3, 4))[0] - expected).abs().max() < 1e-9


def test_cells_of_a_batch_and_of_a_chunk_are_those_alone():
    cells, grains = torch.cat([labels_of(3, 4, 5, 4, seed=s) for s in range(3)]), triclinic(3)
    cells[1] = 0  # done before it begins
    together = rlnlib.solve_strain(cells, phases=grains, rtol=1e-10)
    for cell, strain in zip(cells, together.strain, strict=True):
        assert (rlnlib.solve_strain(cell, phases=grains, rtol=1e-10).strain[0] - strain).abs().max() < 1e-8


def test_turning_a_stiffness_turns_its_tensor():
    stiffness, turn = triclinic(1)[0], rotations(1)[0]
    basis = engineering.tensor_from_mandel(torch.eye(6, dtype=torch.float64))
    tensor = torch.einsum("mn,mij,nkl->ijkl", stiffness, basis, basis)
    expected = torch.einsum("ip,jq,kr,ls,pqrs->ijkl", turn, turn, turn, turn, tensor)
    turned = engineering.rotated(stiffness, turn)
    assert (torch.einsum("mn,mij,nkl->ijkl", turned, basis, basis) - expected).abs().max() < 1e-12
    assert (engineering.rotated(turned, turn.T) - stiffness).abs().max() < 1e-12
    isotropic = elasticity.isotropic_stiffness(3.0, 0.2)
    assert (engineering.rotated(isotropic, turn) - isotropic).abs().max() < 1e-14
    assert (turned - stiffness).abs().max() > 0.1


def test_the_closest_isotropic_material_is_the_mean_over_orientations():
    young, poisson = engineering.closest_isotropic(COPPER).tolist()
    mean = engineering.rotated(COPPER, rotations(20000)).mean(0)
    assert (elasticity.isotropic_stiffness(young, poisson) - mean).abs().max() < 1.0  # of 200: the mean of a sample
    pair = engineering.closest_isotropic(elasticity.isotropic_stiffness(3.0, 0.2)).tolist()
    assert np.allclose(pair, [3.0, 0.2], rtol=1e-12)


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ([torch.eye(5)] * 2, "pairs or of stiffnesses"),
        ([torch.eye(6), torch.zeros(6, 5)], "shape"),
        ([torch.eye(6), -torch.eye(6)], "positive definite.*mandel_from_voigt"),
        ([torch.eye(6), torch.eye(6).roll(1, 1) + 3 * torch.eye(6)], "symmetric"),
        ([torch.eye(6), torch.full((6, 6), torch.nan)], "finite"),
        ([torch.eye(6), 1j * torch.eye(6)], "real"),
    ],
)
def test_a_stiffness_that_is_none_is_refused_with_a_sentence(phases, sentence):
    with pytest.raises(ValueError, match=sentence):
        rlnlib.solve_strain(labels_of(2, 4, 4, 4), phases=phases)


def test_what_knows_isotropic_phases_alone_says_so(tmp_path):
    with pytest.raises(ValueError, match="isotropic"):
        fans.write(tmp_path, labels_of(2, 4, 4, 4)[0], phases=triclinic(2))
    with pytest.raises(ValueError, match="isotropic"):
        rlnlib.predict(informed.InformedRLN(), labels_of(2, 4, 4, 4), phases=triclinic(2))
    for turn in (torch.eye(2), 2 * torch.eye(3)):
        with pytest.raises(ValueError, match="rotation"):
            engineering.rotated(COPPER, turn)
