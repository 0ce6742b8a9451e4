"""The pages beside the notebooks, checked against the library; and cells that all notebooks share."""

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tifffile
import torch

import claims_page
import pages
import project
import rlnlib
import sphinx_equations as equations
from rlnlib import elasticity, green, informed, lippmann_schwinger, microstructure, networks, rln, weight_files
from rlnlib.book import claims, notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = project.notebooks()
CELLS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in NOTEBOOKS}
PROSE = {
    **{path.stem: "\n".join("".join(c["source"]) for c in CELLS[path.stem] if c["cell_type"] == "markdown")
       for path in NOTEBOOKS},
    **{path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")},
}  # fmt: skip

CELL = microstructure.generate_cells(2, size=4, grain_size=(1, 2), seed=1)  # B = 2, N = 4
SIZES = {"B": 2, "N": 4, "G": 8}


def notation():
    """Rows of the table: symbol, meaning, code, shape, unit."""
    lines = [
        line
        for line in (ROOT / "book" / "notation.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:]]


def named(code):
    """What a name of the notation page stands for; None for one that is not there."""
    name = code.strip("`").split("(")[0]
    parts = name.split(".")
    module = importlib.util.find_spec(f"rlnlib.{parts[0]}")
    thing = importlib.import_module(module.name) if module else getattr(rlnlib, parts[0], None)
    for part in parts[1:]:
        fields = getattr(thing, "__dataclass_fields__", {})
        thing = fields[part] if part in fields else getattr(thing, part, None)
    return thing


CODES = [row[2].strip("`") for row in notation() if row[2].startswith("`")]


@pytest.mark.parametrize("code", CODES)
def test_a_name_of_the_notation_page_exists(code):
    thing = named(code)
    assert thing is not None
    if argument := re.search(r"\((\w+)\)", code):
        assert argument[1] in inspect.signature(thing).parameters


def test_a_name_that_does_not_exist_is_found_out():
    assert named("solvers.moulin") is None and named("Solution.strains") is None and named("nothing") is None


def called():
    """An array for each name of the page with a shape, by calling what it names."""
    solution = rlnlib.solve_strain(CELL, 10.0, rtol=1e-4)
    equation = lippmann_schwinger.elastic_equation(CELL, 10.0)
    operator = green.GreenOperator(CELL.shape[1:])
    young = torch.ones(CELL.shape)
    cells = informed.Cells(young, 0.3 * young, torch.eye(6)[:1].expand(len(CELL), 6))
    return {
        "rln.phase_indicators": rln.phase_indicators(CELL),
        "generate_cells": torch.from_numpy(CELL),
        "Solution.stress": solution.stress,
        "Solution.strain": solution.strain,
        "Solution.effective_stress": solution.effective_stress,
        "elasticity.isotropic_stiffness": elasticity.isotropic_stiffness(1.0, 0.3),
        "effective_stiffness": rlnlib.effective_stiffness(CELL, 10.0, rtol=1e-4),
        "green.GreenOperator.displacement": operator.displacement(torch.zeros(2, 3, *CELL.shape[1:]).double()),
        "lippmann_schwinger.green_kernel": lippmann_schwinger.green_kernel(operator),
        "lippmann_schwinger.phase_kernels": lippmann_schwinger.phase_kernels(operator, [(1.0, 0.3), (10.0, 0.3)]),
        "lippmann_schwinger.GoverningEquation.reference": equation.reference,
        "lippmann_schwinger.GoverningEquation.phi": equation.phi(equation.reference),
        "predict_strain": rlnlib.predict_strain(rlnlib.RLN(passes=1), CELL),
        "networks.VNet": networks.VNet()(torch.zeros(2, 6, *CELL.shape[1:])),
        "mase": rlnlib.mase(torch.ones(CELL.shape), torch.ones(CELL.shape)),
        "Solution.displacement": solution.displacement,
        "informed.Cells.energy": cells.energy(torch.zeros_like(cells.problem.rhs)),
        "Solution.energy_bounds": rlnlib.predict(informed.InformedRLN(passes=1), CELL, 10.0).energy_bounds,
    }


def test_a_shape_of_the_notation_page_is_what_a_call_returns():
    stated = {row[2].strip("`"): row[3].strip("`") for row in notation() if row[3]}
    arrays = called()
    assert set(stated) == set(arrays)
    for name, shape in stated.items():
        sizes = [SIZES.get(part, part) for part in re.findall(r"\w+", shape)]
        assert [int(size) for size in sizes] == list(arrays[name].shape), name


def test_every_equation_of_the_paper_is_numbered_in_the_book():
    tags = re.findall(r"\\tag\{(\w+)\}", "\n".join(PROSE[name] for name in CELLS))
    assert set(tags) >= {str(n) for n in range(1, 30) if n != 13} | {"13a", "13b"}


def mentions(text):
    return [found["number"] for found in equations.MENTION.finditer(text)]


def test_mentions_of_equations_are_told_from_other_numbers():
    assert mentions("by (11) and (13a), see (eq. 29) or eqs. 26 to 28") == ["11", "13a", "29", "26"]
    assert mentions("in (0, 1) of f(x), Fig. 11, (1998), 11 and (1.5)") == ["0"]
    assert mentions("Journal of the ACM, 12(4):547, and f(1)") == []


def test_every_entry_of_the_table_of_contents_is_a_file_and_every_page_is_an_entry():
    entries = project.contents()
    files = {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "book").glob("*.md")}
    assert files == {entry for entry in entries if entry.startswith("book/")}
    for entry in entries:
        assert (ROOT / f"{entry}.md").exists() or (ROOT / f"{entry}.ipynb").exists(), entry


def test_each_generated_part_is_included_by_the_page_of_its_name():
    for name in pages.MAKERS:
        parts = PROSE[name].count(f"```{{include}} {pages.MADE}/{name}.md\n")
        assert parts == (2 if f":start-after: {claims_page.PARTING}" in PROSE[name] else 1), name
        assert PROSE[name].count(f":end-before: {claims_page.PARTING}") == parts - 1
    included = {name for name, text in PROSE.items() if f"{{include}} {pages.MADE}/" in text}
    assert included == set(pages.MAKERS)


def test_the_ledger_of_claims_points_to_cells_that_exist():
    tags = {
        path.stem: {tag for cell in nbformat.read(path, as_version=4).cells for tag in cell.metadata.get("tags", [])}
        for path in project.notebooks()
    }
    pointed = [entry.see for entry in claims.load_claims(ROOT / "book" / "claims.yml") if entry.see]
    assert len(pointed) >= 20
    for see in pointed:
        page, _, tag = claims_page.chapter(see).partition(".html")
        assert not tag or tag.removeprefix("#cell-") in tags[page], see
    with pytest.raises(ValueError, match="points to the chapter"):
        claims_page.chapter("no_such_chapter")


def test_the_ledger_s_page_begins_with_what_to_remember_and_names_conditions():
    entries = claims.load_claims(ROOT / "book" / "claims.yml")
    page = claims_page.page(entries)
    assert page.splitlines()[2].count("not tried") == 3, "nothing is measured in the file itself"
    (entry,) = [entry for entry in entries if entry.id == "iteration-is-robust"]
    assert "; under: 31³ voxels, the authors' weights" in claims_page.item(entry)
    (entry,) = [entry for entry in entries if entry.id == "operators-differ"]
    assert "under:" not in claims_page.item(entry)


#: Shipped networks with a stage that ended minutes before its time: the RLN of 16^3, and what went on from it.
EARLY = {f"{name}.safetensors" for name in ("rln-10", "rln-50", "rln-further-10-31", "rln-further-50-31")}


def test_the_stages_of_a_training_add_up_and_one_that_ended_early_is_named():
    for entry in weight_files.catalogue():
        if entry["contrast"] is not None:
            header = weight_files.pretrained_header(entry["kind"], entry["contrast"], entry["size"])
            minutes = pages.minutes_of_stages(entry, len(header["recipe"]))
            assert sum(minutes) == pytest.approx(header["minutes"], abs=0.1)
            shown, early = pages.card(entry, header), entry["file"] in EARLY
            assert ("it ended after" in shown) == early, entry["file"]
    (entry,) = [entry for entry in weight_files.catalogue() if entry["file"] == "rln-10-31.safetensors"]
    assert pages.epochs_of_stages(entry, 2) == [6, 3]
    assert "after 2.57 minutes, within epoch 6" in pages.card(entry, weight_files.pretrained_header("rln", 10, 31))


def test_what_is_cited_is_in_the_bibliography_and_what_is_in_it_is_cited():
    entries = set(
        re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), flags=re.M)
    )
    cited = {
        key for text in PROSE.values() for keys in re.findall(r"\{cite\}`([^`]+)`", text) for key in keys.split(",")
    }
    assert cited == entries


def test_glossary_is_in_order():
    words = re.findall(r"^(\S.*)\n    \S", (ROOT / "book" / "glossary.md").read_text(encoding="utf-8"), flags=re.M)
    assert len(words) > 15 and words == sorted(words, key=str.lower)


@pytest.mark.parametrize("name", CELLS)
def test_exercises_have_a_hidden_solution_each(name):
    exercises = re.findall(r"^(\d)\. ", PROSE[name].split("## Exercises")[1], flags=re.M)
    solutions = [c for c in CELLS[name] if "hide-cell" in c["metadata"].get("tags", [])]
    numbered = [match[1] for c in solutions if (match := re.match(r"# (\d)\.", "".join(c["source"])))]
    assert len(exercises) >= 2 and exercises == sorted(set(numbered))


@pytest.mark.parametrize("name", CELLS)
def test_the_first_code_cell_fetches_the_library_where_it_is_missing(name):
    """The same cell in every notebook, but for the one address of the repository, and it is valid Python."""
    first = next(c for c in CELLS[name] if c["cell_type"] == "code")
    source = "".join(first["source"])
    (address,) = re.findall(r'get\("RLN_REPOSITORY"\) or "(.*)"', source)
    assert source == notebook.bootstrap(address)
    assert first["metadata"]["tags"] == ["bootstrap", "remove-cell"]
    ast.parse(source)


@pytest.mark.parametrize("address", ["", "file:///nowhere"])
def test_the_bootstrap_cell_asks_for_the_address_where_it_knows_none_or_a_wrong_one(tmp_path, address):
    command = [sys.executable, "-I", "-S", "-c", notebook.bootstrap(address)]  # no packages at all
    without = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={})
    assert without.returncode and "set RLN_REPOSITORY to its address" in without.stderr.splitlines()[-1]
    assert f"'{address.removeprefix('file://')}' does not" in without.stderr  # git's own reason
    assert not list(tmp_path.iterdir())


def test_the_bootstrap_cell_does_nothing_where_the_library_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("something was run"))
    exec(notebook.bootstrap("https://example.org/x"), {})


def recipes(page="book/rerun.md"):
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize(("page", "image"), [("book/rerun.md", "my_cell.tif"), ("README.md", "my_image.tif")])
def test_the_recipe_for_an_own_microstructure_runs(page, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (recipe,) = [text for text in recipes(page) if image in text]
    stiff = np.zeros((6, 7, 8), dtype=np.uint8)
    stiff[2:4] = 255
    tifffile.imwrite(image, stiff)
    exec(recipe, names := {})
    assert names["strain"].shape == (1, 6, 6, 7, 8)
    assert (tmp_path / "strain.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_example_of_the_readme_runs():
    exec(next(text for text in recipes("README.md") if "load_pretrained" in text), {})


def test_the_example_of_the_readme_for_materials_runs(capsys):
    (recipe,) = [text for text in recipes("README.md") if "effective_stiffness" in text]
    names = {"rlnlib": rlnlib, "cell": rlnlib.generate_cells(1, size=10, seed=0)}
    exec(recipe, names)
    constants = rlnlib.engineering.engineering_constants(names["stiffness"])
    assert 3.5 < float(constants["E1"]) < 70 and "G23" in capsys.readouterr().out


def test_the_recipe_for_another_network_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = next(text for text in recipes() if "runs.train" in text)
    names = {}
    exec(recipe, names)
    assert len(names["learning_curve"]) == 5 and (tmp_path / "runs" / "my_network" / "learning_curve.csv").exists()
    assert names["learning_curve"][-1]["validation_mase"] < names["learning_curve"][0]["validation_mase"]


def test_papermill_recipes_name_notebooks_profiles_and_parameters_that_exist():
    text = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("papermill notebooks/")]
    assert len(commands) >= 5
    for command in commands:
        path = ROOT / command.split()[1]
        (parameters,) = [c for c in CELLS[path.stem] if "parameters" in c["metadata"].get("tags", [])]
        known = set(re.findall(r"^(\w+):", "".join(parameters["source"]), flags=re.M))
        assert set(re.findall(r"-p (\w+)", command)) <= known, command
        assert all((ROOT / file).exists() for file in re.findall(r"-f (\S+)", command)), command


def test_each_equation_of_the_paper_up_to_28_stands_in_a_chapter_and_is_named_in_its_code():
    standing, coded = set(), set()
    for stem in (stem for stem in CELLS if re.match("0[1-6]_", stem)):
        code = "".join("".join(cell["source"]) for cell in CELLS[stem] if cell["cell_type"] == "code")
        here = set(re.findall(r"\\tag\{(\d+[ab]?)\}", PROSE[stem]))
        standing |= here
        coded |= here & set(re.findall(r"\((\d+[ab]?)\)", code))
    wanted = {str(n) for n in range(1, 29) if n != 13} | {"13a", "13b"}
    assert wanted - standing == set() and wanted - coded == set()
    assert "29" not in coded  # not all that is looked for is found


def test_every_module_stands_on_the_page_of_the_library():
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "rlnlib").rglob("*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    public = {name for name in names if "._" not in name} - {"rlnlib", "rlnlib.book"}
    assert public == set(re.findall(r"automodule:: (\S+)", PROSE["api"]))


def test_the_words_on_the_padding_of_the_shipped_networks_hold():
    """As the page on differences says which of the two V-Nets the shipped weights belong to."""
    text = " ".join((ROOT / "book" / "differences.md").read_text(encoding="utf-8").split())
    said = "those for $31^3$ and the informed network of the second"
    assert "for $16^3$ voxels are of the first form, " + said in text
    proximal = {"16": "vnet", "31": "vnet-periodic", "every contrast": "vnet-periodic"}
    for entry in weight_files.catalogue():
        header = weight_files.pretrained_header(entry["kind"], entry["contrast"], entry["size"])
        form = str(entry["size"]) if entry["contrast"] else "every contrast"
        assert header["config"]["proximal"] == proximal[form], entry["file"]
