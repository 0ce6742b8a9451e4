"""Does the certificate ever fail? Bounds of the effective stiffness in 10,000 predictions, good and bad ones.

    python experiments/certificates.py --out data/results/certificates.json

A bound holds whatever proposed the field, so most of the networks here are bad on purpose: the shipped one; one that
was never trained; one with random weights of the usual size; one with random weights ten times as large. Cells of 4 to
8 voxels along each axis, not cubes in general, of one to four phases without any order, moduli log-uniform over up to
four decades, Poisson ratios from -0.3 to 0.45, alike or different, loads along one axis or along all. The truth is the
solver's at a residual of 1e-10.

Fixed on 2026-11-26, before the first result: a violation is a bound on the wrong side of the truth by more than 1e-8 of
it. The certificate holds if there is none. A run that was cut off goes on by the same command.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path

import torch

import rlnlib
from rlnlib import informed, provenance, weight_files
from rlnlib._files import write_atomically
from rlnlib.provenance import significant

#: Relative to the truth: what rounding and the solver's residual may make.
ROUNDING = 1e-8
NETWORKS = ("shipped", "untrained", "random weights", "large random weights")


def network(name: str, seed: int) -> informed.InformedRLN:
    """One of :data:`NETWORKS`."""
    if name == "shipped":
        return rlnlib.load_pretrained("informed")
    torch.manual_seed(seed)
    model = informed.InformedRLN(passes=2)
    if name != "untrained":
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05 if name == "random weights" else 0.5)
    return model.eval()


def case(number: int, cells: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Labels, load and material of a group. Shape: -> (cells, N1, N2, N3), (6,)."""
    g = torch.Generator().manual_seed(number)

    def whole(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=g))

    shape = [whole(4, 8) for _ in range(3)]
    phases = whole(1, 4)
    labels = torch.randint(0, phases, (cells, *shape), generator=g)
    decades = 4 * float(torch.rand((), generator=g))
    young = 10 ** (decades * torch.rand(phases, generator=g, dtype=torch.float64))
    poisson = 0.75 * torch.rand(phases, generator=g, dtype=torch.float64) - 0.3
    if whole(0, 1):
        poisson[:] = poisson[0]
    load = torch.randn(6, generator=g, dtype=torch.float64)
    if whole(0, 2):  # two of three along one axis
        load = torch.eye(6, dtype=torch.float64)[whole(0, 5)]
    return labels, load, {"phases": list(zip(young.tolist(), poisson.tolist(), strict=True))}


def checked(name: str, number: int, cells: int) -> dict:
    """What came out for one group of cells of one network."""
    labels, load, material = case(number, cells)
    truth = rlnlib.solve_strain(labels, macroscopic_strain=load, rtol=1e-10, dtype=torch.float64, **material)
    found = rlnlib.predict(network(name, number), labels, macroscopic_strain=load, **material)
    energy = truth.effective_stress @ load
    lower, upper = found.energy_bounds.unbind(1)
    young = [e for e, _ in material["phases"]]
    return {
        "network": name,
        "shape": list(labels.shape[1:]),
        "contrast": significant(max(young) / min(young)),
        "unsolved": int((~truth.converged).sum()),
        "predictions": cells,
        "violations": int(((lower > energy * (1 + ROUNDING)) | (upper < energy * (1 - ROUNDING))).sum()),
        "closest": significant(float(torch.minimum(1 - lower / energy, upper / energy - 1).min())),
        "bound_width": significant(float(((upper - lower) / energy).median())),
        "error": significant(float((upper / energy - 1).median())),
    }


def summary(groups: list[dict]) -> dict:
    """By network and by contrast: how many predictions, how many violations, and how wide the bounds are."""
    table: dict = {}
    for name in NETWORKS:
        for least, most in ((1, 10), (10, 100), (100, 10_001)):
            of = [g for g in groups if g["network"] == name and least <= g["contrast"] < most]
            if of:
                table.setdefault(name, {})[f"contrast {least} to {most - most % 10}"] = {
                    "predictions": sum(g["predictions"] for g in of),
                    "violations": sum(g["violations"] for g in of),
                    "bound_width": significant(statistics.median(g["bound_width"] for g in of)),
                    "error": significant(statistics.median(g["error"] for g in of)),
                }
    return table


def main():
    options = provenance.parse(__doc__, predictions=10_000, group=25, folder="runs/certificates")
    torch.set_num_threads(1)
    path = Path(options.folder) / f"groups-of-{options.group}.json"
    used = hashlib.sha256((weight_files.PRETRAINED / "informed.safetensors").read_bytes()).hexdigest()
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"weights": used, "groups": []}
    if kept["weights"] != used:
        raise OSError(f"{path} is of other weights: choose another --folder.")
    groups = kept["groups"]
    while len(groups) * options.group < options.predictions:
        number = len(groups)
        groups.append(checked(NETWORKS[number % len(NETWORKS)], number, options.group))
        write_atomically(path, json.dumps(kept).encode())
        if groups[-1]["violations"] or number % 20 == 19:
            print(number + 1, groups[-1], flush=True)
    result: dict = {"weights": used}
    result |= {name: sum(g[name] for g in groups) for name in ("predictions", "violations", "unsolved")}
    result["closest"] = min(g["closest"] for g in groups)
    result |= {"by_network": summary(groups), "groups": groups}
    provenance.write_record("Does the certificate ever fail?", options, result)


if __name__ == "__main__":
    main()
