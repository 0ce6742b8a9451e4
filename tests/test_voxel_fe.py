import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

import rlnlib
from rlnlib import bounds, discretizations, elasticity, engineering, green, method, solvers, voxel_fe
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.discretizations import DISCRETIZATIONS
from rlnlib.fast import cores
from rlnlib.problem import CellProblem

TIGHT = {"rtol": 1e-12}

pytestmark = pytest.mark.usefixtures("twin")


@pytest.mark.reference
@pytest.mark.parametrize("contrast", [10, 50])
def test_bbar_equals_the_commercial_finite_element(reference_data, contrast):
    data = np.load(reference_data / f"fe_strain_21_cr{contrast}.npz")
    truth = torch.from_numpy(data["strain_xx"]).double()
    assert float(data["contrast"]) == contrast and float(data["nu"]) == 0.3
    strain = rlnlib.solve_strain(data["phase"], contrast).strain[:, 0]
    assert rlnlib.mase(strain, truth).max() < 1e-3
    assert (strain - truth).abs().max() < 1e-4
    # The check can fail: full integration is another element.
    hex8 = rlnlib.solve_strain(data["phase"], contrast, discretization="hex8").strain[:, 0]
    assert rlnlib.mase(hex8, truth).max() > 1e-2


def laminate(axis, shape=(6, 5, 7)):
    cells = np.zeros((1, *shape), dtype=bool)
    layer = [slice(None)] * 4
    layer[1 + axis] = slice(0, 2)
    cells[tuple(layer)] = True
    return cells


def exact_laminate_strain(cells, axis, macroscopic, stiffnesses):
    """Layers normal to ``axis``: uniform traction on the normal, uniform strain in the plane."""
    traction = [n for n, pair in enumerate(elasticity.MANDEL_PAIRS) if axis in pair]
    plane = [n for n in range(6) if n not in traction]
    profile = np.moveaxis(cells[0], axis, 0)[:, 0, 0]
    fraction = profile.mean()
    # C_tt e_t + C_tp e_p is the same in both layers, and the fractions of e_t add up to the macroscopic strain.
    inverses = [torch.linalg.inv(c[traction][:, traction]) for c in stiffnesses]
    couplings = [c[traction][:, plane] @ macroscopic[plane] for c in stiffnesses]
    weights = [1 - fraction, fraction]
    compliance = sum(w * inverse for w, inverse in zip(weights, inverses, strict=True))
    known = sum(w * i @ c for w, i, c in zip(weights, inverses, couplings, strict=True))
    stress = torch.linalg.solve(compliance, macroscopic[traction] + known)
    strain = macroscopic.repeat(len(profile), 1)
    for k, stiff in enumerate(profile):
        strain[k, traction] = inverses[int(stiff)] @ (stress - couplings[int(stiff)])
    return strain


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_laminates_are_exact_along_every_axis(name, axis):
    macroscopic = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
    phases = [(1.0, 0.3), (20.0, 0.15)]
    cells = laminate(axis)
    solution = rlnlib.solve_strain(
        cells.astype(int), phases=phases, macroscopic_strain=macroscopic, discretization=name, **TIGHT
    )
    exact = exact_laminate_strain(cells, axis, macroscopic, [elasticity.isotropic_stiffness(*p) for p in phases])
    profile = solution.strain[0].movedim(1 + axis, 1)
    assert (profile - exact.T[:, :, None, None]).abs().max() < 1e-10


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_a_homogeneous_cell_needs_no_iteration(name):
    for cells in (np.zeros((1, 4, 4, 4), dtype=bool), np.ones((1, 4, 5, 4), dtype=bool)):
        solution = rlnlib.solve_strain(cells, 7.0, discretization=name)
        assert solution.iterations.tolist() == [0] and bool(solution.converged.all())
        uniform = torch.zeros_like(solution.strain)
        uniform[:, 0] = 1
        assert torch.equal(solution.strain, uniform)
        assert bool(solution.residuals.isfinite().all())


def test_a_contrast_of_one_is_homogeneous(random_cells):
    solution = rlnlib.solve_strain(random_cells(2, 4, 4, 4), 1.0)
    assert solution.iterations.tolist() == [0, 0]
    assert torch.equal(solution.strain[:, 0], torch.ones(2, 4, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_mean_strain_is_the_macroscopic_strain(name, random_cells):
    loads = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solution = rlnlib.solve_strain(random_cells(2, 5, 4, 6), 30.0, macroscopic_strain=loads, discretization=name)
    assert (solution.strain.mean((2, 3, 4)) - loads).abs().max() < 1e-12
    assert (solution.strain[:, :, 1:].mean((2, 3, 4)) - loads).abs().max() > 1e-3  # of a part of the cell it is not


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_work_of_the_fields_is_the_work_of_their_means(name, random_cells):
    """Hill and Mandel, at the integration points, where it holds for every admissible strain and balanced stress."""
    cells = random_cells(1, 5, 5, 4)
    operator = green.GreenOperator((5, 5, 4), name)
    load = torch.tensor([[1.0, 0.2, -0.4, 0.3, 0.1, -0.6]], dtype=torch.float64)
    cell = CellProblem(cells.long(), [(1.0, 0.3), (30.0, 0.3)], load)
    u, _ = conjugate_gradient(voxel_fe.VoxelProblem(cell, operator), solvers.StoppingRule(1e-12))
    strain = operator.gradient(u) + load[:, None, :, None, None, None]
    stress = cell.law(strain.dtype)(strain)
    mean_stress = stress.mean((0, 1, 3, 4, 5))
    work = (strain * stress).sum(2).mean()
    assert abs(work / (mean_stress * load[0]).sum() - 1) < 1e-8
    displacement = torch.randn(u.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    admissible = operator.gradient(displacement) + load[:, None, :, None, None, None]
    assert abs((admissible * stress).sum(2).mean() / work - 1) < 1e-8
    # An incompatible strain of the same mean, or a stress out of balance, does other work.
    incompatible = strain + 0.01 * (stress - stress.mean((1, 3, 4, 5), keepdim=True))
    assert abs((incompatible * stress).sum(2).mean() / work - 1) > 1e-2
    unbalanced = stress + strain
    means = (unbalanced.mean((0, 1, 3, 4, 5)) * load[0]).sum()
    assert abs((strain * unbalanced).sum(2).mean() / means - 1) > 1e-2


def orientation_mean(stiffness):
    """Bulk and shear modulus of the mean over all orientations of a stiffness (6, 6), Mandel."""
    bulk = float(stiffness[:3, :3].sum()) / 9
    return bulk, (float(stiffness.trace()) - 3 * bulk) / 10


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_effective_stiffness_is_symmetric_and_within_the_bounds(name, fraction, random_cells):
    """Hashin and Shtrikman's bounds hold, for any cell, for the mean over all orientations: the hydrostatic load case,
    and the sum of five deviatoric ones, see a Green operator that does not depend on the direction of the frequency."""
    cells = random_cells(1, 5, 5, 5, fraction=fraction)
    fine = cells.repeat_interleave(3, 1).repeat_interleave(3, 2).repeat_interleave(3, 3)
    phases = [(1.0, 0.3), (20.0, 0.3)]
    stiffnesses = [elasticity.isotropic_stiffness(*phase) for phase in phases]
    stiff = float(cells.double().mean())
    fractions = [1 - stiff, stiff]
    effective = rlnlib.effective_stiffness(fine, 20.0, discretization=name, rtol=1e-10)[0]
    assert (effective - effective.T).abs().max() < 1e-8 * effective.max()
    assert torch.linalg.eigvalsh(bounds.voigt_bound(stiffnesses, fractions) - effective).min() > 0
    assert torch.linalg.eigvalsh(effective - bounds.reuss_bound(stiffnesses, fractions)).min() > 0

    def within(stiffness):
        lower, upper = map(orientation_mean, bounds.hashin_shtrikman_bounds(phases, fractions))
        return all(a < m < b for a, m, b in zip(lower, orientation_mean(stiffness), upper, strict=True))

    assert within(effective)
    # The checks can fail: trilinear elements as large as the grains are too stiff; two iterations are no solution.
    if name == "hex8" and fraction > 0.7:
        assert not within(rlnlib.effective_stiffness(cells, 20.0, discretization=name)[0])
    with pytest.warns(RuntimeWarning, match="did not reach"):
        early = rlnlib.effective_stiffness(cells, 20.0, discretization=name, max_iterations=2)[0]
    assert (early - early.T).abs().max() > 1e-8 * early.max()


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_solutions_superpose(name, random_cells):
    cells, load = random_cells(1, 5, 4, 4), np.array([0.3, -1.0, 0.5, 0.2, -0.7, 0.1])
    arguments = {"discretization": name, **TIGHT}
    direct = rlnlib.solve_strain(cells, 50.0, macroscopic_strain=load, **arguments).strain
    units = [rlnlib.solve_strain(cells, 50.0, macroscopic_strain=unit, **arguments).strain for unit in np.eye(6)]
    parts = [part * unit for part, unit in zip(load, units, strict=True)]
    assert (direct - sum(parts)).abs().max() < 1e-9
    assert (direct - sum(parts[:5])).abs().max() > 0.1


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_solutions_move_with_the_cell(name, random_cells):
    cells = random_cells(1, 5, 4, 6)
    field = rlnlib.solve_strain(cells, 50.0, discretization=name, **TIGHT).strain
    moved = rlnlib.solve_strain(cells.roll((2, 3, 1), (1, 2, 3)), 50.0, discretization=name, **TIGHT).strain
    assert (moved - field.roll((2, 3, 1), (2, 3, 4))).abs().max() < 1e-9
    assert (moved - field).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "solver"),
    [*itertools.product(DISCRETIZATIONS, ["conjugate_gradient"]), *itertools.product(["bbar"], solvers.ITERATIONS)],
)
def test_solutions_have_the_48_symmetries_of_the_cube(name, solver, random_cells):
    cells = random_cells(1, 4, 4, 4)[0]
    load = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
    contrast = 30.0 if solver == "conjugate_gradient" else 3.0
    arguments = {"discretization": name, "solver": solver, **TIGHT}
    strain = rlnlib.solve_strain(cells, contrast, macroscopic_strain=load, **arguments).strain[0]
    field = engineering.tensor_from_mandel(strain.movedim(0, -1))
    turned_cells, turned_loads, expected = [], [], []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = torch.zeros(3, 3, dtype=torch.float64)
            for new, old in enumerate(order):
                turn[new, old] = signs[new]
            mirrored = [axis for axis in range(3) if signs[axis] < 0]
            turned_cells.append(cells.permute(order).flip(mirrored))
            tensor = turn @ engineering.tensor_from_mandel(load) @ turn.T
            turned_loads.append(engineering.mandel_from_tensor(tensor))
            expected.append(turn @ field.permute(*order, 3, 4).flip(mirrored) @ turn.T)
    solution = rlnlib.solve_strain(
        torch.stack(turned_cells), contrast, macroscopic_strain=torch.stack(turned_loads), **arguments
    )
    got = engineering.tensor_from_mandel(solution.strain.movedim(1, -1))
    assert (got - torch.stack(expected)).abs().max() < 1e-9
    assert (got - field).abs().amax((1, 2, 3, 4, 5)).gt(0.1).sum() == 47  # all but the identity turn the field


def test_a_cell_does_not_depend_on_its_batch(random_cells):
    cells = torch.cat([random_cells(1, 5, 5, 5, fraction=f, seed=s) for f, s in ((0.1, 1), (0.5, 2), (0.9, 3))])
    together = rlnlib.solve_strain(cells, 50.0, rtol=1e-10)
    for i in range(3):
        alone = rlnlib.solve_strain(cells[i], 50.0, rtol=1e-10)
        assert (alone.strain[0] - together.strain[i]).abs().max() < 1e-9
        assert abs(int(alone.iterations[0]) - int(together.iterations[i])) <= 1


def test_chunks_do_not_change_the_solution(random_cells, monkeypatch):
    cells = random_cells(5, 4, 4, 4)
    whole = rlnlib.solve_strain(cells, 20.0)
    monkeypatch.setitem(cores.CHUNK_VOXELS, "cpu", 2 * 4**3)
    parts = rlnlib.solve_strain(cells, 20.0)
    assert (whole.strain - parts.strain).abs().max() < 1e-8
    assert whole.residuals.shape[0] == parts.residuals.shape[0] == 5


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_single_precision_output_is_the_double_one(name, random_cells):
    cells = random_cells(2, 6, 6, 6)
    single = rlnlib.solve_strain(cells, 50.0, discretization=name, dtype=torch.float32)
    double = rlnlib.solve_strain(cells, 50.0, discretization=name)
    assert single.strain.dtype == torch.float32 and bool(single.converged.all())
    assert 0 < (single.strain - double.strain).abs().max() < 1e-3


@pytest.mark.parametrize("contrast", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["random", "checkerboard"])
def test_extreme_contrasts_are_solved_to_the_tolerance(contrast, kind, random_cells):
    cells = random_cells(1, 6, 6, 6)
    if kind == "checkerboard":
        x, y, z = torch.meshgrid(*[torch.arange(6)] * 3, indexing="ij")
        cells = ((x + y + z) % 2 == 0)[None]
    solution = rlnlib.solve_strain(cells, contrast, rtol=1e-6)
    assert bool(solution.converged.all()) and float(solution.residual.max()) <= 1e-6
    assert (solution.strain.mean((2, 3, 4))[0, 0] - 1).abs() < 1e-10


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_iterations_hardly_depend_on_the_size_but_for_want_of_the_preconditioner(name, monkeypatch):
    """One inclusion, more and more voxels for it."""

    def iterations(n):
        cells = np.zeros((1, n, n, n), dtype=bool)
        cells[:, : n // 2, : n // 2, : n // 2] = True
        return int(rlnlib.solve_strain(cells, 50.0, discretization=name, rtol=1e-4).iterations[0])

    assert iterations(24) <= 1.25 * iterations(12)
    monkeypatch.setattr(voxel_fe.VoxelProblem, "precondition", lambda self, residual: residual)
    assert iterations(24) > 1.6 * iterations(12)


class IndependentElements:
    """scikit-fem's assembly of the same periodic cell: trilinear elements, volumetric and deviatoric part apart.

    Each part has its own quadrature: both the full one is hex8, both in the centre alone is the rotated scheme, and the
    volumetric one in the centre alone is B-bar, since there a trilinear element's dilatation has its mean.
    """

    def __init__(self, name, labels, phases):
        skfem = pytest.importorskip("skfem")
        self.shape = labels.shape
        self.mesh = skfem.MeshHex.init_tensor(*[np.arange(n + 1.0) for n in self.shape])
        element = skfem.ElementVector(skfem.ElementHex1())
        self.full = skfem.Basis(self.mesh, element, intorder=3)
        self.centre = skfem.Basis(self.mesh, element, quadrature=(np.full((3, 1), 0.5), np.ones(1)))
        assert self.full.X.shape[1] == 8
        self.voxels = tuple(np.floor(self.mesh.p[:, self.mesh.t].mean(1)).astype(int))
        self.k = self.assembled(name, labels, phases)
        # Far faces are near ones of the next period: each degree of freedom belongs to one of a periodic node.
        nodes = np.ravel_multi_index(
            tuple(np.rint(self.mesh.p).astype(int) % np.array(self.shape)[:, None]), self.shape
        )
        owner = np.empty(self.full.N, dtype=int)
        for component in range(3):
            owner[self.full.nodal_dofs[component]] = component * np.prod(self.shape) + nodes
        ones = np.ones(self.full.N)
        self.periodic = sparse.csr_matrix((ones, (np.arange(self.full.N), owner)), shape=(self.full.N, owner.max() + 1))

    def assembled(self, name, labels, phases):
        """K of the elements side by side, before those of neighbouring periods are joined."""
        import skfem
        from skfem.helpers import ddot, div, eye, sym_grad

        lame = np.array([elasticity.lame_parameters(*phase) for phase in phases])[labels[self.voxels]]

        @skfem.BilinearForm
        def volumetric(v, w, data):
            return data.bulk * div(v) * div(w)

        @skfem.BilinearForm
        def deviatoric(v, w, data):
            strain = sym_grad(v)
            return 2 * data.mu * ddot(strain - eye(div(v) / 3, 3), sym_grad(w))

        def of_parts(form, basis, **modulus):
            points = basis.X.shape[1]
            return form.assemble(basis, **{k: np.repeat(v[:, None], points, 1) for k, v in modulus.items()})

        k = of_parts(volumetric, self.full if name == "hex8" else self.centre, bulk=lame @ [1, 2 / 3])
        return k + of_parts(deviatoric, self.centre if name == "rotated" else self.full, mu=lame[:, 1])

    def forces(self, u):
        """K u. Shape: (3, N1, N2, N3) -> (3, N1, N2, N3)."""
        return (self.periodic.T @ (self.k @ (self.periodic @ u.ravel()))).reshape(u.shape)

    def strain(self, load, point=None):
        """Strain under the macroscopic strain (3, 3), by a direct solver: at the centres, or at a quadrature point.

        Shape: -> (3, 3, N...).
        """
        affine = np.zeros(self.full.N)
        for component in range(3):
            affine[self.full.nodal_dofs[component]] = load[component] @ self.mesh.p
        k, force = self.periodic.T @ self.k @ self.periodic, -self.periodic.T @ (self.k @ affine)
        held = np.arange(3) * np.prod(self.shape)  # one node, against translations
        free = np.setdiff1d(np.arange(k.shape[0]), held)
        u = np.zeros(k.shape[0])
        u[free] = sparse.linalg.spsolve(k[free][:, free].tocsc(), force[free])
        basis, point = (self.centre, 0) if point is None else (self.full, point)
        gradient = basis.interpolate(affine + self.periodic @ u).grad[..., point]  # (3, 3, elements)
        strain = np.zeros((3, 3, *self.shape))
        strain[(slice(None), slice(None), *self.voxels)] = (gradient + gradient.swapaxes(0, 1)) / 2
        return strain


@pytest.mark.parametrize("name", DISCRETIZATIONS[1:])
def test_stiffness_and_strain_equal_those_of_an_independent_assembly(name):
    shape, phases = (5, 3, 4), [(1.0, 0.3), (7.0, 0.2), (30.0, 0.4)]
    labels = torch.randint(0, 3, (1, *shape), generator=torch.Generator().manual_seed(0))
    theirs = IndependentElements(name, labels[0].numpy(), phases)

    operator = green.GreenOperator(shape, name)
    problem = voxel_fe.VoxelProblem(CellProblem(labels, phases, torch.zeros(1, 6, dtype=torch.float64)), operator)
    u = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forces = theirs.forces(u[0].numpy())
    assert np.abs(problem.apply(u)[0].numpy() - forces).max() < 1e-10 * np.abs(forces).max()

    load = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
    expected = torch.from_numpy(theirs.strain(engineering.tensor_from_mandel(load).numpy()))
    expected = engineering.mandel_from_tensor(expected.movedim((0, 1), (-2, -1))).movedim(-1, 0)
    arguments = {"phases": phases, "macroscopic_strain": load, "rtol": 1e-12}
    ours = rlnlib.solve_strain(labels, discretization=name, **arguments).strain[0]
    assert (ours - expected).abs().max() < 1e-8
    for other in set(DISCRETIZATIONS) - {name}:
        assert (rlnlib.solve_strain(labels, discretization=other, **arguments).strain[0] - expected).abs().max() > 1e-3


def test_strain_at_the_integration_points_is_that_of_an_independent_assembly():
    shape, phases = (3, 4, 3), [(1.0, 0.3), (7.0, 0.2), (30.0, 0.4)]
    labels = torch.randint(0, 3, (1, *shape), generator=torch.Generator().manual_seed(0))
    load = torch.tensor([1.0, -0.5, 0.3, 0.4, -0.2, 0.7], dtype=torch.float64)
    theirs = IndependentElements("hex8", labels[0].numpy(), phases)
    arguments = {"phases": phases, "macroscopic_strain": load, "discretization": "hex8", "rtol": 1e-12}
    ours = rlnlib.solve_strain(labels, integration_points=True, **arguments).strain_at_points[0]
    points = discretizations.Hex8.points()
    within = np.array(theirs.full.global_coordinates()) - np.array(theirs.voxels)[..., None]  # (3, elements, points)
    assert np.ptp(within, axis=1).max() < 1e-9  # alike in all voxels
    for place, point in enumerate(within[:, 0].T):
        expected = torch.from_numpy(theirs.strain(engineering.tensor_from_mandel(load).numpy(), place))
        expected = engineering.mandel_from_tensor(expected.movedim((0, 1), (-2, -1))).movedim(-1, 0)
        distances = (points - torch.from_numpy(point)).norm(dim=1)
        assert distances.min() < 1e-9
        assert (ours[distances.argmin()] - expected).abs().max() < 1e-8
        assert (ours[distances.argmax()] - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", DISCRETIZATIONS)
@pytest.mark.parametrize("solver", ["conjugate_gradient", "anderson"])
def test_strain_and_stress_at_the_integration_points_are_in_balance_and_have_the_mean_of_the_voxel(
    name, solver, random_cells
):
    cells = torch.cat([random_cells(1, 5, 4, 6, seed=s) for s in range(2)])
    loads = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3
    arguments = {"phases": [(2e11, 0.3), (1e12, 0.2)], "macroscopic_strain": loads, "rtol": 1e-11}
    arguments |= {"discretization": name, "spacing": (1, 2, 0.5), "solver": solver}
    solution = rlnlib.solve_strain(cells.long(), integration_points=True, **arguments)
    grid = discretizations.make(name, cells.shape[1:], (1, 2, 0.5))
    assert solution.strain_at_points.shape == (2, grid.integration_points, 6, *cells.shape[1:])
    assert (solution.strain_at_points.mean(1) - solution.strain).abs().max() < 1e-14
    assert (solution.stress_at_points.mean(1) - solution.stress).abs().max() < 1e-3  # of 1e9
    forces, size = grid.nodal_forces(solution.stress_at_points), solution.stress_at_points.abs().max()
    assert forces.abs().max() < 1e-8 * size
    if grid.integration_points > 1:  # one value a voxel balances another way
        assert grid.nodal_forces(solution.stress[:, None].expand(-1, 8, *[-1] * 4)).abs().max() > 1e-3 * size
    work = (solution.strain_at_points * solution.stress_at_points).sum(2).mean((1, 2, 3, 4))
    assert torch.allclose(work, (solution.effective_stress * loads).sum(1), rtol=1e-8)
    assert solution.to(torch.float32).strain_at_points.dtype == torch.float32
    assert rlnlib.solve_strain(cells.long(), **arguments).strain_at_points is None


def test_hex8_strain_equals_that_of_an_independent_solver(random_cells):
    """muGrid solves the same periodic problem with its own elements, transforms and conjugate gradients."""
    mugrid = pytest.importorskip("muGrid")
    from muGrid.Preconditioners import make_reference_stiffness_preconditioner
    from muGrid.Solvers import conjugate_gradients

    n, load = 6, [1.0, -0.5, 0.3, 0.4, -0.2, 0.7]
    cells = random_cells(1, n, n, n)
    lam, mu = elasticity.lame_parameters(1.0, 0.3)
    operator = mugrid.IsotropicStiffnessOperator(3, [1.0, 1.0, 1.0])
    engine = mugrid.FFTEngine([n] * 3, ghosts=operator)
    lam_field, mu_field = engine.real_space_field("lambda"), engine.real_space_field("mu")
    force, u = engine.real_space_field("force", (3,)), engine.real_space_field("u", (3,))
    for field, modulus in ((lam_field, lam), (mu_field, mu)):
        field.p[...] = modulus * np.where(cells[0], 20.0, 1.0)
        engine.communicate_ghosts(field)
    strain = engineering.tensor_from_mandel(torch.tensor(load, dtype=torch.float64)).flatten().tolist()
    operator.apply_macro_rhs(lam_field._cpp, mu_field._cpp, strain, force._cpp)
    force.p[...] *= -1
    u.p[...] = 0

    def stiffness(field, image):
        engine.communicate_ghosts(field)
        operator.apply(field, lam_field, mu_field, image)

    preconditioner = make_reference_stiffness_preconditioner(
        engine, element=mugrid.FEMElement.q1, grid_spacing=[1.0] * 3, lambda_ref=lam, mu_ref=mu
    )
    conjugate_gradients(
        engine.communicator, engine.real_space_collection, force, u, stiffness, prec=preconditioner, rtol=1e-11
    )
    mean = discretizations.Hex8.element_gradient().mean(0).flatten(1)
    theirs = discretizations.from_corners(mean, torch.from_numpy(np.array(u.p))[None])
    theirs = theirs + torch.tensor(load, dtype=torch.float64).view(1, 6, 1, 1, 1)
    arguments = {"macroscopic_strain": load, "rtol": 1e-11}
    ours = rlnlib.solve_strain(cells, 20.0, discretization="hex8", **arguments).strain
    assert (ours - theirs).abs().max() < 1e-8
    assert (rlnlib.solve_strain(cells, 20.0, **arguments).strain - theirs).abs().max() > 1e-3  # B-bar is another


def test_phases_in_the_list_are_those_of_the_short_form(random_cells):
    cells = random_cells(2, 4, 4, 5)
    short = rlnlib.solve_strain(cells, 9.0, poisson=0.2, rtol=1e-10)
    listed = rlnlib.solve_strain(cells.long(), phases=[(2.0, 0.2), (18.0, 0.2)], rtol=1e-10)
    assert (short.strain - listed.strain).abs().max() < 1e-8
    assert torch.allclose(2 * short.effective_stress, listed.effective_stress, rtol=1e-7)


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_three_phases_with_different_poisson_ratios(name):
    """Where two of the three phases are one material, the labels do not matter."""
    labels = torch.randint(0, 3, (1, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    three = rlnlib.solve_strain(labels, phases=[(1.0, 0.1), (10.0, 0.4), (10.0, 0.4)], discretization=name, rtol=1e-10)
    two = rlnlib.solve_strain(labels.clamp(max=1), phases=[(1.0, 0.1), (10.0, 0.4)], discretization=name, rtol=1e-10)
    assert bool(three.converged.all())
    assert (three.strain - two.strain).abs().max() < 1e-8


def test_a_failed_cell_is_named_and_its_iterate_kept(random_cells):
    cells = torch.cat([torch.zeros(1, 6, 6, 6, dtype=torch.bool), random_cells(1, 6, 6, 6)])
    with pytest.warns(RuntimeWarning, match=r"1 of 2 cells .* cell 1 \(residual .*raise max_iterations"):
        solution = rlnlib.solve_strain(cells, 50.0, max_iterations=3)
    assert solution.converged.tolist() == [True, False]
    assert solution.iterations.tolist() == [0, 3]
    assert 0 < solution.residual[1] < 1
    assert (solution.strain[1, 0] - 1).abs().max() > 0.1


def test_the_residuals_start_at_one_and_end_below_the_tolerance(random_cells):
    solution = rlnlib.solve_strain(random_cells(1, 6, 6, 6), 10.0, rtol=1e-6)
    residuals = solution.residuals[0]
    assert residuals[0] == 1 and len(residuals) == int(solution.iterations[0]) + 1
    assert float(solution.residual[0]) <= 1e-6 < float(residuals[-2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stiff": np.zeros(4, bool)}, "shape"),
        ({"stiff": np.zeros((0, 4, 4, 4), bool)}, "no cell"),
        ({"stiff": np.zeros((1, 4, 4, 4))}, "dtype"),
        ({"stiff": np.full((1, 4, 4, 4), np.nan)}, "NaN"),
        ({"stiff": np.full((1, 4, 4, 4), 2)}, "labels"),
        ({"stiff": [["a"]]}, "array"),
        ({"contrast": 0}, "contrast"),
        ({"contrast": -3.0}, "contrast"),
        ({"contrast": float("nan")}, "contrast"),
        ({"contrast": None}, "contrast"),
        ({"contrast": 2, "phases": [(1, 0.3), (2, 0.3)]}, "not both"),
        ({"contrast": None, "phases": [(1, 0.3), (-2, 0.3)]}, "Young"),
        ({"contrast": None, "phases": [1, 2]}, "pairs"),
        ({"poisson": 0.5}, "poisson"),
        ({"poisson": -1.0}, "poisson"),
        ({"macroscopic_strain": (1, 0, 0)}, "shape"),
        ({"macroscopic_strain": (float("nan"), 0, 0, 0, 0, 0)}, "NaN"),
        ({"discretization": "hex20"}, "'bbar'"),
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": 0.0}, "both 0"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"dtype": torch.float16}, "dtype"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(change, sentence):
    arguments = {"stiff": np.eye(4, dtype=bool)[None, None].repeat(4, 1), "contrast": 10.0, **change}
    with pytest.raises(ValueError, match=sentence):
        rlnlib.solve_strain(**arguments)


def test_the_operator_of_a_small_grid_is_kept(monkeypatch):
    """A second call on the same grid makes none, with the same result; another medium does, a large grid keeps none."""
    made = []
    start = green.GreenOperator.__init__
    monkeypatch.setattr(green.GreenOperator, "__init__", lambda *a, **k: made.append(a[1]) or start(*a, **k))
    method._kept.cache_clear()
    cell = rlnlib.generate_cells(1, size=6, grain_size=(1, 3), seed=0)
    first, second = rlnlib.solve_strain(cell, 10.0), rlnlib.solve_strain(cell, 10.0)
    assert len(made) == 1 and torch.equal(first.strain, second.strain)
    rlnlib.solve_strain(cell, 10.0, poisson=0.2)
    rlnlib.solve_strain(cell[:, :5], 10.0)
    assert len(made) == 3
    monkeypatch.setitem(cores.CHUNK_VOXELS, "cpu", cell.size)
    for _ in range(2):
        rlnlib.solve_strain(cell, 10.0)
    assert len(made) == 5


def test_the_stiffness_of_a_batch_is_that_of_each_cell_and_of_six_single_loads(random_cells, monkeypatch):
    cells = random_cells(3, 4, 5, 4)
    together = rlnlib.effective_stiffness(cells, 20.0, spacing=(1, 1, 2))
    loads = torch.eye(6, dtype=torch.float64)
    for cell, stiffness in zip(cells, together, strict=True):
        single = [rlnlib.solve_strain(cell, 20.0, macroscopic_strain=load, spacing=(1, 1, 2)) for load in loads]
        columns = torch.cat([solution.effective_stress for solution in single]).T
        assert (stiffness - columns).abs().max() < 1e-6
    assert (together[0] - together[1]).abs().max() > 1e-2
    monkeypatch.setattr(method, "_TOGETHER", 1)  # as a cell so large that each load is solved alone
    assert (rlnlib.effective_stiffness(cells, 20.0, spacing=(1, 1, 2)) - together).abs().max() < 1e-6


def test_a_cell_without_converged_stiffness_is_named_by_its_own_number(random_cells):
    cells = torch.cat([torch.zeros(2, 5, 5, 5, dtype=torch.bool), random_cells(1, 5, 5, 5)])
    with pytest.warns(RuntimeWarning, match=r"1 of 3 cells .* cell 2 \(residual"):
        rlnlib.effective_stiffness(cells, 50.0, max_iterations=2)
