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

import hashlib
import json
import math
import shutil
import subprocess
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
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

    Args:
        folder: receives ``case.json`` and ``cell.h5``.
        stiff: (N1, N2, N3), bool or 0/1, or integer labels with ``phases``; N1 at least 4, N3 even, and where N1 is odd
            no multiple of four.
        contrast, poisson, phases, max_iterations: as in :func:`rlnlib.solve_strain`.
        macroscopic_strain, macroscopic_stress, spacing: likewise.
        discretization: "bbar" or "hex8".
        rtol: FANS's own tolerance, relative, of the L2 norm of the residual.

    Returns:
        the path of ``case.json``.

    Raises:
        ValueError: an argument is wrong, or FANS cannot take a cell of this shape; the message says what can be done.
        OSError: the folder cannot be written.
    """
    folder = _checks.as_path(folder, "folder")
    load = first_strain(macroscopic_strain, macroscopic_stress)
    cell = problem.cell_problem(stiff, contrast, poisson, load, phases, spacing)
    if len(cell) != 1:
        raise ValueError(f"stiff must be one cell; it holds {len(cell)}. Write each into a folder of its own.")
    if cell.stiffness is not None:
        raise ValueError("phases must be (young, poisson) pairs: a case of isotropic phases is what is written here.")
    _refuse_shape(cell.shape)
    if macroscopic_stress is None:
        strain, stress, of_stress = cell.macroscopic_strain, cell.macroscopic_strain, torch.zeros(6, dtype=torch.bool)
    else:
        strain, stress, of_stress = split_load(macroscopic_strain, macroscopic_stress, 1)
    # FANS wants the labels that occur to be 0, 1, ...
    present, labels = np.unique(cell.labels[0].cpu().numpy(), return_inverse=True)
    if len(present) > 2**16:
        raise ValueError(f"stiff has {len(present)} labels, of which FANS takes {2**16} at most.")
    labels = labels.reshape(cell.shape).T.astype(np.uint16)  # [z][y][x]
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
                "phases": list(range(len(present))),
                "matmodel": "LinearElasticIsotropic",
                "material_properties": {
                    "bulk_modulus": [young / (3 * (1 - 2 * nu)) for young, nu in (cell.phases[i] for i in present)],
                    "shear_modulus": [young / (2 * (1 + nu)) for young, nu in (cell.phases[i] for i in present)],
                },
            }
        ],
        "FE_type": _ELEMENTS[_checks.one_of("discretization", discretization, _ELEMENTS)],
        "method": "cg",
        "error_parameters": {"measure": "L2", "type": "relative", "tolerance": _checks.positive("rtol", rtol)},
        "n_it": _checks.positive_integer("max_iterations", max_iterations, most=2**31 - 1),
        "macroscale_loading": [_loading(strain[0], stress[0], of_stress)],
        "results": ["strain", "stress_average", "strain_average", "displacement_fluctuation", "absolute_error"],
    }
    # The name of the fields in the result, by which `read` tells them from those of another case.
    case["results_prefix"] = hashlib.sha256(json.dumps(case).encode() + labels.tobytes()).hexdigest()[:16]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CELL) as partial, h5py.File(partial, "w") as file:
            file["labels"] = labels
        write_atomically(folder / CASE, (json.dumps(case, indent=1) + "\n").encode())
    return folder / CASE


def run(folder, ranks: int = 1, program: str = "FANS") -> Path:
    """Run FANS on the case of a folder, with ``ranks`` processes of MPI.

    Returns:
        the path of ``result.h5``, which takes the place of an earlier one when FANS has ended well.

    Raises:
        FileNotFoundError: the program, or ``mpirun``, or a file of the case is not there.
        ValueError: the cell has too few voxels along its first axis for so many processes.
        OSError: a file of the case is damaged, or FANS fails; the message ends with what it said of the reason.
    """
    folder, ranks = _checks.as_path(folder, "folder"), _checks.positive_integer("ranks", ranks)
    planes = _read_case(folder).labels.shape[0]
    if planes - (ranks - 1) * math.ceil(planes / ranks) < PLANES:  # what is left for the last process
        raise ValueError(
            f"ranks={ranks} is too many: FANS gives each process {PLANES} or more planes of voxels along x, of which "
            f"the cell has {planes}."
        )
    found = [shutil.which(program), shutil.which("mpirun") if ranks > 1 else ""]
    for name, path in zip((program, "mpirun"), found, strict=True):
        if path is None:
            raise FileNotFoundError(
                f"The program {name} is not found: `conda install -c conda-forge fans` brings FANS and MPI; or copy "
                f"{folder} to where it is, and run `mpirun -n N FANS {CASE} {RESULT}` there."
            )
    with writing(folder / RESULT), replacing((folder / RESULT).resolve()) as partial:
        command = ["mpirun", "-n", str(ranks)] * (ranks > 1) + [str(Path(found[0] or "").resolve())]
        done = subprocess.run(
            [*command, CASE, partial.name],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode or not partial.exists():
            said = done.stderr.partition("what():")[2] or done.stderr  # first an exception of its own
            words = " ".join(word for word in said.split() if word.strip("-"))[:300] or done.stdout.strip()[-300:]
            raise OSError(f"{' '.join(command)} in {folder} failed with the exit code {done.returncode}: {words}")
    return folder / RESULT


def read(folder, result: str = RESULT) -> Solution:
    """The result of FANS for the case of a folder, as :func:`rlnlib.solve_strain` gives it, in float64.

    ``residual`` is the last of ``residuals``, which FANS carries along, not one computed again. ``converged`` says that
    it is within FANS's tolerance, the fields are finite and their means the prescribed ones; else a RuntimeWarning says
    what is wrong. (Where nothing is to be solved, as in a homogeneous cell, FANS divides by zero.) Where the case did
    not ask FANS for displacement and errors, ``iterations`` is -1, and NaN stands in the place of the others.

    Returns:
        :class:`rlnlib.Solution` of a batch of one cell.

    Raises:
        FileNotFoundError, OSError: a file of the case is missing or damaged, or holds no result of this case.
    """
    folder = _checks.as_path(folder, "folder")
    case = _read_case(folder)
    if not (folder / result).exists():
        raise FileNotFoundError(f"No {result} in {folder}: run FANS on {CASE}, for instance with rlnlib.fans.run.")
    with _reading(folder), h5py.File(folder / result, "r") as file:
        if case.fields not in file:
            raise ValueError(f"{result} has no {case.fields}: it is of another case, so run FANS again")
        found = file[case.fields]
        shape = case.labels.shape
        strain = _components(found["strain"], shape, _ORDER)
        displacement = torch.full((3, *shape), math.nan, dtype=torch.float64)
        if "displacement_fluctuation" in found:
            displacement = _components(found["displacement_fluctuation"], shape, range(3))
        errors = found["absolute_error"][()] if "absolute_error" in found else np.full(1, math.nan)
        residuals = torch.from_numpy(errors / max(errors[0], 1e-300))[None].double()
    fields = strain[None]
    stress = elasticity.hooke(fields, *torch.from_numpy(case.lame)[:, torch.from_numpy(case.labels)])
    effective = stress.mean((2, 3, 4))
    missed = torch.stack(
        [
            (fields.mean((2, 3, 4)) - case.strain)[:, ~case.strain.isnan()].abs().sum() / (1e-300 + fields.abs().max()),
            (effective - case.stress)[:, ~case.stress.isnan()].abs().sum() / (1e-300 + stress.abs().max()),
        ]
    )
    within = math.isnan(errors[-1]) or errors[-1] <= case.tolerance * (errors[0] if case.relative else 1)
    converged = torch.isfinite(fields).all() & (missed < max(1e-6, 10 * case.tolerance)).all() & bool(within)
    if not converged:
        warnings.warn(
            f"The field in {folder} is no solution: FANS came to a residual of {float(residuals[0, -1]):.1e} after "
            f"{len(errors) - 1} iterations, and the means are off by {float(missed.max()):.1e}. Where all iterations "
            f"were spent, write the case with a larger max_iterations.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Solution(
        strain=fields,
        stress=stress,
        effective_stress=effective,
        displacement=displacement[None],
        converged=converged[None],
        iterations=torch.tensor([len(errors) - 1 or -1]),
        residuals=residuals,
        residual=residuals[:, -1],
    )


def _components(values: h5py.Dataset, shape, order) -> torch.Tensor:
    """Read a field one component after the other. Shape: [z][y][x][component] -> (components, x, y, z)."""
    if values.shape != (*shape[::-1], len(order)):
        raise ValueError(f"a field has the shape {values.shape}, the cell {shape}")
    field = np.empty((len(order), *shape))
    for i, component in enumerate(order):
        field[i] = values[..., component].T
    return torch.from_numpy(field)


def _refuse_shape(shape) -> None:
    """Raise ValueError for a number of voxels along some axis with which FANS goes wrong."""
    n1, _, n3 = shape
    if n3 % 2:
        raise ValueError(
            f"stiff has {n3} voxels along axis 2, but FANS needs an even number along z: on an odd one it "
            f"crashes or gives a wrong field. Turn the cell, or cut off a plane."
        )
    if n1 < PLANES:
        raise ValueError(
            f"stiff has {n1} voxels along axis 0, but FANS needs {PLANES} or more along x: turn the cell, or repeat it."
        )
    if n1 % 2 and n3 % 4 == 0:
        raise ValueError(
            f"stiff has {n1} voxels along axis 0 and {n3} along axis 2. With an odd number along x and a multiple of "
            f"four along z, FANS's preconditioner may leave out a frequency, after which it takes several times the "
            f"iterations or fails. Turn the cell so that an even axis comes first, or cut off a plane."
        )


@dataclass(frozen=True)
class _Case:
    """What a case says: labels (x, y, z); Lame parameters (2, phases); mean strain and stress (6,), in our order, NaN
    where they are not prescribed; when FANS stops; the name of its fields in the result.
    """

    labels: np.ndarray
    lame: np.ndarray
    strain: torch.Tensor
    stress: torch.Tensor
    tolerance: float
    relative: bool
    fields: str


def _read_case(folder: Path) -> _Case:
    if not (folder / CASE).exists():
        raise FileNotFoundError(f"No {CASE} in {folder}: write it with rlnlib.fans.write.")
    with _reading(folder):
        case = json.loads((folder / CASE).read_text(encoding="utf-8"))
        about, (material,), (loading,) = case["microstructure"], case["materials"], case["macroscale_loading"]
        kind = case["problem_type"], case.get("strain_type", "small"), material["matmodel"]
        if kind != ("mechanical", "small", "LinearElasticIsotropic") or case["FE_type"] not in _ELEMENTS.values():
            raise ValueError(f"the case is {', '.join(kind)}, {case['FE_type']}")
        bulk, shear = (
            np.array(material["material_properties"][f"{name}_modulus"], float) for name in ("bulk", "shear")
        )
        if not (folder / about["filepath"]).exists():
            raise FileNotFoundError(f"No {about['filepath']} in {folder}: write it with rlnlib.fans.write.")
        with h5py.File(folder / about["filepath"], "r") as file:
            labels = file[about["datasetname"]][()].T.astype(np.int64)  # (x, y, z)
        numbers = material["phases"]
        if not bulk.shape == shear.shape == (len(numbers),):
            raise ValueError(f"{len(numbers)} phases, but moduli of the shapes {bulk.shape} and {shear.shape}")
        places = np.full(1 + max(*numbers, labels.max()), -1)
        places[numbers] = range(len(numbers))
        labels = places[labels]
        if labels.min() < 0:
            raise ValueError("the cell has labels that no material names")
        strain, stress = _prescribed(loading)
        rule = case["error_parameters"]
        prefix = f"{about['datasetname'].strip('/')}_results/{case.get('results_prefix', '')}".strip("/")
        return _Case(
            labels,
            np.stack([bulk - 2 * shear / 3, shear]),
            strain,
            stress,
            float(rule["tolerance"]),
            rule["type"] == "relative",
            f"{prefix}/load0/time_step0",
        )


@contextmanager
def _reading(folder: Path):
    """Say of a file that is damaged, or of another kind of case, in which folder it is."""
    try:
        yield
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise OSError(
            f"{folder} holds no case with one isotropic result of FANS that can be read ({reason})."
        ) from error


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
        for values, name in ((strain, "strain"), (stress, "stress")):
            if loading[f"{name}_indices"]:
                (values[loading[f"{name}_indices"]],) = loading[name]
    else:
        (strain[:],) = loading
    return torch.from_numpy(strain[_ORDER]), torch.from_numpy(stress[_ORDER])
