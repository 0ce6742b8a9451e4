"""One style for every figure, and figures that carry their caption and their text alternative.

Colours follow Okabe & Ito's palette, which readers with any colour vision can tell apart; fields use ``cividis``, and
signed differences ``RdBu``. Figures keep a white ground, so that they read alike on light and dark pages.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NAMES = {"fln": "FLN", "rln-t": "RLN-t", "rln": "RLN"}  # the paper's, of the kinds of rlnlib.rln.KINDS
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
    _need_texts(caption, alt)
    display(
        HTML(
            f'<figure class="rln-figure"><img alt="{html.escape(alt)}" src="{_picture(figure)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    )


def table(header: Sequence, rows: Sequence[Sequence], caption: str) -> None:
    """Display a table with its caption: words to the left, numbers to the right; the first column heads the rows.

    Raises ValueError for an empty caption, or a row of another length than the header.
    """
    _need_texts(caption, "table")
    if wrong := [row for row in rows if len(row) != len(header)]:
        raise ValueError(f"Each row needs {len(header)} entries, as the header has; {wrong[0]!r} has {len(wrong[0])}.")

    def entry(tag: str, value, column: int) -> str:
        scope = {"th": ' scope="col"'}.get(tag, "") if column or tag == "th" else ""
        side = "left" if column == 0 else "right"
        text = re.sub(r" (?=[%±]|ms\b)|(?<=±) ", "\u00a0", html.escape(str(value)))  # a number keeps its unit
        return f'<{tag}{scope} style="text-align:{side}">{text}</{tag}>'

    def line(tag: str, values: Sequence) -> str:
        return "<tr>" + "".join(entry(tag, value, column) for column, value in enumerate(values)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    display(
        HTML(
            f'<table class="rln-table"><caption>{html.escape(caption)}</caption><thead>{line("th", header)}</thead>'
            f"<tbody>{body}</tbody></table>"
        )
    )


def player(frames: Sequence[Figure], titles: Sequence[str], caption: str, alt: str, label: str = "frame") -> None:
    """Display pictures to leaf through: :func:`player_page`, for slices through a cell or the passes of a solver."""
    display(HTML(player_page(frames, titles, caption, alt, label)))


def player_page(frames: Sequence[Figure], titles: Sequence[str], caption: str, alt: str, label: str = "frame") -> str:
    """HTML of pictures to leaf through by slider or arrow keys, Home and End; closes the figures.

    It needs neither a kernel nor a network, and nothing moves by itself. Without JavaScript, and on paper, it is a
    strip of all the pictures. ``label`` says what a picture is ("slice", "pass"); each title names one, and is read
    out when it is reached.

    Raises ValueError for fewer than two frames, another number of titles, or an empty text.
    """
    _need_texts(caption, alt)
    if len(frames) < 2 or len(titles) != len(frames):
        raise ValueError(
            f"A player needs two frames or more and a title for each; there are {len(frames)} frames and "
            f"{len(titles)} titles."
        )
    pictures = "".join(
        f'<div class="rln-frame"><img alt="{html.escape(f"{title}. {alt}")}" src="{_picture(frame)}">'
        f"<p>{html.escape(title)}</p></div>"
        for frame, title in zip(frames, titles, strict=True)
    )
    return (
        f'<figure class="rln-figure rln-player" tabindex="0" role="group" aria-label="{html.escape(label)}: leaf '
        f'through with the arrow keys"><style>{_PLAYER_STYLE}</style>{pictures}'
        f'<div class="rln-controls" hidden><label>{html.escape(label)} '
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" step="1"></label>'
        f'<output aria-live="polite"></output></div>'
        f"<figcaption>{html.escape(caption)}</figcaption><script>{_PLAYER_SCRIPT}</script></figure>"
    )


# Everything is in view until the script, which then shows one picture at a time and the controls.
_PLAYER_STYLE = """
.rln-player .rln-frame{display:inline-block;max-width:100%;vertical-align:top}
.rln-player .rln-frame p{margin:0 0 .8em;text-align:center}
.rln-player:focus-visible{outline:3px solid currentColor;outline-offset:4px}
.rln-player .rln-controls label{display:flex;flex:1 1 14rem;gap:.6em;margin:0}
.rln-player .rln-controls input{flex:1;min-width:6rem}
.rln-player .rln-controls output{flex:1 1 14rem;font-variant-numeric:tabular-nums}
@media screen{
.rln-player.rln-on .rln-frame,.rln-player.rln-on .rln-frame p{display:none}
.rln-player.rln-on .rln-frame.rln-now{display:block}
.rln-player .rln-controls:not([hidden]){align-items:center;display:flex;flex-wrap:wrap;gap:.2em 1.2em;
margin:.4rem auto 0;max-width:46rem}}
@media print{.rln-player .rln-controls{display:none}}
""".replace("\n", "")

_PLAYER_SCRIPT = """
for (const player of document.querySelectorAll(".rln-player:not(.rln-on)")) {
  const frames = [...player.querySelectorAll(".rln-frame")], last = frames.length - 1;
  const slider = player.querySelector("input"), spoken = player.querySelector("output");
  const go = (wanted) => {
    const now = Math.max(0, Math.min(last, wanted)), title = frames[now].querySelector("p").textContent;
    frames.forEach((frame, i) => frame.classList.toggle("rln-now", i === now));
    slider.value = now;
    slider.setAttribute("aria-valuetext", title);
    spoken.textContent = `${title} (${now + 1} of ${last + 1})`;
  };
  player.addEventListener("keydown", (event) => {
    const now = Number(slider.value);
    const wanted = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last}[event.key];
    if (wanted === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(wanted);
  });
  slider.addEventListener("input", () => go(Number(slider.value)));
  player.classList.add("rln-on");
  player.querySelector(".rln-controls").hidden = false;
  go(0);
}
"""


def _need_texts(caption: str, alt: str) -> None:
    if not caption.strip() or not alt.strip():
        raise ValueError("A figure needs a caption and a text alternative: say what it shows, and what is seen.")


def png(figure: Figure) -> bytes:
    """The figure on white as a PNG, the same bytes each time; closes the figure."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return picture.getvalue()


def _picture(figure: Figure) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"


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
    """The same slice of several fields side by side, on one colour scale; more than four stand in two rows.

    Drawn with axis 0, the loading axis, upwards where it lies in the slice. ``symmetric`` centres the scale on zero,
    for differences; ``limits`` sets it. The middle slice is taken where ``index`` is None. A boolean field is a
    microstructure: it has the two colours of the phases and a legend, and no part in the scale.

    Shape: each field (N1, N2, N3).
    Raises ValueError for fields without three axes, an index beyond them, or another number of titles.
    """
    planes = []
    for field in fields:
        values = np.asarray(field.detach().cpu() if isinstance(field, torch.Tensor) else field)
        if values.ndim != 3:
            raise ValueError(f"A field must have the shape (N1, N2, N3); this one has {values.shape}.")
        if index is not None and not -values.shape[axis] <= index < values.shape[axis]:
            raise ValueError(f"index must be a slice of axis {axis}, 0 to {values.shape[axis] - 1}; it is {index}.")
        planes.append(np.take(values, values.shape[axis] // 2 if index is None else index, axis=axis))
    if len(titles) != len(planes):
        raise ValueError(f"There are {len(planes)} fields and {len(titles)} titles; each field needs one.")
    scaled = [plane for plane in planes if plane.dtype != bool] or [np.zeros(1)]
    low, high = min(p.min() for p in scaled), max(p.max() for p in scaled)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if limits is not None:
        low, high = limits
    rows = 1 if len(planes) <= 4 else 2  # more in a row would be too small to read
    columns = -(-len(planes) // rows)
    figure, grid = plt.subplots(rows, columns, figsize=(2.3 * columns + 0.9, 2.75 * rows), squeeze=False)
    panels = grid.ravel().tolist()
    for unused in panels[len(planes) :]:
        unused.set_visible(False)
    drawn = None
    for panel, plane, title in zip(panels, planes, titles, strict=False):
        if plane.dtype == bool:
            phases(panel, plane)
        else:
            colours = cmap or ("RdBu_r" if symmetric else None)
            drawn = panel.imshow(plane, vmin=low, vmax=high, cmap=colours, origin="lower")
        panel.set(title=title, xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    if drawn is not None:
        beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        reach = min(p.min() for p in scaled) < low, max(p.max() for p in scaled) > high
        figure.colorbar(drawn, ax=panels, label=label, shrink=0.85, extend=beyond[reach])
    return figure


def phases(panel: Axes, stiff: np.ndarray, names: tuple[str, str] = ("soft", "stiff")) -> None:
    """Draw a slice of a microstructure in the colours of its two phases, with a legend below.

    Shape: stiff (N1, N2) bool.
    """
    panel.imshow(stiff, vmin=0, vmax=1, cmap=PHASE_COLOURS, origin="lower")
    colours = plt.get_cmap(PHASE_COLOURS)([0.0, 1.0])
    handles = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    panel.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=8, handlelength=1)


def cubes(
    fields: Sequence,
    titles: Sequence[str],
    labels: Sequence[str],
    cmaps: Sequence[str | None],
    tops: Sequence[float | None] | None = None,
) -> Figure:
    """Cells seen from a corner: each voxel of the three faces in view as a square, one colour scale for each field.

    A boolean field has the two colours of the phases. A scale ends at the field's entry of ``tops``, with an arrow for
    higher values, or at its highest value.

    Shape: each field (N1, N2, N3); axis 0, the loading axis, points to the right.
    """
    tops = tops or [None] * len(fields)
    figure = plt.figure(figsize=(3.6 * len(fields), 2.9), layout="none")
    parts = zip(fields, titles, labels, cmaps, tops, strict=True)
    for n, (field, title, label, cmap, top) in enumerate(parts, start=1):
        values = np.asarray(field.detach().cpu() if isinstance(field, torch.Tensor) else field)
        panel = figure.add_subplot(1, len(fields), n, projection="3d")
        norm = plt.Normalize(values.min(), values.max() if top is None else top)
        colours = plt.get_cmap(cmap or "cividis")
        if values.dtype == bool:
            norm, colours = plt.Normalize(0, 1), plt.get_cmap(PHASE_COLOURS, 2)
        edges = [np.arange(size + 1) for size in values.shape]
        for axis, face in ((0, values[-1]), (1, values[:, 0]), (2, values[:, :, -1])):
            first, second = [edge for a, edge in enumerate(edges) if a != axis]
            u, v = np.meshgrid(first, second, indexing="ij")
            at = np.full_like(u, 0 if axis == 1 else values.shape[axis])
            corners = [at if a == axis else (u, v)[a - (a > axis)] for a in range(3)]
            painted = colours(norm(face.astype(float)))
            panel.plot_surface(*corners, facecolors=painted, rstride=1, cstride=1, shade=False)
        panel.set(title=title, xticks=[], yticks=[], zticks=[], xlabel="x (load)", ylabel="y", zlabel="z")
        for side in (panel.xaxis, panel.yaxis, panel.zaxis):
            side.labelpad = -12
        panel.set_box_aspect(values.shape, zoom=1.1)
        panel.view_init(elev=28, azim=-55)
        drawn, extend = plt.cm.ScalarMappable(norm, colours), "max" if values.max() > norm.vmax else "neither"
        bar = figure.colorbar(drawn, ax=panel, label=label, shrink=0.65, pad=0.08, extend=extend)
        if values.dtype == bool:
            bar.set_ticks([0.25, 0.75], labels=["soft", "stiff"])
    return figure
