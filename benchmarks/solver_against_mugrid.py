"""How many cells a second: `rlnlib.solve_strain` and muGrid (an independent periodic finite-element library).

    python benchmarks/solver_against_mugrid.py --out benchmarks/results/solver_against_mugrid.json

Both sides solve the same cells in one go, with the same trilinear elements (hex8), the same reference-medium
preconditioner in conjugate gradients and the same stopping rule, ||b - K u|| <= rtol ||b|| recomputed at the end, on
the same number of cores: rlnlib with that many threads, muGrid with as many processes of one thread. The sides take
turns, so that a busy machine hits both; the fields are compared. Set-up (preconditioner, fields, process start) is
not counted on muGrid's side, but is on rlnlib's.

The record says where the time of one iteration goes, on one core, beside the rate of the machine's own matrix product:
what is left to gain from faster transforms, and what is not.
"""

import multiprocessing
import os
import statistics
import time

import numpy as np

#: What a muGrid process keeps between calls, by dtype and grid.
_SYSTEMS: dict = {}


def mugrid_system(size, contrast, dtype):
    import muGrid
    from muGrid.Preconditioners import make_reference_stiffness_preconditioner

    operator = muGrid.IsotropicStiffnessOperator(3, [1.0, 1.0, 1.0])
    engine = muGrid.FFTEngine([size] * 3, ghosts=operator)
    lam, mu = 0.3 / (1.3 * 0.4), 1 / 2.6
    preconditioner = make_reference_stiffness_preconditioner(
        engine,
        dtype=dtype,
        element=muGrid.FEMElement.q1,
        grid_spacing=[1.0] * 3,
        lambda_ref=lam,
        mu_ref=mu,
    )
    fields = {name: engine.real_space_field(name, dtype=dtype) for name in ("lambda", "mu")}
    fields |= {name: engine.real_space_field(name, (3,), dtype=dtype) for name in ("force", "u")}
    return operator, engine, preconditioner, fields, (lam, mu)


def mugrid_solve(task):
    """Seconds, iterations and displacement of each cell."""
    cells, contrast, rtol, dtype = task
    from muGrid.Solvers import conjugate_gradients

    key = dtype, cells.shape[1]
    if key not in _SYSTEMS:
        _SYSTEMS[key] = mugrid_system(cells.shape[1], contrast, np.dtype(dtype))
    operator, engine, preconditioner, fields, (lam, mu) = _SYSTEMS[key]
    collection = engine.real_space_collection
    displacements, counts = [], []
    started = time.perf_counter()
    for cell in cells:
        young = np.where(cell, contrast, 1.0)
        fields["lambda"].p[...], fields["mu"].p[...] = lam * young, mu * young
        for name in ("lambda", "mu"):
            engine.communicate_ghosts(fields[name])
        strain = np.zeros(9)
        strain[0] = 1
        operator.apply_macro_rhs(fields["lambda"]._cpp, fields["mu"]._cpp, strain, fields["force"]._cpp)
        fields["force"].p[...] *= -1
        fields["u"].p[...] = 0

        def stiffness(u, force):
            engine.communicate_ghosts(u)
            operator.apply(u, fields["lambda"], fields["mu"], force)

        count = []
        conjugate_gradients(
            engine.communicator,
            collection,
            fields["force"],
            fields["u"],
            stiffness,
            prec=preconditioner,
            rtol=rtol,
            callback=lambda iteration, state, count=count: count.append(iteration),
        )
        counts.append(count[-1])
        displacements.append(np.array(fields["u"].p))
    return time.perf_counter() - started, counts, np.stack(displacements)


def mugrid_run(pool, cells, contrast, rtol, dtype, workers):
    """Seconds of the slowest process (without the transfer of fields between processes), iterations, displacements."""
    tasks = [(part, contrast, rtol, dtype) for part in np.array_split(cells, workers)]
    spent, counts, displacements = zip(*pool.map(mugrid_solve, tasks, chunksize=1), strict=True)
    return max(spent), [n for part in counts for n in part], np.concatenate(displacements)


def iteration_parts(cells, contrast, repeats=30):
    """Nanoseconds a voxel of each part of one float32 iteration of rlnlib on one core, medians."""
    import torch

    from rlnlib import green, voxel_fe
    from rlnlib.fast import loops
    from rlnlib.problem import cell_problem

    cell = cell_problem(cells[:4].astype(int), contrast)
    problem = voxel_fe.VoxelProblem(cell, green.GreenOperator(cell.shape, "hex8")).to(torch.float32)
    u, residual, direction, image = (torch.rand_like(problem.rhs) for _ in range(4))
    step = torch.full((len(cell),), 1e-9)
    square = torch.rand(1024, 1024)

    def seconds(function):
        times = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def there_and_back(field):
        problem.operator.transform.back(problem.operator.transform.forward(field))

    def updates():
        loops.advance(u, residual, step, direction, image)
        loops.inner(direction, image)
        loops.inner(residual, image)
        direction.mul_(0.5).add_(residual)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    per_voxel = {
        "K u": seconds(lambda: problem.apply(u)),
        "two transforms": seconds(lambda: there_and_back(residual)),
        "product by frequency": seconds(lambda: loops.times_by_frequency(problem.operator.inverse, residual)),
        "scalar products and updates": seconds(updates),
    }
    peak = 2 * len(square) ** 3 / seconds(lambda: square @ square)
    torch.set_num_threads(threads)
    parts = {name: 1e9 * value / cell.labels.numel() for name, value in per_voxel.items()}
    # Two transforms of three components; of N products along each axis symmetry leaves half, for an even N a quarter.
    flops = 2 * 3 * 2 * sum(n / (2 if n % 2 else 4) for n in cells.shape[1:])
    return parts | {"two transforms, at the rate of a large matrix product": 1e9 * flops / peak}


def main():
    import torch

    import common
    import rlnlib  # here, since the processes of muGrid import this file, too
    from rlnlib import discretizations, provenance

    cores = len(os.sched_getaffinity(0))
    options = common.parse(__doc__, cells=16, size=31, contrast=50.0, rtol=1e-6, repeats=3, cores=cores)
    torch.set_num_threads(options.cores)
    with multiprocessing.get_context("spawn").Pool(options.cores) as pool:
        cells = rlnlib.generate_cells(options.cells, size=options.size, seed=0)
        seconds = {"rlnlib": [], "mugrid float32": [], "mugrid float64": []}
        for repeat in range(options.repeats + 1):  # the first warms up
            started = time.perf_counter()
            solution = rlnlib.solve_strain(cells, options.contrast, discretization="hex8", rtol=options.rtol)
            times = {"rlnlib": time.perf_counter() - started}
            for dtype in ("float32", "float64"):
                spent, counts, u = mugrid_run(pool, cells, options.contrast, options.rtol, dtype, options.cores)
                times[f"mugrid {dtype}"] = spent
            if repeat:
                for name, value in times.items():
                    seconds[name].append(value)
                print({name: round(value, 2) for name, value in times.items()}, flush=True)
        # muGrid's displacement through our element's mean gradient.
        mean = discretizations.Hex8.element_gradient().mean(0).flatten(1)
        theirs = discretizations.from_corners(mean, torch.from_numpy(u).double())[:, 0] + 1
        parts = iteration_parts(cells, options.contrast)
    pairs = [("rlnlib", name) for name in seconds if name != "rlnlib"]
    result = {
        **common.raw(seconds, dict.fromkeys(seconds, options.cells), pairs),
        "iterations": {"rlnlib": solution.iterations.tolist(), "mugrid float64": [int(n) for n in counts]},
        "nanoseconds_per_voxel_and_iteration": parts,
        "largest_residual_rlnlib": float(solution.residual.max()),
        "largest_difference_of_strain": float((solution.strain[:, 0] - theirs).abs().max()),
        "mase_percent_between": float(rlnlib.mase(solution.strain[:, 0], theirs).max()),
        "note": "rlnlib iterates in float32 and confirms in float64, so one run stands against both of muGrid's.",
    }
    question = "cells solved a second, rlnlib against muGrid, same cells, elements, preconditioner, tolerance"
    provenance.write_record(question, options, result, packages=["muGrid"])


if __name__ == "__main__":
    main()
