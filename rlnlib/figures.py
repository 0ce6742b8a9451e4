"""One style for every figure, and figures that carry their caption and their text alternative.

Colours follow Okabe & Ito's palette, which readers with any colour vision can tell apart; fields use ``cividis``, and
signed differences ``RdBu``. Figures keep a white ground, so that they read alike on light and dark pages.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython.display import HTML, display
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PHASE_COLOURS = "viridis"  # as in the paper: yellow is stiff, purple is soft


def use_style() -> None:
    """Set the style of the book for the figures that follow."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.figsize": (6.4, 3.6),
            "font.size": 10,
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
            "legend.frameon": False,
        }
    )


def show(figure: Figure, caption: str, alt: str) -> None:
    """Display a figure with its caption below and ``alt`` for those who cannot see it; closes the figure.

    Raises ValueError if either text is empty.
    """
    if not caption.strip() or not alt.strip():
        raise ValueError("A figure needs a caption and a text alternative: say what it shows, and what is seen.")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    source = base64.b64encode(picture.getvalue()).decode()
    display(
        HTML(
            f'<figure class="rln-figure"><img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    )


def slices(
    fields: Sequence,
    titles: Sequence[str],
    axis: int = 2,
    index: int | None = None,
    symmetric: bool = False,
    limits: tuple[float, float] | None = None,
    label: str = "",
    cmap: str | None = None,
) -> Figure:
    """The same slice of several fields side by side, on one colour scale.

    Drawn with axis 0, the loading axis, upwards where it lies in the slice. ``symmetric`` centres the scale on zero,
    for differences; ``limits`` sets it. The middle slice is taken where ``index`` is None.

    Shape: each field (N1, N2, N3).
    Raises ValueError for fields without three axes, or another number of titles.
    """
    planes = []
    for field in fields:
        values = np.asarray(field.detach().cpu() if isinstance(field, torch.Tensor) else field, dtype=float)
        if values.ndim != 3:
            raise ValueError(f"A field must have the shape (N1, N2, N3); this one has {values.shape}.")
        planes.append(np.take(values, values.shape[axis] // 2 if index is None else index, axis=axis))
    if len(titles) != len(planes):
        raise ValueError(f"There are {len(planes)} fields and {len(titles)} titles; each field needs one.")
    low, high = min(p.min() for p in planes), max(p.max() for p in planes)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if limits is not None:
        low, high = limits
    figure, axes = plt.subplots(1, len(planes), figsize=(2.3 * len(planes) + 0.9, 2.6), squeeze=False)
    for panel, plane, title in zip(axes[0], planes, titles, strict=True):
        colours = cmap or ("RdBu_r" if symmetric else None)
        drawn = panel.imshow(plane, vmin=low, vmax=high, cmap=colours, origin="lower")
        panel.set(title=title, xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes[0].tolist(), label=label, shrink=0.85, extend="max" if limits else "neither")
    return figure


def cubes(fields: Sequence, titles: Sequence[str], labels: Sequence[str], cmaps: Sequence[str | None]) -> Figure:
    """Cells seen from a corner: each voxel of the three faces in view as a square, one colour scale for each field.

    Shape: each field (N1, N2, N3); axis 0, the loading axis, points to the right.
    """
    figure = plt.figure(figsize=(3.6 * len(fields), 2.9), layout="none")
    for n, (field, title, label, cmap) in enumerate(zip(fields, titles, labels, cmaps, strict=True), start=1):
        values = np.asarray(field.detach().cpu() if isinstance(field, torch.Tensor) else field, dtype=float)
        panel = figure.add_subplot(1, len(fields), n, projection="3d")
        norm = plt.Normalize(values.min(), values.max())
        colours = plt.get_cmap(cmap or "cividis")
        edges = [np.arange(size + 1) for size in values.shape]
        for axis, face in ((0, values[-1]), (1, values[:, 0]), (2, values[:, :, -1])):
            first, second = [edge for a, edge in enumerate(edges) if a != axis]
            u, v = np.meshgrid(first, second, indexing="ij")
            at = np.full_like(u, 0 if axis == 1 else values.shape[axis])
            corners = [at if a == axis else (u, v)[a - (a > axis)] for a in range(3)]
            panel.plot_surface(*corners, facecolors=colours(norm(face)), rstride=1, cstride=1, shade=False)
        panel.set(title=title, xticks=[], yticks=[], zticks=[], xlabel="x (load)", ylabel="y", zlabel="z")
        for side in (panel.xaxis, panel.yaxis, panel.zaxis):
            side.labelpad = -12
        panel.set_box_aspect(values.shape, zoom=1.1)
        panel.view_init(elev=28, azim=-55)
        scale = plt.cm.ScalarMappable(norm, colours)
        figure.colorbar(scale, ax=panel, label=label, shrink=0.65, pad=0.08)
    return figure
