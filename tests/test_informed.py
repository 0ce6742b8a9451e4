"""The network that is told the equation: what holds exactly, its energy loss, and prediction."""

import math
import warnings

import pytest
import torch

import rlnlib
from rlnlib import informed, solvers, weight_files
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.equilibrium import VoxelProblem
from rlnlib.green import GreenOperator
from rlnlib.informed import certificate
from rlnlib.informed.network import _ResidualNorm
from rlnlib.problem import cell_problem

AXIAL = torch.tensor([[1.0, 0, 0, 0, 0, 0]], dtype=torch.float64)


def random_network(seed=0, size=0.05, **options) -> informed.InformedRLN:
    """With last convolutions that are not zero, so that each pass changes the field."""
    torch.manual_seed(seed)
    model = informed.InformedRLN(**options)
    for network in model.proximals:
        last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv3d)][-1]
        torch.nn.init.normal_(last.weight, std=size)
    return model.eval()


def random_cells(shape=(2, 6, 4, 8), seed=0, dtype=torch.float32, load=None, contrast=50.0) -> informed.Cells:
    g = torch.Generator().manual_seed(seed)
    young = contrast ** torch.rand(shape, generator=g, dtype=torch.float64)
    poisson = 0.45 * torch.rand(shape, generator=g, dtype=torch.float64)
    load = torch.randn(shape[0], 6, generator=g, dtype=torch.float64) if load is None else load
    return informed.Cells(young, poisson, load, dtype)


def labels(shape=(2, 6, 4, 8), phases=3, seed=0) -> torch.Tensor:
    return torch.randint(0, phases, shape, generator=torch.Generator().manual_seed(seed))


PHASES = [(1.0, 0.3), (20.0, 0.2), (0.1, 0.4)]


def test_the_untrained_network_answers_with_the_macroscopic_strain():
    solution = rlnlib.predict(informed.InformedRLN(), labels(), phases=PHASES)
    assert float((solution.strain - AXIAL.view(1, 6, 1, 1, 1)).abs().max()) < 1e-14
    assert repr(solution).startswith("Solution(2 cells of 6 x 4 x 8 voxels, predicted by a network, iterations 0, ")


def test_gradient_of_energy_and_strain_against_finite_differences():
    cells = random_cells((2, 4, 3, 2), dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    u = torch.randn(cells.problem.rhs.shape, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: (cells.energy(u), cells.strain(u)), u)


def test_the_energy_is_that_of_strain_and_stress_and_least_for_the_solution():
    # At the voxel means, so without the part that varies within a voxel: that of a uniform strain has none.
    cells = random_cells(dtype=torch.float64)
    zero = torch.zeros_like(cells.problem.rhs)
    strain = cells.strain(zero)
    assert torch.allclose(cells.energy(zero), (strain * cells.stress(strain)).sum(1).mean((1, 2, 3)) / 2)
    u, _ = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-10))
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        assert bool((cells.energy(u) < cells.energy(u + 1e-3 * torch.randn(u.shape, generator=g))).all())


@pytest.mark.parametrize("guaranteed", [False, True])
def test_moduli_and_strains_scale_exactly(guaranteed):
    model, cell, load = random_network(passes=2), labels(), torch.tensor([1.0, 0.5, 0, 0, -2, 0])
    one = rlnlib.predict(model, cell, phases=PHASES, macroscopic_strain=load, guaranteed=guaranteed)
    stiffer = [(1024 * young, nu) for young, nu in PHASES]
    other = rlnlib.predict(model, cell, phases=stiffer, macroscopic_strain=load / 8, guaranteed=guaranteed)
    # Powers of two change no bit.
    assert torch.equal(one.strain, 8 * other.strain)
    assert torch.allclose(128 * one.stress, other.stress, rtol=1e-13, atol=0)
    assert torch.allclose(16 * one.energy_bounds, other.energy_bounds, rtol=1e-12)
    odd = [(3e9 * young, nu) for young, nu in PHASES]
    third = rlnlib.predict(model, cell, phases=odd, macroscopic_strain=load, guaranteed=guaranteed)
    assert float((third.strain - one.strain).abs().max()) < 1e-4 * float(one.strain.abs().max())


@pytest.mark.parametrize("shape", [(2, 6, 6, 6), (1, 5, 7, 5), (2, 8, 5, 6), (1, 2, 4, 6)])
def test_strain_is_compatible_and_has_its_mean_whatever_the_weights_are(shape):
    load = torch.tensor([0.3, -1, 0.2, 0.7, 0, 1.1], dtype=torch.float64)
    model = random_network(passes=2, size=1.0)
    solution = rlnlib.predict(model, labels(shape), phases=PHASES, macroscopic_strain=load)
    assert solution.displacement.shape == (shape[0], 3, *shape[1:])
    assert float((solution.strain.mean((2, 3, 4)) - load).abs().max()) < 1e-12
    assert float(solution.displacement.mean((2, 3, 4)).abs().max()) < 1e-12 * float(solution.displacement.abs().max())
    assert float((solution.strain - load.view(1, 6, 1, 1, 1)).abs().max()) > 0.01  # there is something to check
    # Compatible: the strain of a displacement. Its part along the normal of each face, du_x/dx and so on, adds up to
    # its mean along every line of voxels that is averaged over the transverse plane.
    mean = solution.strain[:, 0].mean((2, 3))
    recovered = solution.displacement[:, 0].roll(-1, 1).mean((2, 3)) - solution.displacement[:, 0].mean((2, 3))
    assert torch.allclose(mean, load[0] + recovered, atol=1e-10)


def test_shifts_by_an_even_number_of_voxels_commute_and_odd_ones_do_not():
    model, cell = random_network(passes=2, size=0.5), labels((1, 6, 8, 4))
    here = rlnlib.predict(model, cell, phases=PHASES).strain
    there = rlnlib.predict(model, cell.roll((2, -4, 2), (1, 2, 3)), phases=PHASES).strain
    change = float((here - AXIAL.view(1, 6, 1, 1, 1)).abs().max())
    assert float((there - here.roll((2, -4, 2), (2, 3, 4))).abs().max()) < 1e-4 * change
    odd = rlnlib.predict(model, cell.roll(1, 1), phases=PHASES).strain
    assert float((odd - here.roll(1, 2)).abs().max()) > 1e-3 * change


def test_loads_add_up_and_turn_with_the_axes():
    model, cell = random_network(passes=2), labels((1, 6, 4, 8))
    unit = [rlnlib.predict(model, cell, phases=PHASES, macroscopic_strain=e).strain for e in torch.eye(6)]
    load = torch.tensor([0.3, -1, 0.2, 0.7, 0, 1.1], dtype=torch.float64)
    whole = rlnlib.predict(model, cell, phases=PHASES, macroscopic_strain=load).strain
    assert torch.allclose(whole, sum(x * e for x, e in zip(load, unit, strict=True)), atol=1e-12)
    turned = rlnlib.predict(model, cell.transpose(1, 2), phases=PHASES).strain  # x and y exchanged
    assert torch.allclose(turned[:, 0], unit[1][:, 1].transpose(1, 2), atol=1e-12)
    turned = rlnlib.predict(model, cell.transpose(1, 3), phases=PHASES, macroscopic_strain=torch.eye(6)[5]).strain
    assert torch.allclose(turned[:, 5], unit[3][:, 3].transpose(1, 3), atol=1e-12)


def test_no_prediction_has_more_energy_than_the_macroscopic_strain():
    model = random_network(size=3.0)
    upper = rlnlib.predict(model, labels((4, 6, 6, 6)), phases=PHASES).energy_bounds[:, 1]
    uniform = rlnlib.predict(informed.InformedRLN(), labels((4, 6, 6, 6)), phases=PHASES).energy_bounds[:, 1]
    assert bool((upper < uniform).all())
    cells = random_cells((4, 6, 6, 6))
    assert bool((cells.energy(model(cells)) > cells.energy(torch.zeros_like(cells.problem.rhs))).all())


def test_each_cell_is_predicted_as_if_it_were_alone():
    model, cell = random_network(passes=2), labels((3, 6, 6, 6))
    together = rlnlib.predict(model, cell, phases=PHASES)
    alone = rlnlib.predict(model, cell[1], phases=PHASES)
    assert torch.allclose(together.strain[1], alone.strain[0], atol=1e-5)
    assert torch.allclose(together.energy_bounds[1], alone.energy_bounds[0], rtol=1e-5)


def test_prediction_goes_on_to_the_solution():
    cell, load = labels((2, 6, 6, 6)), torch.tensor([1.0, 0, 0, 0, 0, 0.5])
    truth = rlnlib.solve_strain(cell, phases=PHASES, macroscopic_strain=load, rtol=1e-11)
    model = random_network()
    solved = rlnlib.predict(model, cell, phases=PHASES, macroscopic_strain=load, rtol=1e-9)
    assert bool(solved.converged.all()) and float((solved.strain - truth.strain).abs().max()) < 1e-7
    energy = truth.effective_stress @ load.double()
    near = rlnlib.predict(model, cell, phases=PHASES, macroscopic_strain=load, energy_rtol=1e-3)
    lower, upper = near.energy_bounds.unbind(1)
    assert bool(near.converged.all()) and bool((upper - lower <= 1e-3 * upper).all())
    assert bool((lower <= energy).all()) and bool((energy <= upper).all())
    assert 0 < int(near.iterations.max()) < int(solved.iterations.min())
    with pytest.warns(RuntimeWarning, match="max_iterations"):
        short = rlnlib.predict(model, cell, phases=PHASES, energy_rtol=1e-9, max_iterations=2)
    assert not bool(short.converged.any())


def test_a_homogeneous_cell_and_no_strain_have_exact_answers():
    model = random_network()
    solution = rlnlib.predict(model, torch.zeros(1, 4, 4, 4, dtype=torch.int64), 10.0, macroscopic_strain=[0] * 6)
    assert float(solution.strain.abs().max()) == 0 and bool(solution.converged.all())
    cells = informed.Cells(torch.ones(1, 4, 4, 4), torch.full((1, 4, 4, 4), 0.3), AXIAL)
    assert float(cells.problem.rhs.abs().max()) == 0


def test_bfloat16_and_float32_predict_nearly_alike():
    model, cell = random_network(passes=2), labels((2, 6, 6, 6))
    full = rlnlib.predict(model, cell, phases=PHASES)
    reduced = rlnlib.predict(model, cell, phases=PHASES, network_dtype=torch.bfloat16)
    change = (full.strain - AXIAL.view(1, 6, 1, 1, 1)).norm()
    assert 0 < float((reduced.strain - full.strain).norm()) < 0.05 * float(change)


def test_wrong_arguments_are_refused():
    model, cell = informed.InformedRLN(passes=1), labels(phases=2)
    with pytest.raises(ValueError, match="not both"):
        rlnlib.predict(model, cell, 10.0, rtol=1e-3, energy_rtol=1e-3)
    with pytest.raises(ValueError, match="energy_rtol"):
        rlnlib.predict(model, cell, 10.0, energy_rtol=-1.0)
    with pytest.raises(ValueError, match="proximal"):
        informed.InformedRLN(proximal="unknown")


def test_the_certificate_holds_for_any_field_and_tightens_with_the_iterations():
    g = torch.Generator().manual_seed(5)
    for seed in range(6):
        cell = labels((40, 4, 6, 4), seed=seed)
        phases = [(float(100 ** torch.rand((), generator=g)), float(0.45 * torch.rand((), generator=g)))] * (seed % 2)
        phases += [
            (float(100 ** torch.rand((), generator=g)), float(0.6 * torch.rand((), generator=g) - 0.15))
            for _ in range(3 - len(phases))
        ]
        load = torch.randn(6, generator=g, dtype=torch.float64)
        energy = rlnlib.solve_strain(cell, phases=phases, macroscopic_strain=load, rtol=1e-10).effective_stress @ load
        widths = []
        for tolerance in (None, 1e-1, 1e-4):
            model = random_network(seed, passes=1, proximal="three-layer", size=0.02 * seed)
            solution = rlnlib.predict(model, cell, phases=phases, macroscopic_strain=load, rtol=tolerance)
            lower, upper = solution.energy_bounds.unbind(1)
            rounding = 1e-9 * energy
            assert bool((lower <= energy + rounding).all()) and bool((energy <= upper + rounding).all())
            widths.append(((upper - lower) / energy).max())
        assert widths[2] < 1e-5 and widths[2] < widths[1] < widths[0]


def test_the_certificate_fails_for_a_medium_that_is_too_stiff():
    """So the bound is no mere slackness: the same with the stiffest phase excludes the truth."""
    cell, phases = labels((20, 6, 6, 6), phases=2), [(1.0, 0.3), (50.0, 0.3)]
    truth = rlnlib.solve_strain(cell, phases=phases, rtol=1e-10)
    solution = rlnlib.predict(informed.InformedRLN(), cell, phases=phases)
    lower, upper = solution.energy_bounds.unbind(1)
    wrong = upper - (upper - lower) / 50
    assert bool((wrong > truth.effective_stress[:, 0]).any())


@pytest.mark.parametrize("hostile", ["random", "huge", "uphill", "nan", "repeated", "tiny"])
def test_a_guarded_pass_is_never_worse_than_conjugate_gradients_whatever_the_weights_are(hostile):
    cells = random_cells((3, 6, 4, 6), dtype=torch.float64, contrast=300.0)
    problem, model = cells.problem, random_network(passes=8, size=1.0)
    propose = {
        "random": lambda number: lambda u, residual: model.direction(number, cells, u),
        "huge": lambda number: lambda u, residual: 1e30 * model.direction(number, cells, u, residual=residual),
        "uphill": lambda number: lambda u, residual: -problem.precondition(residual),
        "nan": lambda number: lambda u, residual: torch.full_like(u, torch.nan),
        "repeated": lambda number: lambda u, residual: problem.rhs,
        "tiny": lambda number: lambda u, residual: 1e-300 * problem.rhs,
    }[hostile]
    start = torch.zeros_like(problem.rhs)
    guarded = [cells.energy(u) for u in certificate.guarded_steps(problem, start, [propose(n) for n in range(8)])]
    alone = [cells.energy(u) for u in certificate.guarded_steps(problem, start, [None] * 8)]
    for number, (here, there) in enumerate(zip(guarded, alone, strict=True)):
        assert bool((here <= there * (1 + 1e-12)).all()), number
    if hostile == "random":
        assert bool((guarded[0] < alone[0]).all())  # what is proposed is used


def test_a_proposal_is_handed_the_residual_of_the_iterate():
    cells, seen = random_cells((2, 6, 4, 6), dtype=torch.float64), []

    def propose(u, residual):
        seen.append(float((residual - cells.residual(u)).abs().max() / cells.problem.rhs.abs().max()))
        return residual

    list(certificate.guarded_steps(cells.problem, torch.zeros_like(cells.problem.rhs), [propose] * 6))
    assert len(seen) == 6 and max(seen) < 1e-13


@pytest.mark.parametrize("load", [(1.0, 1, 1, 0, 0, 0), (1.0, -1, 0.5, 0, 2, 0)])
def test_the_guarantee_holds_for_loads_of_several_components(load):
    """Where the sum of the guaranteed predictions for each of them may have more energy: all but one of the bulk moduli
    are equal, so that an even compression of all axes makes hardly any forces, and those of the components cancel."""
    cell, model, load = labels((6, 6, 4, 6)), random_network(passes=3, size=1.0), torch.tensor(load)
    phases = [(1.0, 0.3), (2.0, 0.1), (0.26, 0.45)]
    whole = rlnlib.predict(model, cell, phases=phases, macroscopic_strain=load, guaranteed=True).displacement
    parts = [
        rlnlib.predict(model, cell, phases=phases, macroscopic_strain=load * unit, guaranteed=True).displacement
        for unit in torch.eye(6)[load != 0]
    ]
    cells = cell_problem(cell, macroscopic_strain=load, phases=phases)
    problem = VoxelProblem(cells, GreenOperator(cells.shape, "bbar", *certificate.softest_medium(phases)))

    def energy(u):
        return solvers.inner(u, problem.apply(u) / 2 - problem.rhs)

    *_, alone = certificate.guarded_steps(problem, torch.zeros_like(problem.rhs), [None] * 3)
    assert bool((energy(whole) < energy(alone)).all())
    assert bool((energy(sum(parts)) > energy(alone)).any()) == (load[0] == load[1])


def test_the_plain_passes_have_no_such_guarantee():
    cells, model = random_cells((3, 6, 4, 6), dtype=torch.float64, contrast=300.0), random_network(size=1.0)
    assert bool((cells.energy(model(cells)) > cells.energy(torch.zeros_like(cells.problem.rhs))).any())
    assert bool((cells.energy(model.guaranteed(cells)[-1]) < cells.energy(torch.zeros_like(cells.problem.rhs))).all())
    assert len(model.guaranteed(cells, networks=[0, 0, 0])) == 3
    with pytest.raises(ValueError, match="leave passes out"):
        model.guaranteed(cells, 2, networks=[0, 0, 0])


def test_guarded_steps_without_proposals_are_conjugate_gradients():
    cells = random_cells((2, 6, 6, 4), dtype=torch.float64)
    start = torch.zeros_like(cells.problem.rhs)
    steps = list(certificate.guarded_steps(cells.problem, start, [None] * 5))
    u, _ = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-15, max_iterations=5))
    assert torch.allclose(steps[-1], u, atol=1e-9 * float(u.abs().max()))


def test_conjugate_gradients_go_on_from_a_start():
    cells = random_cells((2, 6, 6, 4), dtype=torch.float64)
    u, whole = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-10))
    again, none = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-9), start=u)
    assert torch.equal(again, u) and int(none.iterations.max()) == 0
    near, few = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-10), start=u * (1 + 1e-5))
    assert torch.allclose(near, u, atol=1e-8 * float(u.abs().max()))
    assert bool((few.iterations < whole.iterations).all())


def test_weights_come_back_from_a_file_with_what_it_says_about_them(tmp_path):
    model = random_network(passes=2, tied=True, proximal="three-layer", largest_contrast=500)
    weight_files.save_weights(tmp_path / "a.safetensors", model, recipe={"steps": 3})
    again = weight_files.load_weights(tmp_path / "a.safetensors")
    assert isinstance(again, informed.InformedRLN) and again.config == model.config
    assert again.largest_contrast == 500 and random_network().largest_contrast == math.inf
    one, two = (rlnlib.predict(m, labels(), phases=PHASES).strain for m in (model, again))
    assert torch.equal(one, two)
    assert weight_files.read_header(tmp_path / "a.safetensors")["recipe"] == {"steps": 3}
    with pytest.raises(ValueError, match="leave contrast and size out"):
        rlnlib.load_pretrained("informed", 10)


def test_beyond_the_contrast_of_the_training_a_prediction_warns_and_a_solution_does_not():
    model, cell = rlnlib.load_pretrained("informed"), labels((1, 6, 4, 6), phases=2)
    header = weight_files.pretrained_header("informed")
    assert model.largest_contrast == header["recipe"]["largest_contrast"] == 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for within in (300, 1 / 300):
            rlnlib.predict(model, cell, within)
        rlnlib.predict(model, cell, 1000, rtol=1e-4)
    for beyond in (301, 1 / 301):
        with pytest.warns(RuntimeWarning, match=r"trained up to 300: .* rtol or energy_rtol .* rlnlib\.solve_strain"):
            rlnlib.predict(model, cell, beyond)


def test_the_predicted_mean_stress_is_the_prescribed_one():
    model, cell = random_network(passes=1), labels((2, 6, 4, 6))
    free = [float("nan")] * 6
    stress = torch.tensor([[0.7, 0, 0, 0, 0, 0.2], [1.0, 0.1, -0.5, 0, 0.3, 0]])
    found = rlnlib.predict(model, cell, phases=PHASES, macroscopic_stress=stress)
    assert float((found.effective_stress - stress).abs().max()) < 1e-5
    assert not bool(found.converged.any())
    mixed = rlnlib.predict(
        model, cell, phases=PHASES, macroscopic_strain=[1.0, *free[1:]], macroscopic_stress=[free[0], 0, 0, 0.1, 0, 0]
    )
    assert float((mixed.strain[:, 0].mean((1, 2, 3)) - 1).abs().max()) < 1e-12
    assert float((mixed.effective_stress[:, 1:] - torch.tensor([0, 0, 0.1, 0, 0])).abs().max()) < 1e-5
    assert float(mixed.effective_stress[:, 0].min()) > 0.1  # it is not all zero


def test_with_a_tolerance_a_prescribed_stress_leads_to_the_solution():
    model, cell, stress = random_network(passes=1), labels((1, 4, 4, 6)), (1.0, 0, 0, 0, 0, 0.5)
    truth = rlnlib.solve_strain(cell, phases=PHASES, macroscopic_stress=stress, rtol=1e-10)
    found = rlnlib.predict(model, cell, phases=PHASES, macroscopic_stress=stress, rtol=1e-9)
    assert bool(found.converged.all())
    assert float((found.strain - truth.strain).abs().max()) < 1e-6 * float(truth.strain.abs().max())
    rough = rlnlib.predict(model, cell, phases=PHASES, macroscopic_stress=stress)
    assert float((rough.strain - truth.strain).abs().max()) > 1e-3 * float(truth.strain.abs().max())


def test_the_edge_of_a_voxel_scales_the_displacement_and_cubes_alone_are_taken():
    model, cell = random_network(passes=1), labels((1, 4, 6, 4))
    one, other = (rlnlib.predict(model, cell, phases=PHASES, spacing=(e, e, e)) for e in (1, 0.25))
    assert torch.equal(one.displacement, 4 * other.displacement) and torch.equal(one.strain, other.strain)
    with pytest.raises(ValueError, match=r"three equal edges.*solve_strain"):
        rlnlib.predict(model, cell, phases=PHASES, spacing=(1, 1, 2))
    with pytest.raises(ValueError, match="11 have both or neither"):
        rlnlib.predict(
            model, cell, phases=PHASES, macroscopic_strain=[1.0] + [float("nan")] * 5, macroscopic_stress=[0.0] * 6
        )


CHOICES = [(residual, answer) for residual in informed.RESIDUALS for answer in informed.ANSWERS]


@pytest.mark.parametrize(("residual", "answer"), CHOICES)
def test_every_choice_of_what_a_pass_is_told_and_answers_is_trained_and_stays_exact(residual, answer, tmp_path):
    model = random_network(passes=2, proximal="three-layer", residual=residual, answer=answer)
    cells = random_cells()
    loss = informed.energy_loss(model(cells, return_iterates=True), cells)
    loss.backward()
    assert all(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.dim() > 1)
    load = torch.tensor([0.3, -1, 0.2, 0.7, 0, 1.1], dtype=torch.float64)
    solution = rlnlib.predict(model, labels(), phases=PHASES, macroscopic_strain=load)
    assert float((solution.strain.mean((2, 3, 4)) - load).abs().max()) < 1e-12
    weight_files.save_weights(tmp_path / "w.safetensors", model)
    again = weight_files.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(
        rlnlib.predict(again, labels(), phases=PHASES).strain, rlnlib.predict(model, labels(), phases=PHASES).strain
    )


@pytest.mark.parametrize("answer", informed.ANSWERS)
def test_told_the_relative_residual_every_pass_leaves_the_solution_alone(answer):
    cells = random_cells(dtype=torch.float64)
    u, _ = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-11))
    size = float(cells.strain_of(u).norm())
    moved = {}
    for residual in ("relative", "absolute"):
        model = random_network(passes=1, size=1.0, residual=residual, answer=answer)
        moved[residual] = float(cells.strain_of(model.direction(0, cells, u).detach()).norm()) / size
    assert moved["relative"] < 1e-7 and moved["absolute"] > 1e-3


@pytest.mark.parametrize("answer", informed.ANSWERS)
def test_the_gradient_through_the_passes_against_finite_differences(answer):
    """That of the polarization's field and of the residual's norm, too."""
    cells = random_cells((1, 4, 3, 2), dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    u = torch.randn(cells.problem.rhs.shape, generator=g, dtype=torch.float64, requires_grad=True)
    stress = torch.randn(1, 6, 4, 3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    if answer == "polarization":
        assert torch.autograd.gradcheck(cells.of_polarization, stress)
    else:
        assert torch.autograd.gradcheck(lambda u: _ResidualNorm.apply(u, cells), u)


def test_losses_weigh_passes_and_the_labels_are_those_of_the_loaded_component():
    cells = random_cells(load=torch.tensor([[0, 0, 0, 0, 0, 1.0]]).expand(2, 6))
    zero = torch.zeros_like(cells.problem.rhs)
    u, _ = conjugate_gradient(cells.problem, solvers.StoppingRule(1e-6))
    for loss in (informed.energy_loss, informed.residual_loss):
        first, last = loss([zero], cells), loss([u], cells)
        assert float(last) < float(first)
        assert torch.allclose(loss([zero, u], cells, [1.0, 3.0]), (first + 3 * last) / 4)
        assert torch.allclose(loss([zero, u], cells), (first + last) / 2)
    mase = rlnlib.mase(torch.ones_like(cells.strain(u)[:, 5]), cells.strain(u)[:, 5]).mean() / 100
    assert torch.allclose(informed.strain_loss([zero, u], cells, u, [1.0, 0.0]), mase.float(), rtol=1e-4)
    assert float(informed.strain_loss([u], cells, u)) == 0
