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
    label: str = "",
    cmap: str | None = None,
) -> Figure:
    """The same slice of several fields side by side, on one colour scale.

    Drawn with axis 0, the loading axis, upwards where it lies in the slice. ``symmetric`` centres the scale on zero,
    for differences. The middle slice is taken where ``index`` is None.

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
    figure, axes = plt.subplots(1, len(planes), figsize=(2.3 * len(planes) + 0.9, 2.6), squeeze=False)
    for panel, plane, title in zip(axes[0], planes, titles, strict=True):
        colours = cmap or ("RdBu_r" if symmetric else None)
        drawn = panel.imshow(plane, vmin=low, vmax=high, cmap=colours, origin="lower")
        panel.set(title=title, xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes[0].tolist(), label=label, shrink=0.85)
    return figure
