"""The time-accuracy plane: error against seconds a cell of classical solvers by iteration and of networks by pass.

    python benchmarks/time_accuracy.py --out benchmarks/results/time_accuracy_16.json
    RLN_REFERENCE_DATA=FOLDER python benchmarks/time_accuracy.py --size 31 --cells 4 --contrasts 10 \
        --out benchmarks/results/time_accuracy_31.json

The error is the MASE against the converged B-bar field, the mean over the cells. All solvers have that discretization,
so nothing but the missing iterations separates them from it. Conjugate gradients run as `solve_strain` does, in float32
confirmed in float64, and in float64 throughout; the iterations on the Lippmann-Schwinger equation in both precisions,
their clock stopped while the error is taken. Networks: the shipped ones, on the size that they were trained for; with
RLN_REFERENCE_DATA on cells of 31^3 the released FLN and RLN-t at contrast 10. "one by one": each cell in a call of its
own; "together": all in one.
"""

import os
import time
from pathlib import Path
from statistics import median

import torch

import common
import rlnlib
from rlnlib import checkpoints, green, lippmann_schwinger, solvers, voxel_fe
from rlnlib.rln import KINDS

QUESTION = "Error against seconds a cell"
NAMES = {"fixed_point": "fixed point", "gradient_descent": "gradient descent", "anderson": "Anderson"}


def in_float64(stiff, contrast, iterations):
    """As in `solve_strain`, but all in float64 and with an operator made anew. -> strain_xx (B, N, N, N)."""
    labels = torch.as_tensor(stiff).long()
    operator = green.GreenOperator(labels.shape[1:])
    load = torch.eye(6, dtype=torch.float64)[:1].expand(len(labels), 6)
    problem = voxel_fe.VoxelProblem.from_labels(labels, [(1.0, 0.3), (contrast, 0.3)], load, operator)
    u, _ = solvers.conjugate_gradient(problem, solvers.StoppingRule(1e-8, 0.0, iterations))
    return problem.strain(u, load)[:, 0]


def trajectory(name, stiff, contrast, dtype, steps):
    """Seconds to the iterates ``steps`` of a Lippmann-Schwinger scheme, set-up included, and strain_xx there."""
    started = time.perf_counter()
    equation = lippmann_schwinger.elastic_equation(stiff, contrast, dtype=dtype)
    proximal = solvers.ITERATIONS[name](equation)
    passes = solvers.recurrence((proximal for _ in range(max(steps))), equation.reference)
    seconds, fields, away = [], [], 0.0
    for n, y in enumerate(passes, start=1):
        if n in steps:
            stopped = time.perf_counter()
            seconds.append(stopped - started - away)
            fields.append(y[:, :, 0].mean(1))
            away += time.perf_counter() - stopped
    return seconds, fields


def networks_for(size, contrast):
    """Name -> model, and what to say of them."""
    folder = os.environ.get("RLN_REFERENCE_DATA")
    trained = {
        kind: checkpoints.pretrained_header(kind, contrast)["data"]["size"]
        for kind, ratio in checkpoints.shipped()
        if ratio == contrast
    }
    if any(n == size for n in trained.values()):
        return {kind: rlnlib.load_pretrained(kind, contrast) for kind in KINDS if trained.get(kind) == size}, "shipped"
    if folder and size == 31 and contrast == 10:
        path = Path(folder) / "published"
        files = {"fln": "FLN_c10.model", "rln-t": "RLN_t_c10.model"}
        return {kind: rlnlib.load_published(path / file) for kind, file in files.items()}, "released with the paper"
    return {}, "none for this size"


def main():
    options = common.parse(__doc__, size=16, cells=8, contrasts=(10.0, 50.0), iterations=12, repeats=3)
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=options.size))
    one_by_one = [cell[None] for cell in cells]
    rows = []
    for contrast in options.contrasts:
        true = rlnlib.solve_strain(cells, contrast).strain[:, 0]
        networks, origin = networks_for(options.size, contrast)

        def add(method, precision, mode, steps, seconds, fields, contrast=contrast, true=true):
            """``seconds``: for each step those of the repeats, for all cells."""
            each = [[common.significant(s / len(true)) for s in spent] for spent in seconds]
            errors = [common.significant(float(rlnlib.mase(field, true).mean())) for field in fields]
            row = {"method": method, "contrast": contrast, "precision": precision, "mode": mode, "steps": list(steps)}
            row |= {"seconds_a_cell": [median(s) for s in each], "least": [min(s) for s in each]}
            rows.append({**row, "most": [max(s) for s in each], "mase_percent": errors})

        methods = {
            ("conjugate gradients", "float32"): (
                range(1, options.iterations + 1),
                lambda k, c, contrast=contrast: common.solve_roughly(c, contrast, k, options.device).strain[:, 0],
            ),
            ("conjugate gradients", "float64"): (
                range(1, options.iterations + 1),
                lambda k, c, contrast=contrast: in_float64(c, contrast, k),
            ),
        }
        for kind, model in networks.items():
            for dtype in (torch.float32, torch.bfloat16):

                def predict(k, c, model=model, dtype=dtype):
                    model.passes = k
                    return rlnlib.predict_strain(model, c, dtype=dtype, device=options.device)

                methods[kind.upper().replace("-T", "-t"), str(dtype)[6:]] = range(1, KINDS[kind]["passes"] + 1), predict
        for mode, parts in {"together": [cells], "one by one": one_by_one}.items():
            found = {}
            sides = {
                (method, k): lambda call=call, k=k, method=method, parts=parts, found=found: found.__setitem__(
                    (method, k), torch.cat([call(k, part) for part in parts])
                )
                for method, (steps, call) in methods.items()
                for k in steps
            }
            seconds = common.measure(sides, options.repeats, options.device)
            for (method, precision), (steps, _) in methods.items():
                keys = [((method, precision), k) for k in steps]
                add(method, precision, mode, steps, [seconds[key] for key in keys], [found[key] for key in keys])
        for name, method in NAMES.items():
            steps = [2**n for n in range(6 if name == "fixed_point" else 5) if 2**n <= 4 * options.iterations]
            for dtype in (torch.float32, torch.float64):
                runs = [trajectory(name, cells, contrast, dtype, steps) for _ in range(options.repeats + 1)][1:]
                add(
                    method,
                    str(dtype)[6:],
                    "together",
                    steps,
                    list(zip(*(s for s, _ in runs), strict=True)),
                    runs[-1][1],
                )
    common.write(QUESTION, options, {"networks": origin, "rows": rows})


if __name__ == "__main__":
    main()
