"""Statements of sections 2, 3.1 and 4.1 on the equations and their classical solvers."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import rlnlib
from measured import bootstrap, claim, least, of_seeds, ratio
from rlnlib import elasticity, green, lippmann_schwinger, other_physics, solvers, voxel_fe
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.problem import CellProblem

SEED = 151_000


def largest(field: torch.Tensor) -> float:
    return float(field.abs().max())


def random_cells(n: int, size: int, seed: int = SEED) -> torch.Tensor:
    return torch.from_numpy(rlnlib.generate_cells(n, size=size, grain_size=(1, min(10, size // 2)), seed=seed))


def forms() -> dict:
    """(9), (10), (11) and (25): one right-hand side, and the field that solves it."""
    cells, contrast = random_cells(4, 16), 50.0
    phases = [(1.0, 0.3), (contrast, 0.3)]
    truth = rlnlib.solve_strain(cells, contrast, rtol=1e-10).strain  # (B, 6, N, N, N)
    equation = lippmann_schwinger.elastic_equation(cells, contrast)
    points, _ = solvers.iterate(equation, solvers.anderson(equation), solvers.StoppingRule(1e-9))
    means = points.mean(1, keepdim=True).expand_as(points)  # (B, G, 6, N, N, N)
    missed = 100 * equation.residual(means).mean(1)[:, 0].abs().mean((1, 2, 3))

    one_point = lippmann_schwinger.elastic_equation(cells, contrast, discretization="rotated")
    operator = green.GreenOperator(cells.shape[1:], "rotated", *elasticity.midpoint_medium(phases))
    kernels = lippmann_schwinger.phase_kernels(operator, phases)  # (P, 6, 6, N, N, N)
    y = torch.randn(one_point.reference.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    stiff = cells[:, None].double()
    by_stencil = one_point.reference[:, 0] - sum(
        lippmann_schwinger.convolve(kernel, indicator * y[:, 0])
        for kernel, indicator in zip(kernels, (1 - stiff, stiff), strict=True)
    )
    apart = largest(one_point.phi(y)[:, 0] - by_stencil) / largest(by_stencil)

    by_loop = list(solvers.recurrence([solvers.moulinec(one_point)] * 10, one_point.reference))[-1]
    own = one_point.reference
    stiffness = torch.stack([elasticity.isotropic_stiffness(*phase) for phase in phases])[cells.long()]
    for _ in range(10):  # Moulinec's own form: the strain less the Green operator on the stress
        stress = torch.einsum("bxyzij,bgjxyz->bgixyz", stiffness, own)
        own = own - operator(stress)
    imposed = one_point.reference[:, 0, :, 0, 0, 0]
    where = {"size": 16, "cells": 4, "contrasts": [contrast], "data": "design"}
    return {
        "missed_by_voxel_means_percent": [round(float(value), 3) for value in missed],
        "claims": [
            claim("equation-10-holds", largest(points.mean(1) - truth), **where),
            claim("equations-9-to-11-agree", apart, **where),
            claim("moulinec-is-the-loop", largest(by_loop - own) / largest(own), **where),
            claim("reference-is-the-mean", largest(truth.mean((2, 3, 4)) - imposed), **where),
        ],
    }


def needed_with_and_without_green(cells: torch.Tensor, contrast: float) -> dict[str, list[int]]:
    """Iterations of conjugate gradients to a residual of 1e-6: preconditioned by the Green operator, and plain."""
    phases = [(1.0, 0.3), (contrast, 0.3)]
    operator = green.GreenOperator(cells.shape[1:], "bbar", *elasticity.midpoint_medium(phases))
    strain = torch.tensor([[1.0, 0, 0, 0, 0, 0]], dtype=torch.float64).expand(len(cells), -1)
    needed = {}
    for name in ("preconditioned", "plain"):
        problem = voxel_fe.VoxelProblem(CellProblem(cells.long(), phases, strain), operator)
        if name == "plain":
            problem.precondition = lambda residual: residual
        _, statistics = conjugate_gradient(problem, solvers.StoppingRule(1e-6, max_iterations=1000))
        needed[name] = statistics.iterations.tolist()
    return needed


def without_green() -> dict:
    """Iterations of conjugate gradients that know no Green's function, and of those preconditioned by one."""
    contrast = 50.0
    needed = needed_with_and_without_green(random_cells(8, 16), contrast)
    plain = needed["plain"]
    where = {"size": 16, "cells": 8, "contrasts": [contrast], "data": "design"}
    effect = (float(np.mean(plain)), float(min(plain)), float(max(plain)))
    return {"iterations": needed, "claims": [claim("green-function-needed", effect, **where)]}


def splits() -> dict:
    """Three governing equations solved in L-S form; and the identity in the place of L_a."""
    cells = random_cells(1, 16)
    three = {
        "elasticity": lippmann_schwinger.elastic_equation(cells, 10.0),
        "conduction": other_physics.conduction_equation(cells, (1.0, 10.0)),
        "scattering": other_physics.scattering_equation(torch.full((1, 200), 0.5), 2.0, 1 / 200),
    }
    left = {}
    for name, equation in three.items():
        y, _ = solvers.iterate(equation, solvers.anderson(equation, depth=10), solvers.StoppingRule(1e-11))
        left[name] = float(equation.governing(y).norm() / equation.heterogeneous(y).norm())
    sensible = three["scattering"]
    _, series = solvers.iterate(sensible, solvers.moulinec(sensible), solvers.StoppingRule(1e-9, max_iterations=200))
    y, sizes = torch.zeros_like(sensible.reference), []
    for _ in range(4):  # with the identity Phi(y) = y_R - (H(y) - y) for y_R = 0
        y = y - sensible.governing(y)
        sizes.append(float(sensible.governing(y).norm()))
    growth = min(new / old for old, new in itertools.pairwise(sizes)) if bool(series.converged) else 0.0
    return {
        "governing_over_heterogeneous": left,
        "residuals_with_the_identity": sizes,
        "claims": [
            claim("any-equation-partitions", max(left.values()), note=f"{', '.join(three)}"),
            claim("identity-is-useless", growth, note="scattering in one dimension, 200 points"),
        ],
    }


def gradient() -> dict:
    """(27) against automatic differentiation of (24), and what of the update's mean no multiple of y_R can hold."""
    cosines, left_over, phases = [], [], [(1.0, 0.3), (50.0, 0.3)]
    for seed in range(8):
        cell = random_cells(1, 8, SEED + seed)
        equation = lippmann_schwinger.elastic_equation(cell, 50.0, discretization="rotated")
        operator = green.GreenOperator(cell.shape[1:], "rotated", *elasticity.midpoint_medium(phases))
        kernels = lippmann_schwinger.phase_kernels(operator, phases)
        stiff = cell[:, None].double()

        def loss(y, kernels=kernels, stiff=stiff, equation=equation):
            convolved = [
                lippmann_schwinger.convolve(kernel, indicator * y)
                for kernel, indicator in zip(kernels, (1 - stiff, stiff), strict=True)
            ]
            return 0.5 * (y - equation.reference[:, 0] + convolved[0] + convolved[1]).square().sum()

        y = equation.reference
        for _ in range(2):  # a field on the way to the solution
            y = equation.phi(y)
        true = torch.func.grad(loss)(y[:, 0])
        printed = equation.linearized(equation.residual(y))[:, 0]
        cosines.append(float((true * printed).sum() / true.norm() / printed.norm()))
        mean = true.mean((0, 2, 3, 4))  # of the step: y - y_R has none
        left_over.append(float(mean[1:].norm() / mean.norm()))
    where = {"size": 8, "cells": 8, "contrasts": [50.0], "data": "design"}
    return {
        "cosines": cosines,
        "claims": [
            claim("equation-27-is-the-gradient", of_seeds(cosines), **where),
            claim("equation-28-zero-mean", of_seeds(left_over), **where),
        ],
    }


def iterations() -> dict:
    """Iterations by solver, and by the size of the cell."""
    cells, needed, effects = random_cells(8, 16), {}, []
    names = ("fixed_point", "anderson", "conjugate_gradient")
    for contrast in (10.0, 50.0):
        counts = [rlnlib.solve_strain(cells, contrast, rtol=1e-4, solver=name).iterations for name in names]
        table = torch.stack(counts, 1).double().numpy()
        needed[f"{contrast:g}"] = dict(zip(names, table.mean(0).tolist(), strict=True))
        effects += [bootstrap(ratio(0, k), table) for k in (1, 2)]
    by_size = {}
    for size in (16, 32):
        same_design = torch.from_numpy(rlnlib.generate_cells(16, size=size, grain_size=(1, 8), seed=SEED))
        by_size[size] = needed_with_and_without_green(same_design, 50.0)
    grown = bootstrap(ratio(1, 0), np.array([by_size[16]["plain"], by_size[32]["plain"]]).T)
    return {
        "mean_iterations": needed,
        "conjugate_gradient_iterations_by_size": by_size,
        "claims": [
            claim(
                "complicated-rules-accelerate", least(effects), size=16, cells=8, contrasts=[10.0, 50.0], data="design"
            ),
            claim("linear-solvers-dearer", grown, cells=16, contrasts=[50.0], data="design", note="16³ and 32³ voxels"),
        ],
    }


def operations() -> dict:
    """Counted, not timed: multiplications of a Fourier transform, and operations of an RLN, by the voxels."""

    def multiplications(n: int) -> int:
        """Of a complex fast Fourier transform of length n, split in halves."""
        return 0 if n == 1 else 2 * multiplications(n // 2) + n // 2

    sizes = (16, 32, 64)
    per = {n: 3 * n**2 * multiplications(n) / (n**3 * np.log2(n**3)) for n in sizes}
    counted = {}
    with torch.device("meta"):
        model = rlnlib.RLN()
        for n in sizes:
            with FlopCounterMode(display=False) as counter:
                model(torch.ones(1, 2, n, n, n))
            counted[n] = counter.get_total_flops()
    exponent = float(np.polyfit(np.log([n**3 for n in sizes]), np.log(list(counted.values())), 1)[0])
    return {
        "operations_of_a_prediction": counted,
        "multiplications_over_s_log_s": per,
        "claims": [
            claim("fft-costs-s-log-s", per[64] / per[16], note="counted; 16³ and 64³ voxels"),
            claim("time-linear-in-voxels", exponent, note="floating-point operations, counted; 16³ to 64³ voxels"),
        ],
    }


def materials() -> dict:
    """What changes the strain field more: the contrast, or the Poisson ratios?"""
    cells = random_cells(16, 16)

    def field(contrast, soft, hard):
        phases = [(1.0, soft), (contrast, hard)]
        return rlnlib.solve_strain(cells.long(), phases=phases, rtol=1e-5).strain[:, 0].float()

    def change(a, b):
        return rlnlib.mase(a, b).double().numpy()

    by_contrast = change(field(2.0, 0.3, 0.3), field(50.0, 0.3, 0.3))
    effects, found = [], {"contrast 2 to 50": float(by_contrast.mean())}
    for contrast in (10.0, 50.0):
        pairs = {(a, b): field(contrast, a, b) for a in (0.2, 0.4) for b in (0.2, 0.4)}
        keys = list(pairs)
        for i, one in enumerate(keys):
            for other in keys[i + 1 :]:
                by_poisson = change(pairs[one], pairs[other])
                found[f"contrast {contrast:g}, Poisson {one} to {other}"] = float(by_poisson.mean())
                table = np.stack([by_contrast, by_poisson], 1)
                effects.append(bootstrap(ratio(0, 1), table))
    where = {"size": 16, "cells": 16, "contrasts": [10.0, 50.0], "data": "design"}
    return {"mase_between_percent": found, "claims": [claim("contrast-dominates", least(effects), **where)]}


CASES = {
    "forms": forms,
    "without_green": without_green,
    "splits": splits,
    "gradient": gradient,
    "iterations": iterations,
    "operations": operations,
    "materials": materials,
}
