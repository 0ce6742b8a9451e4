"""The time-accuracy plane: error against seconds a cell of classical solvers by iteration and of networks by pass.

    python benchmarks/time_accuracy.py --out benchmarks/results/time_accuracy_16.json
    RLN_REFERENCE_DATA=FOLDER python benchmarks/time_accuracy.py --size 31 --cells 4 \
        --out benchmarks/results/time_accuracy_31.json

The error is the MASE against the converged B-bar field, the mean over the cells. All solvers have that discretization,
so nothing but the missing iterations separates them from it. Conjugate gradients run as `solve_strain` does, in float32
confirmed in float64, and in float64 throughout; the iterations on the Lippmann-Schwinger equation in both precisions,
their clock stopped while the error is taken. Networks: those shipped for this size; with RLN_REFERENCE_DATA on cells of
31^3 and contrast 10 also the FLN and the RLN-t released with the paper. "one by one": each cell in a call of its own;
"together": all in one.
"""

import os
import time
from pathlib import Path

import torch

import common
import rlnlib
from rlnlib import lippmann_schwinger, provenance, solvers, weight_files
from rlnlib.provenance import significant
from rlnlib.rln import KINDS

QUESTION = "Error against seconds a cell"
NAMES = {"fixed_point": "fixed point", "gradient_descent": "gradient descent", "anderson": "Anderson"}


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
    """Kind -> model, and where its weights are from."""
    shipped = {
        entry["kind"] for entry in weight_files.catalogue() if (entry["contrast"], entry["size"]) == (contrast, size)
    }
    folder = os.environ.get("RLN_REFERENCE_DATA")
    files = {"fln": "FLN_c10.model", "rln-t": "RLN_t_c10.model"} if folder and (size, contrast) == (31, 10) else {}
    found = {}
    for kind in KINDS:
        if kind in shipped:
            found[kind] = rlnlib.load_pretrained(kind, contrast, size), "shipped with the library"
        elif kind in files:
            found[kind] = rlnlib.load_published(Path(folder) / "published" / files[kind]), "released with the paper"
    return found


def main():
    options = common.parse(__doc__, size=16, cells=8, contrasts=(10.0, 50.0), iterations=12, repeats=3)
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=options.size))
    one_by_one = [cell[None] for cell in cells]
    rows, origins = [], {}
    for contrast in options.contrasts:
        true = rlnlib.solve_strain(cells, contrast).strain[:, 0]

        def add(method, precision, mode, steps, seconds, fields, contrast=contrast, true=true):
            """``seconds``: for each step those of the repeats, for all cells."""
            turns = [[significant(s / len(true)) for s in spent] for spent in seconds]
            errors = [significant(float(rlnlib.mase(field, true).mean())) for field in fields]
            row = {"method": method, "contrast": contrast, "precision": precision, "mode": mode, "steps": list(steps)}
            rows.append({**row, "turns": turns, "mase_percent": errors})

        methods = {
            ("conjugate gradients", "float32"): (
                range(1, options.iterations + 1),
                lambda k, c, contrast=contrast: common.solve_roughly(c, contrast, k, options.device).strain[:, 0],
            ),
            ("conjugate gradients", "float64"): (
                range(1, options.iterations + 1),
                lambda k, c, contrast=contrast: common.solve_roughly(
                    c, contrast, k, options.device, dtype=torch.float64
                ).strain[:, 0],
            ),
        }
        for kind, (model, origin) in networks_for(options.size, contrast).items():
            name = kind.upper().replace("-T", "-t")
            origins[f"{name}, contrast {contrast:g}"] = origin
            for dtype in (torch.float32, torch.bfloat16):

                def predict(k, c, model=model, dtype=dtype):
                    model.passes = k
                    return rlnlib.predict_strain(model, c, dtype=dtype, device=options.device)

                methods[name, str(dtype)[6:]] = range(1, KINDS[kind]["passes"] + 1), predict
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
            steps = [*range(1, 25), 32] if name == "fixed_point" else [1, 2, 4, 8, 16]
            steps = [n for n in steps if n <= 4 * options.iterations]
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
    provenance.write_record(QUESTION, options, {"networks": origins, "rows": rows})


if __name__ == "__main__":
    main()
