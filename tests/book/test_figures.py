import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlnlib.book import figures, notebook


def test_a_figure_is_shown_with_its_texts(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figure = figures.slices([np.zeros((4, 4, 4)), torch.ones(4, 4, 4)], ["a", "b"])
    figures.show(figure, caption="Strain < 3", alt='A "map"')
    (page,) = shown
    assert 'alt="A &quot;map&quot;"' in page.data and "<figcaption>Strain &lt; 3</figcaption>" in page.data
    assert not plt.fignum_exists(figure.number)


def test_a_table_aligns_its_numbers_and_carries_its_caption(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figures.table(["pass", "error"], [["first < 2", "1.5 %"], ["second", "0.5 %"]], "Error by pass.")
    page = shown[0].data
    assert "<caption>Error by pass.</caption>" in page and "first &lt; 2" in page
    assert page.count('scope="col"') == 2 and page.count("text-align:right") == 3
    with pytest.raises(ValueError, match="needs 2 entries"):
        figures.table(["pass", "error"], [["one"]], "Error by pass.")


def test_what_is_missed_is_printed_as_a_power_of_ten_and_refused_where_it_is_large(capsys):
    notebook.missed("(11)", torch.tensor([1e-13, -2.3e-13]), 1e-12)
    assert capsys.readouterr().out == "(11): missed by 2e-13\n"
    notebook.missed("(11)", torch.zeros(2), 1e-12)
    assert capsys.readouterr().out == "(11): missed by 0\n"
    for difference in (torch.tensor([1e-13, -2e-12]), np.array([np.nan])):
        with pytest.raises(AssertionError, match="missed by"):
            notebook.missed("(11)", difference, 1e-12)


def test_identities_stand_in_a_table_with_the_limits_that_they_keep(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    notebook.agreement([("(10)", np.array([3e-14]), 1e-12), ("(11)", torch.tensor([-2e-8]), 2.5e-8)], "By voxel.")
    assert ">(10)<" in shown[0].data and ">1e-12<" in shown[0].data and ">2.5e-08<" in shown[0].data
    for difference in (torch.tensor([1e-13, -2e-12]), np.array([np.nan])):
        with pytest.raises(AssertionError, match=r"\(11\): missed by"):
            notebook.agreement([("(10)", 0.0, 1e-12), ("(11)", difference, 1e-12)], "By voxel.")


def test_the_same_figure_has_the_same_bytes(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    for _ in range(2):
        figures.show(figures.slices([np.eye(4)[None].repeat(4, 0)], ["a"]), "caption", "alternative")
    assert shown[0].data == shown[1].data


def frames(n=3):
    return [figures.slices([np.full((4, 4, 4), float(i))], ["a"], limits=(0, n)) for i in range(n)]


class Parts(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_player_holds_every_picture_with_its_texts_and_needs_no_network():
    made = frames()
    page = figures.player_page(made, ["pass 0", "pass 1 < 2", "pass 2"], "The caption.", "The alternative.", "pass")
    parts = Parts(page)
    assert [image["alt"] for image in parts.of("img")] == [
        f"{title}. The alternative." for title in ("pass 0", "pass 1 < 2", "pass 2")
    ]
    assert len({image["src"] for image in parts.of("img")}) == 3
    assert all(image["src"].startswith("data:image/png;base64,") for image in parts.of("img"))
    assert not re.search("https?:|//|url\\(|@import", re.sub('data:image/png;base64,[^"]*', "", page))
    assert "<figcaption>The caption.</figcaption>" in page
    (outer,) = parts.of("figure")
    assert "rln-player" in outer["class"].split() and outer["tabindex"] == "0"
    (slider,) = parts.of("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "2")
    assert parts.of("output")[0]["aria-live"] == "polite" and "<label>pass <input" in page
    assert not [attributes for _, attributes in parts.tags if "id" in attributes], "many players on a page"
    assert not any(plt.fignum_exists(figure.number) for figure in made)


def test_a_player_has_the_same_bytes_and_no_timer():
    pages = [figures.player_page(frames(), ["a", "b", "c"], "caption", "alternative") for _ in range(2)]
    assert pages[0] == pages[1]
    assert not re.search("setInterval|setTimeout|requestAnimationFrame|autoplay", pages[0])


def test_a_player_is_a_strip_until_its_script_runs():
    """What hides pictures takes the class that the script gives, and holds for screens alone, not for paper."""
    page = figures.player_page(frames(), ["a", "b", "c"], "caption", "alternative")
    style = page[page.index("<style>") : page.index("</style>")]
    before, screen = style.split("@media print")[0].split("@media screen")
    assert "display:none" not in before and screen.count("display:none") == 1
    assert re.search(r"\.rln-on \.rln-frame[^}]*\{display:none", screen)
    assert "rln-on" not in page.split("<script>")[0].replace(style, "")


def test_a_player_answers_to_keys_in_a_browser(tmp_path):
    """Two on one page: keys move the focused one only, and stop at the ends; without the script all are in view."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = figures.player_page(frames(), ["pass 0", "pass 1", "pass 2"], "caption", "alternative", "pass")
    probe = """<script>
    const [one, two] = document.querySelectorAll(".rln-player"), log = [];
    const state = (p) => [...p.querySelectorAll(".rln-frame")].map((f) => +(f.offsetParent !== null)).join("")
      + (p.querySelector("input").offsetParent ? "+" : "-");
    const note = () => log.push(`${state(one)}/${state(two)}/${one.querySelector("output").textContent}`);
    note();
    for (const key of ["ArrowRight", "End", "ArrowRight", "Home", "ArrowLeft", "a"]) {
      one.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true})); note();
    }
    const slider = two.querySelector("input"); slider.value = 1; slider.dispatchEvent(new Event("input")); note();
    document.body.insertAdjacentHTML("beforeend", `<pre>${log.join(";")}</pre>`);
    </script>"""
    bare = re.sub("<script>.*?</script>", "", page, flags=re.S)

    def rendered(text):
        (tmp_path / "page.html").write_text(
            f"<!doctype html><meta charset='utf-8'><style>[hidden]{{display:none!important}}</style><body>{text}</body>"
        )
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--dump-dom", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return re.findall("<pre>(.*?)</pre>", done.stdout)[-1].split(";")

    assert rendered(page + page + probe) == [
        "100+/100+/pass 0 (1 of 3)",
        "010+/100+/pass 1 (2 of 3)",
        "001+/100+/pass 2 (3 of 3)",
        "001+/100+/pass 2 (3 of 3)",
        "100+/100+/pass 0 (1 of 3)",
        "100+/100+/pass 0 (1 of 3)",
        "100+/100+/pass 0 (1 of 3)",
        "100+/010+/pass 0 (1 of 3)",
    ]
    assert rendered(bare + bare + probe)[0] == "111-/111-/"


def test_slices_share_one_scale():
    figure = figures.slices([np.zeros((4, 4, 4)), np.full((4, 4, 4), -3.0)], ["a", "b"], symmetric=True)
    assert [panel.images[0].get_clim() for panel in figure.axes[:2]] == [(-3, 3)] * 2
    plt.close(figure)


def test_cubes_show_the_faces_in_view():
    figure = figures.cubes([np.random.default_rng(0).random((3, 4, 5))], ["a"], ["b"], [None])
    assert sum(len(c.get_facecolor()) for c in figure.axes[0].collections) == 4 * 5 + 3 * 5 + 3 * 4
    plt.close(figure)


def test_a_scale_of_cubes_ends_where_it_is_told_or_at_the_highest_value():
    figure = figures.cubes([np.arange(60.0).reshape(3, 4, 5)] * 2, ["a", "b"], ["", ""], [None, None], tops=[None, 3])
    assert [figure.axes[bar].get_ylim() for bar in (1, 3)] == [(0, 59), (0, 3)]
    plt.close(figure)


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.show(plt.figure(), "", "alternative"),
        lambda: figures.show(plt.figure(), "caption", " "),
        lambda: figures.player_page(frames(1), ["a"], "caption", "alternative"),
        lambda: figures.player_page(frames(2), ["a"], "caption", "alternative"),
        lambda: figures.player_page(frames(2), ["a", "b"], "caption", ""),
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


def test_a_boolean_field_is_drawn_in_the_colours_of_the_phases_and_has_no_part_in_the_scale():
    stiff = np.indices((4, 4, 4)).sum(0) % 2 == 0
    strain = np.linspace(2, 3, 64).reshape(4, 4, 4)
    left, right, bar = figures.slices([stiff, strain], ["phases", "strain"], label="strain").axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["soft", "stiff"]
    assert left.images[0].get_cmap().name == figures.PHASE_COLOURS
    assert right.get_images()[0].get_clim() == (strain[:, :, 2].min(), strain[:, :, 2].max())
    assert bar.get_ylabel() == "strain" and right.get_legend() is None
    as_numbers, *_ = figures.slices([stiff.astype(float), strain], ["phases", "strain"]).axes
    assert as_numbers.get_legend() is None and as_numbers.images[0].get_clim()[0] == 0
    assert len(figures.slices([stiff], ["phases"]).axes) == 1  # nothing that a scale could belong to
    plt.close("all")


def test_a_slice_that_a_field_does_not_have_is_refused():
    field = np.zeros((4, 5, 6))
    assert figures.slices([field], ["a"], index=-1)
    with pytest.raises(ValueError, match="index must be a slice of axis 1, 0 to 4; it is 5"):
        figures.slices([field], ["a"], axis=1, index=5)


def test_more_than_four_slices_stand_in_two_rows():
    fields = [np.full((4, 4, 4), float(i)) for i in range(6)]
    for n, wanted in ((4, 1), (5, 2), (6, 2)):
        figure = figures.slices(fields[:n], list("abcdef"[:n]))
        titled = [axes for axes in figure.axes if axes.get_title()]
        assert [axes.get_title() for axes in titled] == list("abcdef"[:n])
        assert {axes.get_subplotspec().rowspan.start for axes in titled} == set(range(wanted))
    plt.close("all")
