"""Statements of sections 3.2 to 5 on trained networks: the shipped ones, and those that the authors released."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
import torch.nn.functional as F

import rlnlib
from measured import bootstrap, claim, least, most, ratio, row_of_table_1, used
from rlnlib import green, lippmann_schwinger, rln, solvers, weight_files
from statements_of_data import reference_data

SEED = 153_000
CONTRASTS = (10.0, 50.0)
KINDS = tuple(rln.KINDS)


def released(kind: str, contrast: float, **options) -> rlnlib.RLN:
    """A network of the authors': "fln" or "rln-t"."""
    name = f"{ {'fln': 'FLN', 'rln-t': 'RLN_t'}[kind] }_c{contrast:g}.model".replace(" ", "")
    return rlnlib.load_published(reference_data() / "published" / name, **options)


def shipped(kind: str, contrast: float, size: int = 16) -> rlnlib.RLN:
    used(kind, contrast, size)
    return rlnlib.load_pretrained(kind, contrast, size)


def sample(n: int, size: int, seed: int, **options) -> torch.Tensor:
    return torch.from_numpy(rlnlib.generate_cells(n, size=size, seed=seed, **options))


def truth(cells: torch.Tensor, contrast: float) -> torch.Tensor:
    """Shape: (B, N1, N2, N3) -> the same, float32."""
    return rlnlib.solve_strain(cells, contrast, rtol=1e-5).strain[:, 0].float()


@torch.no_grad()
def iterates(model: rlnlib.RLN, cells: torch.Tensor) -> torch.Tensor:
    """Fields after each pass. Shape: (B, N, N, N) -> (passes, B, N, N, N)."""
    parts = [model(rln.phase_indicators(part), return_iterates=True) for part in cells.split(4)]
    return torch.stack([torch.cat(fields)[:, 0] for fields in zip(*parts, strict=True)])


def error(field: torch.Tensor, true: torch.Tensor) -> np.ndarray:
    return rlnlib.mase(field, true).double().numpy()


def near(region: torch.Tensor) -> torch.Tensor:
    """The voxels in 3-voxel cubes around those of a region. Shape: (B, N, N, N) bool -> the same."""
    around = F.pad(region[:, None].float(), (1,) * 6, mode="circular")
    return F.max_pool3d(around, 3, 1)[:, 0] > 0


def highest(field: torch.Tensor, part: float) -> torch.Tensor:
    """The voxels of each cell's highest values. Shape: (B, N, N, N) -> the same, bool."""
    return field >= field.flatten(1).quantile(1 - part, 1)[:, None, None, None]


def lowest(field: torch.Tensor, part: float) -> torch.Tensor:
    return ~highest(field, 1 - part)


def within(values: torch.Tensor, region: torch.Tensor) -> np.ndarray:
    """Mean of each cell's values in its region. Shape: (B, N, N, N) twice -> (B,)."""
    return ((values * region).flatten(1).sum(1) / region.flatten(1).sum(1)).double().numpy()


def columns(*arrays) -> np.ndarray:
    return np.stack([np.asarray(array, float) for array in arrays], 1)


def large_sample() -> tuple[torch.Tensor, dict, dict]:
    """48 cells of 31^3, their fields by contrast, and the networks' iterates by (name, contrast)."""
    for contrast in CONTRASTS:
        used("rln", contrast, 31)  # noted for each case that asks for the sample, which is made once
    return _large_sample()


@functools.cache
def _large_sample():
    cells = sample(48, 31, SEED)
    fields = {contrast: truth(cells, contrast) for contrast in CONTRASTS}
    found = {}
    for contrast in CONTRASTS:
        for kind in ("fln", "rln-t"):
            found[f"released {kind}", contrast] = iterates(released(kind, contrast), cells)
        found["rln", contrast] = iterates(shipped("rln", contrast, 31), cells)
    return cells, fields, found


def released_at_31() -> dict:
    """The authors' FLN and RLN-t on cells of 31^3: how much, where and by which pass they err."""
    cells, fields, found = _large_sample()  # without the RLN of it
    effects: dict[str, list] = {}
    means = {}
    for contrast, true in fields.items():
        fln, tied = (found[f"released {kind}", contrast] for kind in ("fln", "rln-t"))
        peak, low = highest(true, 0.01), lowest(true, 0.5)
        mase = columns(error(fln[-1], true), error(tied[-1], true), error(tied[0], true), error(fln[-1], tied[0]))
        at_peak = columns(*(within((y[-1] - true).abs(), peak) for y in (fln, tied)))
        at_low = columns(*(within((y[-1] - true).abs(), low) for y in (fln, tied)))
        bias = columns(100 * within(fln[-1] / true - 1, peak), 100 * within(tied[-1] / true - 1, peak))
        mean, deviation = row_of_table_1("comparison", contrast)
        new = {
            "fln-vastly-outperformed": bootstrap(ratio(0, 1), mase),
            "fln-best-single-jump": bootstrap(ratio(2, 0), mase),
            "fln-is-not-the-first-pass": bootstrap(ratio(3, 0), mase),
            "rln-t-better-at-peaks": bootstrap(ratio(0, 1), at_peak),
            "fln-handles-low-strains": bootstrap(ratio(0, 1), at_low),
            "fln-misses-peaks": bootstrap(lambda rows: rows[:, 0].mean(), bias),
            "fln-worse-than-comparison": bootstrap(lambda rows, m=mean: rows[:, 0].mean() / m, mase),
            "mean": bootstrap(lambda rows, m=mean: m / rows[:, 1].mean(), mase),
            "deviation": bootstrap(lambda rows, d=deviation: d / rows[:, 1].std(), mase),
        }
        for name, effect in new.items():
            effects.setdefault(name, []).append(effect)
        means[f"{contrast:g}"] = {
            "mase_fln_rln_t": mase[:, :2].mean(0).round(3).tolist(),
            "bias_at_peaks_percent": bias.mean(0).round(3).tolist(),
            "after_two_passes_over_final": _unsettled(tied, true),
        }
    where = {"size": 31, "cells": len(cells), "contrasts": list(CONTRASTS), "data": "design", "training": "released"}
    better = least(effects.pop("mean") + effects.pop("deviation"))
    upper = ("fln-misses-peaks", "fln-handles-low-strains")
    claims = [claim(name, (most if name in upper else least)(of), **where) for name, of in effects.items()]
    return {"by_contrast": means, "claims": [*claims, claim("rln-t-better-than-comparison", better, **where)]}


def _unsettled(fields: torch.Tensor, true: torch.Tensor) -> dict:
    """Error after two passes over the final one, in high and in low strains."""
    regions = {"high": highest(true, 0.05), "low": lowest(true, 0.5)}
    sums = {name: [within((y - true).abs(), region).mean() for y in fields] for name, region in regions.items()}
    return {name: round(float(of[1] / of[-1]), 4) for name, of in sums.items()}


def rln_at_31() -> dict:
    """The RLN shipped for cells of 31^3: where it errs, and by which pass it finds what."""
    cells, fields, found = large_sample()
    near_peaks, smeared, first_pass, order, rows = [], [], [], [], {}
    for contrast, true in fields.items():
        y = found["rln", contrast]
        wrong = (y[-1] - true).abs()
        peak, worst = highest(true, 0.01), highest(wrong, 0.01)
        cube = near(peak)
        table = columns(within(cube.float(), worst), cube.float().mean((1, 2, 3)).numpy())
        near_peaks.append(bootstrap(ratio(0, 1), table))
        steps = [sum((field - field.roll(1, k)).square() for k in (1, 2, 3)) for field in (y[-1], true)]
        roughness = columns(*(within(part, cube) for part in steps))
        smeared.append(bootstrap(lambda r: float(np.sqrt(r[:, 0].mean() / r[:, 1].mean())), roughness))
        hits = [within(side(y[0], 0.05).float(), side(true, 0.05)) for side in (highest, lowest)]
        first_pass += [bootstrap(lambda r: r[:, 0].mean(), hit[:, None]) for hit in hits]
        high, low = highest(true, 0.05), lowest(true, 0.5)
        left = columns(*(within((y[k] - true).abs(), region) for region in (high, low) for k in (1, -1)))
        order.append(bootstrap(lambda r: r[:, 2].mean() / r[:, 3].mean() - r[:, 0].mean() / r[:, 1].mean(), left))
        above = [bool(a > b) for a, b in zip(*_at_worst(true, wrong), strict=True)]
        rows[f"{contrast:g}"] = {
            "mase": round(float(error(y[-1], true).mean()), 3),
            "part_of_worst_near_peaks_and_by_chance": table.mean(0).round(3).tolist(),
            "cells_whose_worst_voxel_is_above_the_95_percent_quantile": sum(above),
        }
    where = {"size": 31, "cells": len(cells), "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {
        "by_contrast": rows,
        "claims": [
            claim("worst-near-peaks", least(near_peaks), **where),
            claim("output-smeared", most(smeared), **where),
            claim("first-pass-finds-most", least(first_pass), **where),
            claim("high-strains-first", least(order), **where),
        ],
    }


def _at_worst(true: torch.Tensor, wrong: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The true strain in each cell's worst voxel, and the cell's 95 % quantile of the strain."""
    flat = true.flatten(1)
    return flat.gather(1, wrong.flatten(1).argmax(1, keepdim=True))[:, 0], flat.quantile(0.95, 1)


def central_peak() -> dict:
    """Error in each cell's voxel of highest strain, RLN-t less RLN, at contrast 50."""
    size = 31 if ("rln-t", 50.0) in weight_files.shipped(31) else 16
    cells = sample({31: 128, 16: 512}[size], size, SEED + 1)
    true = truth(cells, 50.0)
    place = true.flatten(1).argmax(1, keepdim=True)

    def at_peak(kind):
        field = iterates(shipped(kind, 50.0, size), cells)[-1]
        return 100 * (field / true - 1).flatten(1).gather(1, place).abs()[:, 0].double().numpy()

    table = columns(at_peak("rln-t"), at_peak("rln"))
    effect = bootstrap(lambda rows: rows[:, 0].mean() - rows[:, 1].mean(), table)
    where = {"size": size, "cells": len(cells), "contrasts": [50.0], "data": "design", "training": "shipped"}
    return {
        "error_percent": table.mean(0).round(3).tolist(),
        "claims": [claim("rln-t-misses-the-central-peak", effect, **where)],
    }


def shapes(kind: str, n: int, size: int, seed: int) -> torch.Tensor:
    """Cells that the paper's generator does not make. Shape: -> (n, size, size, size) bool."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(size),) * 3, indexing="ij"))
    cells = np.zeros((n, size, size, size), bool)
    for cell in cells:
        axis = int(draw.integers(3))
        if kind == "laminates":
            period = int(draw.integers(3, size // 2))
            cell[:] = (grid[axis] + draw.integers(size)) % period < draw.uniform(0.3, 0.7) * period
            cell[:] = cell if cell.any() and not cell.all() else grid[axis] < size // 2
        else:  # spheres, or fibres along an axis, that may overlap, until a third to a half is stiff
            wanted = draw.uniform(0.33, 0.5)
            while cell.mean() < wanted:
                away = np.abs(grid - draw.integers(size, size=3)[:, None, None, None])
                away = np.minimum(away, size - away)
                if kind == "fibres":
                    away = np.delete(away, axis, 0)
                cell |= (away**2).sum(0) <= draw.uniform(2.5, size / 5) ** 2
    return torch.from_numpy(cells)


def outside() -> dict:
    """Cells unlike the training ones: errors over that of the macroscopic strain, and FLN over RLN-t."""
    _, fields, found = large_sample()
    others = {name: shapes(name, 12, 31, SEED + 2) for name in ("spheres", "fibres", "laminates")}
    others["coarse grains"] = sample(12, 31, SEED + 3, grain_size=(11, 31))
    cells = torch.cat(list(others.values()))
    extrapolation, robustness, rows = [], [], {}

    def relative(there, here):
        return (there[:, 0].mean() / there[:, 1].mean()) / (here[:, 0].mean() / here[:, 1].mean())

    for contrast in CONTRASTS:
        true = truth(cells, contrast)
        errors = {"rln": error(iterates(shipped("rln", contrast, 31), cells)[-1], true)}
        for kind in ("fln", "rln-t"):
            errors[kind] = error(iterates(released(kind, contrast), cells)[-1], true)
        guess = error(torch.ones_like(true), true)
        home = fields[contrast]
        at_home = columns(error(found["rln", contrast][-1], home), error(torch.ones_like(home), home))
        extrapolation.append(bootstrap(relative, columns(errors["rln"], guess), at_home))
        robustness.append(bootstrap(ratio(0, 1), columns(errors["fln"], errors["rln-t"])))
        rows[f"{contrast:g}"] = {"inside": at_home.mean(0).round(3).tolist()} | {
            name: {
                **{kind: round(float(e[12 * i : 12 * i + 12].mean()), 3) for kind, e in errors.items()},
                "macroscopic_strain": round(float(guess[12 * i : 12 * i + 12].mean()), 3),
            }
            for i, name in enumerate(others)
        }
    where = {"size": 31, "cells": len(cells), "contrasts": list(CONTRASTS), "data": "other"}
    return {
        "mase_percent": rows,
        "claims": [
            claim("no-extrapolation", least(extrapolation), training="shipped", **where),
            claim("iteration-is-robust", least(robustness), training="released", **where),
        ],
    }


def more_passes() -> dict:
    """The released RLN-t, run for 40 passes."""
    cells, effects, rows = sample(12, 31, SEED + 4), [], {}
    for contrast in CONTRASTS:
        true = truth(cells, contrast)
        fields = iterates(released("rln-t", contrast).with_options(passes=40), cells)
        errors = np.stack([error(y, true) for y in fields], 1)
        effects.append(bootstrap(ratio(39, 4), errors))
        rows[f"{contrast:g}"] = errors.mean(0).round(3).tolist()
    where = {"size": 31, "cells": len(cells), "contrasts": list(CONTRASTS), "data": "design", "training": "released"}
    return {"mase_by_pass": rows, "claims": [claim("no-convergence", least(effects), **where)]}


def zero_mean() -> dict:
    """The released networks as their code runs them: batches of 32, the mean of the batch subtracted."""
    cells, off = sample(32, 31, SEED + 5), {}
    for contrast in CONTRASTS:
        for kind in ("fln", "rln-t"):
            field = rlnlib.predict_strain(released(kind, contrast, batch_mean=True), cells, batch_size=32)
            off[f"{kind}-{contrast:g}"] = 100 * float((field.mean((1, 2, 3)) - 1).abs().max())
    where = {"size": 31, "cells": 32, "contrasts": list(CONTRASTS), "data": "design", "training": "released"}
    return {"largest_percent": off, "claims": [claim("update-zero-mean", max(off.values()), **where)]}


def keeps_the_solution() -> dict:
    """One pass of an RLN-t that begins with the solution."""
    size = 31 if ("rln-t", 50.0) in weight_files.shipped(31) else 16
    cells, effects = sample(64 if size == 16 else 16, size, SEED + 6), []
    for contrast in CONTRASTS:
        model, true = shipped("rln-t", contrast, size), truth(cells, contrast)
        indicators = rln.phase_indicators(cells)
        with torch.no_grad():
            field = model.proximals[0](torch.cat([indicators * true[:, None]] * (1 + model.history), 1))
        moved = 1 + (field - field.mean((1, 2, 3, 4), keepdim=True))[:, 0]
        effects.append(bootstrap(ratio(0, 1), columns(error(moved, true), error(iterates(model, cells)[-1], true))))
    where = {"size": size, "cells": len(cells), "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {"claims": [claim("network-keeps-the-solution", most(effects), **where)]}


def contrasts() -> dict:
    """Each network of 16^3 on cells of six contrasts: its error is that of its own answers, which do not change."""
    cells, ratios = sample(128, 16, SEED + 7), (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    fields = {contrast: truth(cells, contrast) for contrast in ratios}
    errors = {
        (kind, own): np.stack([error(prediction, fields[contrast]) for contrast in ratios], 1)
        for kind in KINDS
        for own in CONTRASTS
        for prediction in [iterates(shipped(kind, own), cells)[-1]]
    }
    effects = []  # of the RLN, of which the paper says it
    for own, other in ((10.0, 50.0), (50.0, 10.0)):
        at = ratios.index(other)
        table = columns(errors["rln", own][:, at], errors["rln", other][:, at])
        effects.append(bootstrap(ratio(0, 1), table))
    harder = [bootstrap(ratio(1, 0), columns(errors[kind, 10.0][:, 2], errors[kind, 50.0][:, 4])) for kind in KINDS]
    _, large, found = large_sample()
    for name in ("released fln", "released rln-t", "rln"):
        table = columns(*(error(found[name, contrast][-1], large[contrast]) for contrast in CONTRASTS))
        harder.append(bootstrap(ratio(1, 0), table))
    where = {"size": 16, "cells": 128, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    note = "beside them the released and shipped networks on 48 cells of 31³"
    return {
        "contrasts": list(ratios),
        "mase_percent": {f"{kind}-{own:g}": e.mean(0).round(3).tolist() for (kind, own), e in errors.items()},
        "macroscopic_strain": [round(float(error(torch.ones_like(y), y).mean()), 3) for y in fields.values()],
        "claims": [
            claim("other-contrast-needs-training", least(effects), **where),
            claim("contrast-harder-for-networks", least(harder), **where, note=note),
        ],
    }


def inputs() -> dict:
    """The RLN of 16^3 on cells of other sizes, odd and not cubic, and on a thresholded image that is not periodic."""
    draw = np.random.default_rng(SEED + 8)
    image = torch.from_numpy(draw.random((8, 1, 44, 44, 44))).float()
    smooth = F.avg_pool3d(F.avg_pool3d(image, 5, 1), 5, 1)[:, 0, 8:28, 8:28, 8:28]
    sets = {f"{n}³": sample(8, n, SEED + 8, grain_size=(1, min(10, n // 2))) for n in (12, 17, 21)}
    sets["24 × 16 × 20"] = sample(8, 24, SEED + 9)[:, :, :16, :20]
    sets["thresholded image, 20³"] = smooth > smooth.flatten(1).median(1).values[:, None, None, None]
    effects, rows = [], {}
    for contrast in CONTRASTS:
        model = shipped("rln", contrast)
        for name, cells in sets.items():
            true, field = truth(cells, contrast), iterates(model, cells)[-1]
            table = columns(error(field, true), error(torch.ones_like(true), true))
            effects.append(bootstrap(ratio(0, 1), table))
            rows[f"{name}, contrast {contrast:g}"] = table.mean(0).round(3).tolist()
    where = {"cells": 8, "contrasts": list(CONTRASTS), "data": "other", "training": "shipped"}
    claims = [claim("any-voxelized-input", most(effects), **where, note="of each of five shapes")]
    return {"mase_of_network_and_macroscopic_strain": rows, "claims": claims}


def invariance() -> dict:
    """What a shift by one voxel along each axis does to the shifted answer."""
    changes, effects = {}, []
    for contrast in CONTRASTS:
        models = {f"shipped {kind}, 16³": (shipped(kind, contrast), 16, 16) for kind in KINDS}
        models |= {f"released {kind}, 31³": (released(kind, contrast), 31, 6) for kind in ("fln", "rln-t")}
        for name, (model, size, n) in models.items():
            cells = sample(n, size, SEED + 10)
            field = iterates(model, cells)[-1]
            shifts = [error(iterates(model, cells.roll(1, k))[-1].roll(-1, k), field) for k in (1, 2, 3)]
            effects.append(bootstrap(np.mean, np.mean(shifts, 0)))
            changes[f"{name}, contrast {contrast:g}"] = round(effects[-1][0], 4)
    where = {"contrasts": list(CONTRASTS), "data": "design", "note": "largest of the networks' mean changes"}
    return {"mase_between_percent": changes, "claims": [claim("spatial-invariance", most(effects), **where)]}


def updates() -> dict:
    """Second update over first: of networks, and of classical schemes on the same cells."""
    cells, effects, rows = sample(64, 16, SEED + 11), [], {}
    for contrast in CONTRASTS:
        fields = {kind: iterates(shipped(kind, contrast), cells)[:2] for kind in ("rln-t", "rln")}
        equation = lippmann_schwinger.elastic_equation(cells, contrast)
        passes = solvers.recurrence([solvers.moulinec(equation)] * 2, equation.reference)
        fields["fixed point"] = torch.stack([y.mean(1)[:, 0].float() for y in passes])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # two iterations do not converge
            solved = [rlnlib.solve_strain(cells, contrast, max_iterations=k).strain[:, 0].float() for k in (1, 2)]
        fields["conjugate gradients"] = torch.stack(solved)
        squares = {
            name: [part.square().mean((1, 2, 3)).double().numpy() for part in (y[0] - 1, y[1] - y[0])]
            for name, y in fields.items()
        }

        def second_over_first(first, second):
            return float(np.sqrt(second.mean() / first.mean()))

        rows[f"{contrast:g}"] = {name: round(second_over_first(*parts), 4) for name, parts in squares.items()}
        for kind in ("rln-t", "rln"):
            for control in ("fixed point", "conjugate gradients"):
                table = columns(*squares[kind], *squares[control])
                effects.append(
                    bootstrap(
                        lambda r: second_over_first(r[:, 0], r[:, 1]) / second_over_first(r[:, 2], r[:, 3]), table
                    )
                )
    where = {"size": 16, "cells": 64, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {"second_over_first": rows, "claims": [claim("first-update-is-largest", most(effects), **where)]}


@torch.no_grad()
def operators() -> dict:
    """Two of an RLN's operators on the same fields, and one of them on a sum of fields."""
    cells, effects = sample(32, 16, SEED + 12), []

    def size(field):
        return field.square().mean((1, 2, 3, 4)).double().numpy()

    for contrast in CONTRASTS:
        model, indicators = shipped("rln", contrast), rln.phase_indicators(cells)
        fields = [y[:, None] for y in iterates(model, cells)]
        one, other = (torch.cat([indicators * fields[k + j] for j in (2, 1, 0)], 1) for k in (0, 2))
        first, last = model.proximals[0], model.proximals[-1]
        here, there = first(one), last(one)
        together, apart = last(one + other), last(one) + last(other)
        for a, b in ((there, here), (together, apart)):
            table = columns(size(a - b), size(a))
            effects.append(bootstrap(lambda r: float(np.sqrt(r[:, 0].mean() / r[:, 1].mean())), table))
    where = {"size": 16, "cells": 32, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {"claims": [claim("operators-differ", least(effects), **where)]}


def learned_kernel() -> dict:
    """The mean derivative of the FLN's strain by a voxel's phase, against the stencil of (11), over 5^3 voxels."""
    cells, size, found = sample(64, 16, SEED + 13), 16, []
    for contrast in CONTRASTS:
        model, total = shipped("fln", contrast), torch.zeros(size, size, size)
        draw = np.random.default_rng(0)
        for cell in cells:  # d y(x) / d m(s), by the distance s - x, at a random voxel x of each cell
            indicator = cell[None, None].float().requires_grad_()
            y = model(torch.cat([1 - indicator, indicator], 1))[0, 0]
            x = tuple(draw.integers(0, size, 3))
            (slope,) = torch.autograd.grad(y[x], indicator)
            total += slope[0, 0].roll(tuple(2 - int(k) for k in x), (0, 1, 2))
        operator = green.GreenOperator((size,) * 3, "rotated", (1 + contrast) / 2, 0.3)
        soft, hard = lippmann_schwinger.phase_kernels(operator, [(1.0, 0.3), (contrast, 0.3)])
        # y(x) has -(Gamma^stiff - Gamma^soft)(x - s) of the macroscopic strain for a voxel s that becomes stiff
        kernel = -(hard - soft)[0, 0].flip(0, 1, 2).roll((3, 3, 3), (0, 1, 2))  # at x - s = 0 the index is 2, as above
        box = (slice(0, 5),) * 3
        found.append(float(np.corrcoef(total[box].flatten(), kernel[box].flatten())[0, 1]))
    where = {"size": 16, "cells": 64, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    effect = (float(np.mean(found)), min(found), max(found))
    return {"correlations": found, "claims": [claim("learns-green-function", effect, **where)]}


def first_order() -> dict:
    """One kernel for the phase, by least squares at each frequency, against the FLN on new cells."""
    known, new, effects, rows = sample(2048, 16, SEED + 14), sample(256, 16, SEED + 15), [], {}
    spectrum = torch.fft.rfftn(known.double(), dim=(1, 2, 3))
    for contrast in CONTRASTS:
        wanted = torch.fft.rfftn(truth(known, contrast).double() - 1, dim=(1, 2, 3))
        power = spectrum.abs().square().mean(0)
        kernel = (spectrum.conj() * wanted).mean(0) / (power + 1e-9 * power.mean())
        kernel[0, 0, 0] = 0  # the mean strain is imposed
        true = truth(new, contrast)
        guess = 1 + torch.fft.irfftn(kernel * torch.fft.rfftn(new.double(), dim=(1, 2, 3)), s=(16,) * 3, dim=(1, 2, 3))
        fln = iterates(shipped("fln", contrast), new)[-1]
        table = columns(error(guess.float(), true), error(fln, true))
        effects.append(bootstrap(ratio(0, 1), table))
        rows[f"{contrast:g}"] = table.mean(0).round(3).tolist()
    where = {"size": 16, "cells": 256, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {
        "mase_of_regression_and_fln": rows,
        "claims": [claim("first-order-terms-fall-short", least(effects), **where)],
    }


CASES = {
    case.__name__: case
    for case in (
        released_at_31,
        rln_at_31,
        contrasts,
        outside,
        central_peak,
        more_passes,
        zero_mean,
        keeps_the_solution,
        inputs,
        invariance,
        updates,
        operators,
        learned_kernel,
        first_order,
    )
}
