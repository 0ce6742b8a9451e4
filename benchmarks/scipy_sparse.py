"""Cells a second: `rlnlib.solve_strain` and a plain SciPy sparse solve of the same elements.

    python benchmarks/scipy_sparse.py --out benchmarks/results/scipy_sparse.json

SciPy assembles the element matrix of the B-bar cube over the periodic grid, fixes one node, and solves by conjugate
gradients with the diagonal as preconditioner, or directly by SuperLU, on one core. Both sides count their set-up. The
tolerances are those of the nodal forces; the strains are compared. `--direct 0` leaves the direct solver out, whose
factors of a 31^3 cell do not fit the time.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

import common
import rlnlib
from rlnlib import discretizations, elasticity, provenance
from rlnlib.provenance import significant

QUESTION = "Cells solved a second, against SciPy's sparse solvers with the same elements"


def scipy_strain(stiff, contrast, rtol, direct):
    """Strain of one cell, (6, N, N, N)."""
    size = stiff.shape[0]
    stiffness = discretizations.BBar.element_stiffness(elasticity.isotropic_stiffness(1.0, 0.3)).numpy()
    mean = discretizations.BBar.element_gradient().mean(0).flatten(1).numpy()  # (6, 24): component-major, corners x y z
    grid = np.arange(size**3).reshape(stiff.shape)
    corners = [np.roll(grid, [-(c >> 2 & 1), -(c >> 1 & 1), -(c & 1)], (0, 1, 2)).ravel() for c in range(8)]
    freedoms = np.stack([3 * corners[c] + i for i in range(3) for c in range(8)])  # (24, voxels)
    young = np.where(stiff, contrast, 1.0).ravel()
    rows, columns = np.repeat(freedoms, 24, 0), np.tile(freedoms, (24, 1))
    values = stiffness.reshape(-1, 1) * young
    matrix = scipy.sparse.coo_array((values.ravel(), (rows.ravel(), columns.ravel()))).tocsc()
    unit = np.array([1.0, 0, 0, 0, 0, 0])
    stress = elasticity.isotropic_stiffness(1.0, 0.3).numpy() @ unit
    force = np.zeros(3 * size**3)
    np.add.at(force, freedoms, -(stress @ mean)[:, None] * young)
    u = np.zeros_like(force)
    matrix, force = matrix[3:, 3:], force[3:]
    if direct:
        u[3:] = scipy.sparse.linalg.spsolve(matrix, force)
    else:
        diagonal = scipy.sparse.diags_array(1 / matrix.diagonal())
        u[3:], failed = scipy.sparse.linalg.cg(matrix.tocsr(), force, rtol=rtol, M=diagonal)
        if failed:
            raise RuntimeError("SciPy's conjugate gradients did not converge.")
    return (mean @ u[freedoms] + unit[:, None]).reshape(6, *stiff.shape)


def main():
    options = common.parse(__doc__, size=16, cells=2, contrast=50.0, rtol=1e-6, repeats=3, direct=1)
    cells = rlnlib.generate_cells(options.cells, size=options.size, seed=0)
    found = {}

    def keep(name, solve):
        return lambda: found.__setitem__(name, solve())

    sides = {
        "rlnlib": keep("rlnlib", lambda: rlnlib.solve_strain(cells, options.contrast, rtol=options.rtol).strain),
        **{
            name: keep(
                name,
                lambda direct=direct: torch.from_numpy(
                    np.stack([scipy_strain(cell, options.contrast, options.rtol, direct) for cell in cells])
                ),
            )
            for name, direct in (("SciPy, conjugate gradients", False), ("SciPy, direct", True))
        },
    }
    if not options.direct:
        del sides["SciPy, direct"]
    seconds = common.measure(sides, options.repeats)
    others = [name for name in sides if name != "rlnlib"]
    provenance.write_record(
        QUESTION,
        options,
        {
            **common.raw(seconds, dict.fromkeys(sides, options.cells), [("rlnlib", name) for name in others]),
            "mase_percent_between": {
                name: significant(float(rlnlib.mase(found["rlnlib"][:, 0], found[name][:, 0]).max())) for name in others
            },
        },
    )


if __name__ == "__main__":
    main()
