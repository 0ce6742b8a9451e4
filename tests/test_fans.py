"""Cells that go to the program FANS and come back: its files, its axes, its order of components."""

import dataclasses
import json
import os
import shutil
import stat

import h5py
import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import fans


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice([0, 1, 2], (4, 5, 6))


PHASES = [(1.0, 0.3), (5.0, 0.2), (20.0, 0.35)]


def fake_result(folder, solution):
    """What FANS writes, from a solution of ours."""
    strain = solution.strain[0].numpy()[[0, 1, 2, 5, 4, 3]].T  # [z][y][x][component]
    prefix = json.loads((folder / "case.json").read_text())["results_prefix"]
    with h5py.File(folder / "result.h5", "w") as file:
        step = file.create_group(f"labels_results/{prefix}/load0/time_step0")
        step["strain"] = strain
        step["displacement_fluctuation"] = solution.displacement[0].numpy().T
        step["absolute_error"] = 7 * solution.residuals[0].numpy()


@pytest.mark.reference
def test_a_run_of_fans_is_read_in_our_axes_and_our_order(reference_data):
    solution = fans.read(reference_data / "fans_case")
    known = np.load(reference_data / "fans_fields.npz")
    assert np.abs(solution.strain[0].numpy() - known["uniaxial_stress/strain"]).max() < 1e-12
    assert np.abs(solution.effective_stress[0].numpy() - known["uniaxial_stress/mean_stress"]).max() < 1e-9
    with h5py.File(reference_data / "fans_case" / "result.h5") as file:
        theirs = file["labels_results/load0/time_step0/stress_average"][:][[0, 1, 2, 5, 4, 3]]
    assert np.abs(solution.effective_stress[0].numpy() - theirs).max() < 1e-9
    assert bool(solution.converged) and solution.iterations.tolist() == [-1]


@pytest.mark.reference
def test_our_solver_has_the_field_of_fans_under_the_same_mixed_load(reference_data):
    theirs, nan = fans.read(reference_data / "fans_case"), float("nan")
    known = np.load(reference_data / "fans_fields.npz")
    ours = rlnlib.solve_strain(
        known["uniaxial_stress/labels"],
        phases=known["uniaxial_stress/phases"],
        macroscopic_strain=(1, nan, nan, nan, nan, nan),
        macroscopic_stress=(nan, 0, 0, 0, 0, 0),
        dtype=torch.float64,
        rtol=1e-11,
    )
    assert (ours.strain - theirs.strain).abs().max() < 1e-8
    assert (ours.stress - theirs.stress).abs().max() < 1e-6


@pytest.mark.reference
def test_a_case_that_is_written_is_the_case_that_fans_ran(reference_data, tmp_path):
    with h5py.File(reference_data / "fans_case" / "cell.h5") as file:
        theirs = file["labels"][:]
    nan = float("nan")
    fans.write(
        tmp_path,
        theirs.T,
        contrast=50.0,
        macroscopic_strain=(1, nan, nan, nan, nan, nan),
        macroscopic_stress=(nan, 0, 0, 0, 0, 0),
        rtol=1e-10,
        max_iterations=3000,
        spacing=(1 / 16,) * 3,
    )
    written, ran = (
        json.loads((folder / "case.json").read_text()) for folder in (tmp_path, reference_data / "fans_case")
    )
    for case in (written, ran):
        (material,) = case["materials"]
        wanted = set(case.pop("results"))
        case.pop("results_prefix", None)
        assert wanted >= {"strain", "stress_average"}
        case["moduli"] = [np.round(values, 12).tolist() for values in material.pop("material_properties").values()]
    assert written == ran
    with h5py.File(tmp_path / "cell.h5") as file:
        assert np.array_equal(file["labels"][:], theirs) and file["labels"].dtype == np.uint16


def test_a_cell_goes_there_and_back(labels, tmp_path):
    load = (1.0, 0.2, -0.3, 0.4, 0.5, 0.6)
    fans.write(tmp_path, labels, phases=PHASES, macroscopic_strain=load, discretization="hex8", spacing=(1, 2, 3))
    case = json.loads((tmp_path / "case.json").read_text())
    assert case["microstructure"]["L"] == [4, 10, 18] and case["FE_type"] == "HEX8"
    assert case["macroscale_loading"] == [[[1.0, 0.2, -0.3, 0.6, 0.5, 0.4]]]
    solution = rlnlib.solve_strain(labels, phases=PHASES, macroscopic_strain=load, rtol=1e-10)
    fake_result(tmp_path, solution)
    back = fans.read(tmp_path)
    for name in ("strain", "stress", "effective_stress", "displacement", "residuals"):
        assert torch.allclose(getattr(back, name), getattr(solution, name), atol=1e-12)
    assert bool(back.converged) and back.iterations.tolist() == solution.iterations.tolist()
    other = rlnlib.solve_strain(labels, phases=PHASES, macroscopic_strain=(1, 0, 0, 0, 0, 0))
    few = dataclasses.replace(solution, residuals=solution.residuals[:, :3])
    for wrong in (other, few):  # of another load; of FANS with too few iterations
        fake_result(tmp_path, wrong)
        with pytest.warns(RuntimeWarning, match=r"is no solution: FANS came to a residual of .* after \d+ iterations"):
            assert not bool(fans.read(tmp_path).converged)


def test_the_result_of_another_case_is_refused(labels, tmp_path):
    fans.write(tmp_path, labels, phases=PHASES)
    fake_result(tmp_path, rlnlib.solve_strain(labels, phases=PHASES, rtol=1e-10))
    fans.read(tmp_path)
    for change in ({"discretization": "hex8"}, {"spacing": (1, 1, 2)}, {"phases": PHASES[::-1]}, {"stiff": labels % 2}):
        fans.write(tmp_path, **{"stiff": labels, "phases": PHASES, **change})
        with pytest.raises(OSError, match=r"result\.h5 has no .* of another case, so run FANS again"):
            fans.read(tmp_path)


def test_labels_that_occur_are_numbered_from_zero(labels, tmp_path):
    """FANS takes others for places beyond its table, and numbers above 65535 do not fit into its file."""
    phases = [(1.0, 0.3)] * 70_000
    phases[3], phases[-1] = (5.0, 0.2), (20.0, 0.35)
    many = np.where(labels == 1, 3, np.where(labels == 2, len(phases) - 1, 10))
    fans.write(tmp_path, many, phases=phases)
    (material,) = json.loads((tmp_path / "case.json").read_text())["materials"]
    assert material["phases"] == [0, 1, 2]
    assert material["material_properties"]["shear_modulus"] == pytest.approx([5 / 2.4, 1 / 2.6, 20 / 2.7])
    fake_result(tmp_path, solution := rlnlib.solve_strain(many, phases=phases, rtol=1e-10))
    assert torch.allclose(fans.read(tmp_path).stress, solution.stress, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda case: case["materials"][0].update(matmodel="J2Plasticity"),
        lambda case: case.update(strain_type="large"),
        lambda case: case.update(FE_type="HEX8R"),
        lambda case: case["macroscale_loading"][0].append([0.0] * 6),
        lambda case: case["macroscale_loading"].append([[0.0] * 6]),
        lambda case: case.update(macroscale_loading=[[[]]]),
        lambda case: case["materials"][0]["material_properties"].update(bulk_modulus=[1.0]),
        lambda case: case["error_parameters"].update(tolerance="small"),
    ],
)
def test_cases_of_another_kind_are_refused_with_their_folder(change, labels, tmp_path):
    fans.write(tmp_path, labels, phases=PHASES)
    fake_result(tmp_path, rlnlib.solve_strain(labels, phases=PHASES))
    case = json.loads((tmp_path / "case.json").read_text())
    change(case)
    (tmp_path / "case.json").write_text(json.dumps(case))
    with pytest.raises(OSError, match=r"holds no case with one isotropic result") as refusal:
        fans.read(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_an_odd_number_of_voxels_along_z_is_refused(labels, tmp_path):
    with pytest.raises(ValueError, match=r"5 voxels along axis 2.*even number along z"):
        fans.write(tmp_path / "case", labels.swapaxes(1, 2), phases=PHASES)
    assert not (tmp_path / "case").exists()


def test_processes_without_planes_of_their_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"3 voxels along axis 0, but FANS needs 4"):
        fans.write(tmp_path / "case", np.eye(3, 4, dtype=int)[..., None].repeat(2, 2), contrast=2.0)
    with pytest.raises(ValueError, match=r"5 voxels along axis 0 and 8 along axis 2.*leave out a frequency"):
        fans.write(tmp_path / "case", np.eye(5, 8, dtype=int)[:, None].repeat(2, 1), contrast=2.0)
    assert not (tmp_path / "case").exists()
    fans.write(tmp_path, np.eye(13, 2, dtype=int)[..., None].repeat(2, 2), contrast=2.0)
    for ranks in (3, 4, 13):  # of 3 the last would have 3 planes
        with pytest.raises(ValueError, match=rf"ranks={ranks} is too many.* has 13"):
            fans.run(tmp_path, ranks=ranks)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"macroscopic_stress": (0,) * 6, "macroscopic_strain": (1,) * 6}, "macroscopic_stress"),
        ({"macroscopic_strain": (float("nan"),) * 6}, "macroscopic_strain"),
        ({"macroscopic_strain": (1, 0)}, "macroscopic_strain"),
        ({"stiff": np.zeros((2, 4, 4, 4), bool)}, "stiff"),
        ({"discretization": "rotated"}, "discretization"),
        ({"spacing": (1, 1)}, "spacing"),
        ({"spacing": (1, 1, 0)}, "spacing"),
        ({"rtol": 0}, "rtol"),
        ({"folder": 3}, "folder"),
    ],
)
def test_odd_arguments_are_refused_by_name(change, name, tmp_path):
    arguments = {"folder": tmp_path, "stiff": np.eye(4, dtype=bool)[None].repeat(4, 0), "contrast": 2.0, **change}
    with pytest.raises(ValueError, match=name):
        fans.write(**arguments)


def program(folder, text):
    path = folder / "FANS"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_program_is_run_in_the_folder_and_its_failure_is_told(labels, tmp_path):
    case = tmp_path / "case"
    fans.write(case, labels, phases=PHASES)
    (case / "result.h5").write_text("of an earlier run")
    with pytest.raises(OSError, match=r"exit code 3: wrong element"):
        fans.run(case, program=program(tmp_path, "echo wrong element; exit 3"))
    assert (case / "result.h5").read_text() == "of an earlier run"
    assert fans.run(case, program=program(tmp_path, 'test "$1" = case.json && touch "$2"')).read_bytes() == b""
    with pytest.raises(OSError, match="exit code 0"):
        fans.run(case, program=program(tmp_path, "true"))
    crash = "echo before; echo 'what():  no such material' >&2; echo mpirun noticed " + "that " * 99 + ">&2; exit 134"
    with pytest.raises(OSError, match=r"exit code 134: no such material"):
        fans.run(case, program=program(tmp_path, crash))


def test_what_is_missing_is_named(labels, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fans\.write"):
        fans.run(tmp_path)
    fans.write(tmp_path, labels, phases=PHASES)
    with pytest.raises(FileNotFoundError, match=r"no-such-program is not found.*conda-forge"):
        fans.run(tmp_path, program="no-such-program")
    with pytest.raises(FileNotFoundError, match=r"No result\.h5"):
        fans.read(tmp_path)
    (tmp_path / "result.h5").write_bytes(b"x")
    with pytest.raises(OSError, match="no case"):
        fans.read(tmp_path)


@pytest.mark.skipif(shutil.which("FANS") is None, reason="the program FANS is not here")
@pytest.mark.parametrize("seed", range(8))
def test_the_program_itself_gives_our_fields(seed, tmp_path):
    random = np.random.default_rng(seed)
    along_x = random.integers(4, 14)
    shape = along_x, random.integers(2, 12), random.choice([2, 6, 10] if along_x % 2 else [2, 4, 8])
    numbers = random.integers(2, 5)
    cell = {
        "stiff": random.integers(0, numbers, shape),
        "phases": [(float(10 ** random.uniform(-1, 1)), float(random.uniform(0, 0.45))) for _ in range(numbers)],
        "macroscopic_strain": random.normal(size=6),
        "spacing": tuple(random.uniform(0.5, 2, 3)),
        "discretization": ("bbar", "hex8")[seed % 2],
    }
    if seed > 4:  # some components of the mean stress in the place of the strain's
        of_stress = random.permutation(6) < 3
        cell["macroscopic_stress"] = np.where(of_stress, random.normal(size=6), np.nan)
        cell["macroscopic_strain"][of_stress] = np.nan
    fans.write(tmp_path, rtol=1e-12, **cell)
    fans.run(tmp_path, ranks=2 if along_x >= 8 and (os.cpu_count() or 1) > 1 else 1)
    theirs, ours = fans.read(tmp_path), rlnlib.solve_strain(rtol=1e-12, dtype=torch.float64, **cell)
    for name in ("strain", "stress", "displacement"):
        field = getattr(ours, name)
        assert (getattr(theirs, name) - field).abs().max() < 1e-9 * field.abs().max()
    assert bool(theirs.converged) and float(theirs.residual) <= 1e-12
