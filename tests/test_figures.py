import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlnlib import figures, notebook


def test_a_figure_is_shown_with_its_texts(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figure = figures.slices([np.zeros((4, 4, 4)), torch.ones(4, 4, 4)], ["a", "b"])
    figures.show(figure, caption="Strain < 3", alt='A "map"')
    (page,) = shown
    assert 'alt="A &quot;map&quot;"' in page.data and "<figcaption>Strain &lt; 3</figcaption>" in page.data
    assert not plt.fignum_exists(figure.number)


def test_the_same_figure_has_the_same_bytes(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    for _ in range(2):
        figures.show(figures.slices([np.eye(4)[None].repeat(4, 0)], ["a"]), "caption", "alternative")
    assert shown[0].data == shown[1].data


def test_slices_share_one_scale():
    figure = figures.slices([np.zeros((4, 4, 4)), np.full((4, 4, 4), -3.0)], ["a", "b"], symmetric=True)
    assert [panel.images[0].get_clim() for panel in figure.axes[:2]] == [(-3, 3)] * 2
    plt.close(figure)


def test_cubes_show_the_faces_in_view():
    figure = figures.cubes([np.random.default_rng(0).random((3, 4, 5))], ["a"], ["b"], [None])
    assert sum(len(c.get_facecolor()) for c in figure.axes[0].collections) == 4 * 5 + 3 * 5 + 3 * 4
    plt.close(figure)


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.show(plt.figure(), "", "alternative"),
        lambda: figures.show(plt.figure(), "caption", " "),
        lambda: figures.slices([np.zeros((4, 4))], ["a"]),
        lambda: figures.slices([np.zeros((4, 4, 4))], ["a", "b"]),
        lambda: notebook.start(seed=-1),
        lambda: notebook.start(device="gpu"),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_start_seeds_and_names_the_device(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    monkeypatch.setenv("RLN_PROFILE", "ci")
    device = notebook.start(3, "cpu")
    first = torch.rand(1), np.random.random()
    notebook.start(3, "cpu")
    assert device == torch.device("cpu") and first == (torch.rand(1), np.random.random())
    assert "profile ci" in shown[0].data and "CPU" in shown[0].data and "seed 3" in shown[0].data


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="no GPU"):
        notebook.start(device="cuda")
