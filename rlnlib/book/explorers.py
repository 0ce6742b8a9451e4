"""(cell, contrast, slice, iteration) -> picture: widgets for live notebooks, with a player where no kernel answers.

Needs ipywidgets (the ``book`` extra). Not imported by the library itself.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from rlnlib import _checks, green, lippmann_schwinger, microstructure, regression, rln, solvers, voxel_fe, weight_files
from rlnlib.book import figures
from rlnlib.metrics import mase


class Explorer(widgets.VBox):
    """Controls, the picture that ``draw(**values)`` makes of them, and a line of text; any change draws again.

    ``draw`` returns a figure and the line. Where no kernel answers, as on the pages of the book, a player takes the
    place of the widgets: it goes through the values ``frames`` of the control named ``turn``.
    """

    def __init__(
        self,
        controls: dict[str, widgets.Widget],
        draw: Callable[..., tuple[Figure, str]],
        turn: str,
        frames: Sequence[int],
        caption: str,
        alt: str,
    ):
        self.controls, self.draw = controls, draw
        self.turn, self.frames, self.texts = turn, frames, (caption, alt)
        self.view, self.line = widgets.Image(format="png"), widgets.HTML()
        super().__init__([*controls.values(), self.view, self.line])
        for control in controls.values():
            control.observe(self.refresh, "value")
        self.refresh()

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self, change=None) -> None:
        """Draw the present values; the callback of every control."""
        figure, text = self.draw(**self.values)
        self.view.value, self.line.value = figures.png(figure), text

    def page(self) -> str:
        """The player that stands in for the widgets."""
        drawn = [self.draw(**{**self.values, self.turn: value}) for value in self.frames]
        return figures.player_page([figure for figure, _ in drawn], [text for _, text in drawn], *self.texts, self.turn)

    def _repr_mimebundle_(self, **options):
        data = super()._repr_mimebundle_(**options)
        return {**data, "text/html": self.page()}


def _slider(kind, description: str, value, low, high, **options) -> widgets.Widget:
    return kind(
        value=value,
        min=low,
        max=high,
        description=description,
        continuous_update=False,  # draw when the slider is let go
        style={"description_width": "9rem"},
        layout=widgets.Layout(width="min(32rem, 100%)"),
        **options,
    )


@functools.lru_cache(maxsize=8)
def _cell(size: int, grain_size: int, stiff_fraction: float, seed: int):
    fraction = (stiff_fraction, stiff_fraction)
    return microstructure.generate_cells(1, size, (grain_size, grain_size), fraction, seed=seed)


@functools.lru_cache(maxsize=8)
def _strain(size, grain_size, stiff_fraction, seed, contrast, iterations=2000) -> torch.Tensor:
    """strain_xx after that many iterations of conjugate gradients at most. Shape: -> (N, N, N)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # few iterations do not converge, and are meant not to
        cell = _cell(size, grain_size, stiff_fraction, seed)
        return voxel_fe.solve_strain(cell, contrast, rtol=1e-6, max_iterations=iterations).strain[0, 0]


def _choice_of_cell(size: int, contrast: float, seed: int) -> dict[str, widgets.Widget]:
    """Controls of a cell for which networks are shipped; raises ValueError for another contrast."""
    if contrast not in (10, 50):
        raise ValueError(f"contrast must be 10 or 50, for which networks are shipped; it is {contrast!r}.")
    return {
        "grain_size": _slider(widgets.IntSlider, "grain size", 6, 1, min(10, size)),
        "contrast": widgets.ToggleButtons(options=[10.0, 50.0], value=float(contrast), description="contrast"),
        "seed": _slider(widgets.IntSlider, "seed", seed, 0, 99),
    }


@functools.lru_cache(maxsize=8)
def _iterates(size, grain_size, contrast, seed, network="rln") -> dict[str, list[torch.Tensor]]:
    """strain_xx by iteration or pass of two solvers and a shipped network, y_0 first. Shape: -> lists of (N, N, N)."""
    key = size, grain_size, 0.4, seed
    cell = _cell(*key)
    equation = lippmann_schwinger.elastic_equation(cell, contrast)
    passes = [equation.reference, *solvers.recurrence([solvers.moulinec(equation)] * 10, equation.reference)]
    with torch.no_grad():
        predicted = weight_files.load_pretrained(network, contrast)(rln.phase_indicators(cell), return_iterates=True)
    start = torch.ones(cell.shape[1:], dtype=torch.float64)
    return {
        "fixed point": [y.mean(1)[0, 0] for y in passes],
        "conj. gradients": [start, *(_strain(*key, contrast, i) for i in range(1, 11))],
        figures.NAMES[network]: [start, *(y[0, 0].double() for y in predicted)],
    }


def explore_bar(segments: int = 16, contrast: float = 10.0, seed: int = 0) -> Explorer:
    """Moulinec's iteration on a bar of two phases: contrast, soft fraction, reference medium and passes.

    ``reference`` is the modulus of the reference medium as a multiple of the one half-way between the phases.
    Raises ValueError for fewer than two segments, or a contrast that is not positive.
    """
    segments = _checks.positive_integer("segments", segments, least=2)
    contrast = _checks.positive("contrast", contrast)

    def draw(contrast, soft_fraction, reference, seed, passes):
        soft = min(max(round(soft_fraction * segments), 1), segments - 1)
        modulus = np.full(segments, contrast)
        modulus[np.random.default_rng(seed).permutation(segments)[:soft]] = 1
        exact = 1 / modulus / np.mean(1 / modulus)
        medium = reference * (contrast + 1) / 2
        y, errors, shown = np.ones(segments), [], None
        for i in range(31):
            errors.append(100 * np.abs(y - exact).mean())
            shown = y if i == passes else shown
            polarization = (modulus - medium) * y
            y = 1 - (polarization - polarization.mean()) / medium
        factor = abs(1 - (soft * contrast + segments - soft) / segments / medium)
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0))
        left.stairs(exact, color=figures.PALETTE[1], linestyle="--", label="formula")
        left.stairs(shown, color=figures.PALETTE[0], linewidth=1.6, label=f"pass {passes}")
        left.set(xlabel="segment", ylabel="strain", ylim=(-0.5, 1.2 * exact.max()))
        left.legend(fontsize=8)
        drawn = np.clip(errors, 1e-12, 1e4)  # so that the dot of every pass is in sight
        right.semilogy(drawn, ".-", color="0.6")
        right.semilogy(passes, drawn[passes], "o", color=figures.PALETTE[0])
        right.set(xlabel="pass", ylabel="MASE, percent", ylim=(1e-13, 1e5))
        return figure, f"pass {passes}: error {errors[passes]:.3g} %, times {factor:.2f} in each pass"

    controls = {
        "contrast": _slider(widgets.FloatLogSlider, "contrast", contrast, 0, 3, step=0.1),
        "soft_fraction": _slider(widgets.FloatSlider, "soft fraction", 0.25, 0.0, 1.0, step=0.05),
        "reference": _slider(widgets.FloatSlider, "reference medium", 1.0, 0.3, 2.0, step=0.05),
        "seed": _slider(widgets.IntSlider, "seed", seed, 0, 99),
        "passes": _slider(widgets.IntSlider, "passes", 3, 0, 30),
    }
    return Explorer(
        controls,
        draw,
        "passes",
        (0, 1, 2, 3, 4, 6, 8, 12, 20),
        f"Moulinec's iteration on a random bar of {segments} segments, a quarter of them soft, at contrast "
        f"{contrast:g}, with the reference medium half-way between the phases. Left, the strain after some passes and "
        "the formula's; right, the error of each pass.",
        "Two panels. Left, the steps of the strain grow from a flat line to the dashed steps of the formula. Right, "
        "the error falls along a straight line on a logarithmic scale, and a dot on it marks the pass.",
    )


def explore_cell(size: int = 16, grain_size: int = 6, contrast: float = 50.0, seed: int = 0) -> Explorer:
    """A random cell and its axial strain, slice by slice: grain size, stiff fraction, contrast, seed and iteration.

    Raises ValueError for a size, grain size, contrast or seed that :func:`rlnlib.generate_cells` or
    :func:`rlnlib.solve_strain` refuse.
    """

    def draw(grain_size, stiff_fraction, contrast, seed, iterations, slice):
        key, contrast = (size, grain_size, stiff_fraction, seed), round(contrast, 1)
        strain = _strain(*key, contrast, iterations)
        error = float(mase(strain[None], _strain(*key, contrast)[None]))
        pictures = [_cell(*key)[0], strain]
        figure = figures.slices(pictures, ["phases", "axial strain"], index=slice, limits=(0, 3), label="axial strain")
        stopped = f", the solver stopped {error:.1f} % off" if error >= 0.05 else ""
        return figure, f"slice {slice}: largest strain {float(strain[:, :, slice].max()):.1f}{stopped}"

    controls = {
        "grain_size": _slider(widgets.IntSlider, "grain size", grain_size, 1, min(10, size)),
        "stiff_fraction": _slider(widgets.FloatSlider, "stiff fraction", 0.4, 0.05, 0.95, step=0.05),
        "contrast": _slider(widgets.FloatLogSlider, "contrast", contrast, 0, 3, step=0.1),
        "seed": _slider(widgets.IntSlider, "seed", seed, 0, 99),
        "iterations": _slider(widgets.IntSlider, "CG iterations", 60, 1, 60),
        "slice": _slider(widgets.IntSlider, "slice", size // 2, 0, size - 1),
    }
    step = max(1, size // 8)
    return Explorer(
        controls,
        draw,
        "slice",
        range(0, size, step),
        f"A random unit cell of {size}³ voxels at contrast {contrast:g} (yellow: stiff) and its axial strain, every "
        f"{step} slices along z; the load acts from bottom to top. The scale ends at 3.",
        "Two maps of one slice. Left, yellow stiff grains in a purple matrix. Right, the strain: dark in the grains, "
        "bright in the soft gaps above and below them.",
    )


def explore_solvers(size: int = 16, contrast: float = 50.0, seed: int = 0) -> Explorer:
    """Moulinec's fixed point, conjugate gradients and the shipped RLN on one cell, iteration by iteration.

    The RLN has five passes and stays at its last. ``contrast`` is 10 or 50, for which networks are shipped.
    Raises ValueError for another contrast.
    """

    def draw(grain_size, contrast, seed, iteration):
        truth = _strain(size, grain_size, 0.4, seed, contrast)
        now = {
            name: fields[min(iteration, len(fields) - 1)]
            for name, fields in _iterates(size, grain_size, contrast, seed).items()
        }
        errors = {name: float(mase(field[None], truth[None])) for name, field in now.items()}
        titles = [f"{name}: {error:.0f} %" for name, error in errors.items()] + ["solution"]
        figure = figures.slices([*now.values(), truth], titles, limits=(0, 3), label="axial strain")
        listed = ", ".join(f"{name} {error:.0f} %" for name, error in errors.items())
        return figure, f"iteration {iteration}: {listed}"

    iteration = _slider(widgets.IntSlider, "iteration", 3, 0, 10)
    controls = {**_choice_of_cell(size, contrast, seed), "iteration": iteration}
    return Explorer(
        controls,
        draw,
        "iteration",
        range(11),
        f"Axial strain and mean absolute strain error by iteration, on one unit cell of {size}³ voxels at "
        f"contrast {contrast:g}: Moulinec's fixed point, conjugate gradients, and the five passes of the shipped RLN, "
        "which was trained on unit cells of 16³ voxels.",
        "Four maps of one slice: three solvers and the solution. All start uniform. The network's map changes most in "
        "its first pass and stays as it is after the fifth; those of conjugate gradients and, more slowly, of the "
        "fixed point come closer to the solution with each iteration.",
    )


def explore_passes(size: int = 16, contrast: float = 50.0, seed: int = 0) -> Explorer:
    """A shipped network against two solvers, pass by pass: their strain, what is wrong with it, and the error by pass.

    A network stays at its last pass, the first for the FLN. ``contrast`` is 10 or 50, for which networks are shipped.
    Raises ValueError for another contrast.
    """

    def draw(network, grain_size, contrast, seed, passes):
        truth = _strain(size, grain_size, 0.4, seed, contrast)
        runs = dict(reversed(_iterates(size, grain_size, contrast, seed, network).items()))
        now = {name: fields[min(passes, len(fields) - 1)] for name, fields in runs.items()}
        errors = {name: [float(mase(y[None], truth[None])) for y in fields] for name, fields in runs.items()}
        figure, rows = plt.subplots(2, 4, figsize=(9.2, 4.8))
        wrong = [("minus solution", field - truth) for field in now.values()]
        for axes, fields, scale, label in (
            (rows[0], [("solution", truth), *now.items()], {"vmin": 0, "vmax": 3}, "axial strain"),
            (rows[1, 1:], wrong, {"vmin": -0.5, "vmax": 0.5, "cmap": "RdBu_r"}, "difference"),
        ):
            for panel, (title, field) in zip(axes, fields, strict=True):
                drawn = panel.imshow(field[:, :, size // 2].numpy(), origin="lower", **scale)
                panel.set(title=title, xticks=[], yticks=[])
            figure.colorbar(drawn, ax=list(axes), label=label, shrink=0.85)
        for name, curve in errors.items():
            rows[1, 0].semilogy(curve, ".-", label=name)
        rows[1, 0].axvline(passes, color="0.7", zorder=0)
        rows[1, 0].set(xlabel="pass", title="MASE, percent", ylim=(0.1, 100))
        rows[1, 0].legend(fontsize=7)
        ends = {name: f" (all {len(curve) - 1})" if passes >= len(curve) else "" for name, curve in errors.items()}
        at = [f"{name}{ends[name]} {curve[min(passes, len(curve) - 1)]:.1f} %" for name, curve in errors.items()]
        return figure, f"pass {passes}: " + ", ".join(at)

    controls = {
        "network": widgets.ToggleButtons(options=list(figures.NAMES), value="rln", description="network"),
        **_choice_of_cell(size, contrast, seed),
        "passes": _slider(widgets.IntSlider, "passes", 1, 0, 10),
    }
    return Explorer(
        controls,
        draw,
        "passes",
        (0, 1, 2, 3, 4, 5, 7, 10),
        f"The shipped RLN against two solvers by pass, on one unit cell of {size}³ voxels at contrast {contrast:g}. "
        "Above, the solution and the strain of each; below, its error by pass, with a line at the present one, and its "
        "difference to the solution. The load acts from bottom to top.",
        "Two rows of maps. After one pass the network's strain looks like the solution, and its difference is pale; "
        "those of the solvers have strong colours, which fade with every pass while the network's stays. In the panel "
        "of curves the network falls at once and levels off; conjugate gradients soon pass its last error.",
    )


def explore_kernel(size: int = 12, contrast: float = 10.0, seed: int = 0) -> Explorer:
    """The kernel that least squares fit to random unit cells, beside the first-order kernel of the equation.

    The equation's has the reference medium, of Poisson's ratio 0.3, that makes both most alike.
    Raises ValueError for a size, contrast or seed that :func:`rlnlib.generate_cells` or :func:`rlnlib.solve_strain`
    refuse.
    """

    @functools.lru_cache(maxsize=16)
    def kernels(contrast, n_cells, seed):
        """Kernel learned, that of the equation, and Young's modulus of its medium. Shape: -> (N, N, N), (N, N, N)."""
        cells = microstructure.generate_cells(n_cells, size, (1, min(10, size)), seed=seed)
        strain = voxel_fe.solve_strain(cells, contrast, rtol=1e-4).strain[:, :1]
        soft, stiff = regression.fit_kernels(rln.phase_indicators(cells, torch.float64), strain - 1)[0]
        operator = green.GreenOperator((size,) * 3, "bbar", 1.0, 0.3)
        gamma = lippmann_schwinger.phase_kernels(operator, [(1.0, 0.3), (contrast, 0.3)])[:, 0, 0]
        learned, unit = stiff - soft, gamma[0] - gamma[1]
        unit = unit - unit.mean()
        factor = float((unit * learned).sum() / (unit * unit).sum())
        return learned, factor * unit, 1 / factor

    def draw(contrast, n_cells, seed, slice):
        contrast = round(contrast, 2)
        learned, theory, young = kernels(contrast, n_cells, seed)
        rest = 100 * float((learned - theory).norm() / learned.norm())
        centred = [field.roll((size // 2,) * 3, (0, 1, 2)) for field in (learned, theory, learned - theory)]
        figure = figures.slices(
            centred,
            ["learned", "from the equation", "difference"],
            index=size // 2 + slice,
            limits=(-0.15, 0.15),
            label="axial strain",
            cmap="RdBu_r",
        )
        return figure, f"contrast {contrast:g}: modulus of the reference medium {young:.1f}, rest {rest:.0f} %"

    controls = {
        "contrast": _slider(widgets.FloatLogSlider, "contrast", contrast, 0.1, 2, step=0.1),
        "n_cells": _slider(widgets.IntSlider, "unit cells fitted to", 64, 4, 128, step=4),
        "seed": _slider(widgets.IntSlider, "seed", seed, 0, 99),
        "slice": _slider(widgets.IntSlider, "slices from the voxel", 0, 0, size // 2 - 1),
    }
    return Explorer(
        controls,
        draw,
        "contrast",
        (2, 5, 10, 20, 50, 100),
        "What one stiff voxel, at the centre, adds to the axial strain around it: as fitted to 64 unit cells of "
        f"{size}³ voxels, by the equation's first order with the reference medium that fits best, and the difference, "
        "by contrast. The load acts from bottom to top; the scale ends at ±0.15, and the centre, at higher contrast "
        "also the voxels next to it, are at its ends or beyond.",
        "Three maps. The first two have a dark blue bar across the load at the centre, red lobes above and below it, "
        "pale blue spots at its corners, and are alike at each contrast. The difference is fainter than both.",
    )
