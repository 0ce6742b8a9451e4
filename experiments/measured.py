"""What experiments on the paper's statements share: measurements for the ledger, intervals, the worst of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import yaml

from rlnlib import dataset, informed, provenance, weight_files

#: A measured effect: its value, its lowest and its highest.
Effect = tuple[float, float, float]

#: Names of the shipped weights that the case in progress has used.
USED: set[str] = set()


def used(kind: str, contrast: float, size: int = weight_files.DEFAULT_SIZE) -> str:
    """Note that a case uses shipped weights, or what was recorded of them; returns their name."""
    name = weight_files.shipped_name(kind, contrast, size)
    USED.add(name)
    return name


def draw_test_cells(design: dataset.Parameters, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Records of so many test cells of a design, drawn at random, and the number of all of them."""
    test = np.flatnonzero(dataset.draw_split(design.n, design.seed) == dataset.SPLITS.index("test"))
    return np.random.default_rng(seed).permutation(test)[:count], len(test)


def axial_cells(stiff: torch.Tensor, contrast: float, dtype=torch.float32) -> informed.Cells:
    """Cells of two phases under a load along axis 0, with the Poisson ratio of the reference medium.

    Shape: (B, N, N, N), 1 where stiff -> B cells, on the device of ``stiff``.
    """
    young = torch.where(stiff.bool(), contrast, 1.0).double()
    axial = young.new_tensor([1, 0, 0, 0, 0, 0]).expand(len(young), 6)
    return informed.Cells(young, torch.full_like(young, informed.REFERENCE_POISSON), axial, dtype)


def published(name: str) -> float:
    """The number of the paper's that a claim is about, from ``book/claims.yml``, the one place that has it."""
    items = yaml.safe_load((provenance.ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
    return next(item["published"] for item in items if item["id"] == name)


def row_of_table_1(kind: str, contrast: float) -> tuple[float, float]:
    """Mean and deviation in Table 1; ``kind`` is "comparison" or that of a network."""
    mean, deviation = (published(f"table-1-{which}-{kind}-{contrast:g}") for which in ("mean", "deviation"))
    return mean, deviation


def claim(name: str, effect: Effect | float | bool, **conditions) -> dict:
    """A measurement as the ledger of claims reads it (``rlnlib.book.claims``).

    Args:
        name: the claim's id in ``book/claims.yml``.
        effect: value, lowest and highest; or a value without chance; or whether the claim holds.
        conditions: size, cells, contrasts, data, training, seeds, machine, note.
    """
    if isinstance(effect, tuple):
        value, low, high = (rounded(x) for x in effect)
        return {"claim": name, "value": value, "interval": [low, high], "conditions": conditions}
    return {"claim": name, "value": effect if isinstance(effect, bool) else rounded(effect), "conditions": conditions}


def rounded(value: float) -> float:
    """To five digits; what is smaller than 1e-15 is zero."""
    return float(f"{value:.5g}") if abs(value) > 1e-15 else 0.0


def bootstrap(statistic: Callable[..., float], *groups: np.ndarray, resamples: int = 2000) -> Effect:
    """A statistic of groups of rows, one row for each cell, and its 95 % bootstrap interval.

    Each group is resampled by itself, so that the arrays of a tuple are groups of different cells, and the columns of
    one array belong to the same cell.
    """
    draw = np.random.default_rng(0)
    rows = [np.asarray(group, dtype=float) for group in groups]
    found = [statistic(*(group[draw.integers(0, len(group), len(group))] for group in rows)) for _ in range(resamples)]
    low, high = np.quantile(found, [0.025, 0.975])
    value = statistic(*rows)
    return value, min(low, value), max(high, value)


def of_seeds(values: Sequence[float]) -> Effect:
    """The mean over the seeds, and the lowest and the highest of them: a bound holds "for each seed" within these."""
    return float(np.mean(values)), min(values), max(values)


def least(effects: Iterable[Effect]) -> Effect:
    """The effect that a bound from below must hold for, where it must hold for each of several."""
    return tuple(min(parts) for parts in zip(*effects, strict=True))  # type: ignore[return-value]


def most(effects: Iterable[Effect]) -> Effect:
    """The effect that a bound from above must hold for, where it must hold for each of several."""
    return tuple(max(parts) for parts in zip(*effects, strict=True))  # type: ignore[return-value]


def ratio(over: int, under: int) -> Callable[[np.ndarray], float]:
    """The statistic "mean of one column over mean of another"."""
    return lambda rows: float(rows[:, over].mean() / rows[:, under].mean())
