"""A cell for, by and from the program FANS: what outgrows one machine goes to an engine that runs on many.

FANS is a C++ program with MPI and the same trilinear elements on voxels (``BBAR``, ``HEX8``); conda-forge has it. It
reads ``case.json`` and a cell in HDF5, and writes its fields to HDF5. Its arrays have the axes z, y, x, and its Mandel
order is 11, 22, 33, 12, 13, 23; ours are x, y, z and 11, 22, 33, 23, 13, 12. The stress is computed here from the
strain (eq. 1), since both are means over a voxel of one material.

    from rlnlib import fans
    fans.write("case", cell, contrast=50)   # then on a cluster: mpirun -n 64 FANS case.json result.h5
    fans.run("case", ranks=4)               # or here, where the program is
    solution = fans.read("case")
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import torch

from rlnlib import _checks, elasticity, problem
from rlnlib._files import replacing, write_atomically, writing
from rlnlib.method import first_strain, split_load
from rlnlib.solution import Solution

CASE, CELL, RESULT = "case.json", "cell.h5", "result.h5"
#: Planes of voxels along x that FANS wants in each of its processes.
PLANES = 4
#: Where each of our Mandel components stands in FANS's order; it is its own inverse.
_ORDER = [0, 1, 2, 5, 4, 3]
_ELEMENTS = {"bbar": "BBAR", "hex8": "HEX8"}


def write(
    folder,
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=None,
    discretization: str = "bbar",
    rtol: float = 1e-8,
    max_iterations: int = 2000,
    phases: list[tuple[float, float]] | None = None,
    macroscopic_stress=None,
    spacing=(1, 1, 1),
) -> Path:
    """Write one cell and its load as a case of FANS.

    Where N1, N2 and N3 / 2 + 1 are all odd, FANS's preconditioner leaves out one frequency: the field is right, after
    several times the iterations. A plane more or less mends that.

    Args:
        folder: receives ``case.json`` and ``cell.h5``.
        stiff: (N1, N2, N3), bool or 0/1, or integer labels with ``phases``; N1 at least 4, N3 even.
        contrast, poisson, phases, max_iterations: as in :func:`rlnlib.solve_strain`.
        macroscopic_strain, macroscopic_stress, spacing: likewise.
        discretization: "bbar" or "hex8".
        rtol: FANS's own tolerance, relative, of the L2 norm of the residual.

    Returns:
        the path of ``case.json``.

    Raises:
        ValueError: an argument is wrong, or the cell has an odd number of voxels along its last axis, or fewer than 4
            along its first.
        OSError: the folder cannot be written.
    """
    folder = _checks.as_path(folder, "folder")
    load = first_strain(macroscopic_strain, macroscopic_stress)
    cell = problem.cell_problem(stiff, contrast, poisson, load, phases, spacing)
    if len(cell) != 1:
        raise ValueError(f"stiff must be one cell; it holds {len(cell)}. Write each into a folder of its own.")
    if cell.stiffness is not None:
        raise ValueError("phases must be (young, poisson) pairs: a case of isotropic phases is what is written here.")
    if cell.shape[2] % 2:
        raise ValueError(
            f"stiff has {cell.shape[2]} voxels along axis 2, but FANS needs an even number along z: on an odd one its "
            f"Fourier transform gives a wrong field. Turn the cell, or cut off a plane."
        )
    if cell.shape[0] < PLANES:
        raise ValueError(
            f"stiff has {cell.shape[0]} voxels along axis 0, but FANS needs {PLANES} or more along x: turn the cell, "
            f"or repeat it."
        )
    if macroscopic_stress is None:
        strain, stress, of_stress = cell.macroscopic_strain, cell.macroscopic_strain, torch.zeros(6, dtype=torch.bool)
    else:
        strain, stress, of_stress = split_load(macroscopic_strain, macroscopic_stress, 1)
    case = {
        "microstructure": {
            "filepath": CELL,
            "datasetname": "/labels",
            "L": [n * edge for n, edge in zip(cell.shape, cell.spacing, strict=True)],
        },
        "problem_type": "mechanical",
        "strain_type": "small",
        "materials": [
            {
                "phases": list(range(len(cell.phases))),
                "matmodel": "LinearElasticIsotropic",
                "material_properties": {
                    "bulk_modulus": [young / (3 * (1 - 2 * nu)) for young, nu in cell.phases],
                    "shear_modulus": [young / (2 * (1 + nu)) for young, nu in cell.phases],
                },
            }
        ],
        "FE_type": _ELEMENTS[_checks.one_of("discretization", discretization, _ELEMENTS)],
        "method": "cg",
        "error_parameters": {"measure": "L2", "type": "relative", "tolerance": _checks.positive("rtol", rtol)},
        "n_it": _checks.positive_integer("max_iterations", max_iterations),
        "macroscale_loading": [_loading(strain[0], stress[0], of_stress)],
        "results": ["strain", "stress_average", "strain_average", "displacement_fluctuation", "absolute_error"],
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CELL) as partial, h5py.File(partial, "w") as file:
            file["labels"] = cell.labels[0].cpu().numpy().T.astype(np.uint16)  # [z][y][x]
        write_atomically(folder / CASE, (json.dumps(case, indent=1) + "\n").encode())
    return folder / CASE


def run(folder, ranks: int = 1, program: str = "FANS") -> Path:
    """Run FANS on the case of a folder, with ``ranks`` processes of MPI.

    Returns:
        the path of ``result.h5``.

    Raises:
        FileNotFoundError: the program, or ``mpirun``, or a file of the case is not there.
        ValueError: the cell has too few voxels along its first axis for so many processes.
        OSError: FANS fails; the message ends with what it said of the reason.
    """
    folder, ranks = _checks.as_path(folder, "folder"), _checks.positive_integer("ranks", ranks)
    for name in (CASE, CELL):
        if not (folder / name).exists():
            raise FileNotFoundError(f"No {name} in {folder}: write it with rlnlib.fans.write.")
    with h5py.File(folder / CELL, "r") as file:
        planes = file["labels"].shape[2]  # [z][y][x]
    if planes - (ranks - 1) * math.ceil(planes / ranks) < PLANES:  # what is left for the last process
        raise ValueError(
            f"ranks={ranks} is too many: FANS gives each process {PLANES} or more planes of voxels along x, of which "
            f"the cell has {planes}."
        )
    command = [program, CASE, RESULT] if ranks == 1 else ["mpirun", "-n", str(ranks), program, CASE, RESULT]
    for name in (program, command[0]):
        if shutil.which(name) is None:
            raise FileNotFoundError(
                f"The program {name} is not found: `conda install -c conda-forge fans` brings FANS and MPI; or copy "
                f"{folder} to where it is, and run `mpirun -n N FANS {CASE} {RESULT}` there."
            )
    (folder / RESULT).unlink(missing_ok=True)  # FANS adds to a file that is there
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode or not (folder / RESULT).exists():
        words = " ".join((done.stdout + done.stderr).partition("what():")[2].split())[:300]  # an exception of its own
        words = words or " ".join((done.stdout + done.stderr).split())[-300:]
        raise OSError(f"{' '.join(command)} in {folder} failed with the exit code {done.returncode}: {words}")
    return folder / RESULT


def read(folder, result: str = RESULT) -> Solution:
    """The result of FANS for the case of a folder, as :func:`rlnlib.solve_strain` gives it, in float64.

    ``residual`` is the last of ``residuals``, which FANS carries along, not one computed again. ``converged`` says that
    it is within FANS's tolerance, the fields are finite and their means the prescribed ones. Where the case did not ask
    FANS for displacement and errors, ``iterations`` is -1, and NaN stands in the place of the others.

    Returns:
        :class:`rlnlib.Solution` of a batch of one cell.

    Raises:
        FileNotFoundError, OSError: a file of the case is missing or damaged, or holds no result of this case.
    """
    folder = _checks.as_path(folder, "folder")
    for name in (CASE, result):
        if not (folder / name).exists():
            raise FileNotFoundError(f"No {name} in {folder}: fans.write makes {CASE}, and FANS the result.")
    try:
        case = json.loads((folder / CASE).read_text(encoding="utf-8"))
        about, (material,), (loading, *_) = case["microstructure"], case["materials"], case["macroscale_loading"]
        bulk, shear = (material["material_properties"][f"{name}_modulus"] for name in ("bulk", "shear"))
        with h5py.File(folder / about["filepath"], "r") as file:
            labels = file[about["datasetname"]][()].T.astype(np.int64)  # (x, y, z)
        with h5py.File(folder / result, "r") as file:
            found = file[f"{about['datasetname'].strip('/')}_results/load0/time_step0"]
            strain = found["strain"][()].T[_ORDER].astype(np.float64)  # (6, x, y, z)
            displacement = np.full((3, *labels.shape), math.nan)
            if "displacement_fluctuation" in found:
                displacement = found["displacement_fluctuation"][()].T.astype(np.float64)  # (3, x, y, z)
            errors = found["absolute_error"][()] if "absolute_error" in found else None
        if strain.shape != (6, *labels.shape) or displacement.shape != (3, *labels.shape):
            raise ValueError(f"its strain has the shape {strain.shape}, the cell {labels.shape}")
        tolerance, kind = case["error_parameters"]["tolerance"], case["error_parameters"]["type"]
        numbers = {int(number): place for place, number in enumerate(material["phases"])}
        places = np.vectorize(numbers.__getitem__, otypes=[np.int64])(labels)
        mean_strain, mean_stress = _prescribed(loading)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise OSError(
            f"{folder} holds no case with one isotropic result of FANS that can be read ({reason})."
        ) from error
    k, mu = (torch.tensor(moduli, dtype=torch.float64)[torch.from_numpy(places)] for moduli in (bulk, shear))
    fields = torch.from_numpy(np.ascontiguousarray(strain))[None]
    stress = elasticity.hooke(fields, k - 2 * mu / 3, mu)
    effective = stress.mean((2, 3, 4))
    missed = torch.stack(
        [
            (fields.mean((2, 3, 4)) - mean_strain)[:, ~mean_strain.isnan()].abs().sum() / (1e-300 + fields.abs().max()),
            (effective - mean_stress)[:, ~mean_stress.isnan()].abs().sum() / (1e-300 + stress.abs().max()),
        ]
    )
    within, residuals = True, torch.full((1, 1), math.nan, dtype=torch.float64)
    if errors is not None:
        within = bool(errors[-1] <= tolerance * (errors[0] if kind == "relative" else 1))
        residuals = torch.from_numpy(errors / max(errors[0], 1e-300))[None]
    return Solution(
        strain=fields,
        stress=stress,
        effective_stress=effective,
        displacement=torch.from_numpy(np.ascontiguousarray(displacement))[None],
        converged=(missed < 1e-6).all()[None] & torch.isfinite(fields).all() & within,
        iterations=torch.tensor([-1 if errors is None else len(errors) - 1]),
        residuals=residuals,
        residual=residuals[:, -1],
    )


def _loading(strain: torch.Tensor, stress: torch.Tensor, of_stress: torch.Tensor):
    """The load in FANS's form: a list of steps, or strain and stress by the numbers of their components."""
    strain, stress, of_stress = strain[_ORDER], stress[_ORDER], of_stress[_ORDER]
    if not bool(of_stress.any()):
        return [strain.tolist()]
    return {
        "strain_indices": torch.nonzero(~of_stress).flatten().tolist(),
        "stress_indices": torch.nonzero(of_stress).flatten().tolist(),
        "strain": [strain[~of_stress].tolist()],
        "stress": [stress[of_stress].tolist()],
    }


def _prescribed(loading) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of :func:`_loading`: mean strain and stress in our order, NaN where they are not prescribed."""
    strain, stress = np.full(6, math.nan), np.full(6, math.nan)
    if isinstance(loading, dict):
        strain[loading["strain_indices"]], stress[loading["stress_indices"]] = (
            loading["strain"][0],
            loading["stress"][0],
        )
    else:
        strain[:] = loading[0]
    return torch.from_numpy(strain[_ORDER]), torch.from_numpy(stress[_ORDER])
