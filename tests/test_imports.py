"""The house: which room may ask which, how long a file may be, and in which encoding text is read.

Imports are read from the source, those inside of functions included, so that a lazy import breaks no rule unseen.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: The lesson, in the order in which one reads it.
CORE = (
    *("elasticity", "engineering", "microstructure", "problem", "discretizations", "green", "lippmann_schwinger"),
    *("other_physics",),
    *("solvers", "equilibrium", "conjugate_gradient", "voxel_fe", "networks", "rln", "training", "metrics"),
    *("symmetry", "regression", "informed", "informed.network", "informed.certificate", "informed.prediction"),
)
#: What knows the disk, and the other service.
FILES = ("_files", "runs", "weight_files", "published", "images", "dataset", "reproduce", "provenance", "fans")
#: The doors of `fast` that the core may use: what is there is asked for by name there, so that one switch shuts it.
DOORS = ("fast", "fast.cores", "fast.processes")
MECHANICS = ("problem", "discretizations", "green", "lippmann_schwinger", "equilibrium", "conjugate_gradient")
MECHANICS += ("voxel_fe",)
LONGEST = 350
#: Files that are longer still, with the lines that they may have: the list may only shrink.
LONG: dict[str, int] = {}
SOURCES = sorted((ROOT / "rlnlib").rglob("*.py"))


def module_of(path: Path) -> str:
    """Name within the package: "green", "fast.loops"; "" for the package itself."""
    return ".".join(path.relative_to(ROOT / "rlnlib").with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_of(path): path for path in SOURCES}


def imports_of(path: Path, modules=MODULES) -> set[str]:
    """The modules of the library that a file imports, anywhere in it, by their names within the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path.name} has a relative import"
            of = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name.removeprefix("rlnlib.") in modules else node.module for name in of}
    inside = {name.removeprefix("rlnlib").removeprefix(".") for name in found if name.split(".")[0] == "rlnlib"}
    return {name for name in inside if name}


GRAPH = {name: imports_of(path) for name, path in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[0]


def breaches(graph=GRAPH) -> list[str]:
    """Each import that breaks a rule, in words."""
    found = []
    for name, asked in graph.items():
        for other in asked:
            if name in CORE and room(other) == "fast" and other not in DOORS:
                found.append(f"{name} asks {other} past the doors of fast")
            if name in CORE and room(other) in FILES:
                found.append(f"{name} knows the files of {other}")
            if name in ("networks", "proximals", "rln", "inference", "training") and other in MECHANICS:
                found.append(f"{name} needs the mechanics of {other}")
            if room(other) == "book" and room(name) != "book":
                found.append(f"{name} imports {other}, which only notebooks and tools may")
    return sorted(found)


def circle(graph) -> list[str]:
    """Some modules that import one another in a circle, or nothing."""
    done: set[str] = set()

    def follow(name, path):
        if name in path:
            return path[path.index(name) :]
        if name in done or name not in graph:
            return []
        for other in graph[name]:
            if found := follow(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (follow(name, []) for name in graph)), [])


def test_the_library_names_its_lesson_in_reading_order():
    """A core module that helps another, such as the symmetries of training, may be left out."""
    named = re.findall(r":mod:`~rlnlib\.(\w+)`", ast.get_docstring(ast.parse(MODULES[""].read_text(encoding="utf-8"))))
    assert len(set(named)) == len(named) and set(named) == {room(name) for name in CORE} - {"symmetry"}


def test_imports_point_one_way():
    assert breaches() == []


def test_a_forbidden_import_is_found():
    graph = {
        "rln": {"voxel_fe", "weight_files", "networks"},
        "green": {"fast.loops", "fast"},
        "solvers": {"book.figures"},
        "training": {"runs", "dataset"},
        "informed.certificate": {"runs"},
    }
    assert breaches(graph) == [
        "green asks fast.loops past the doors of fast",
        "informed.certificate knows the files of runs",
        "rln knows the files of weight_files",
        "rln needs the mechanics of voxel_fe",
        "solvers imports book.figures, which only notebooks and tools may",
        "training knows the files of dataset",
        "training knows the files of runs",
    ]


def test_imports_inside_of_functions_and_of_names_are_seen(tmp_path):
    (tmp_path / "a.py").write_text(
        "from rlnlib import green, solve_strain\n"
        "def f():\n    from rlnlib.fast import loops\n    import rlnlib.book.figures",
        encoding="utf-8",
    )
    assert imports_of(tmp_path / "a.py") == {"green", "fast.loops", "book.figures"}


def test_there_is_no_circle():
    assert circle(GRAPH) == []
    assert len(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == 2


def test_no_file_is_longer_than_one_reads_in_a_sitting():
    lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    lines |= {f"tools/{p.name}": len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "tools").glob("*.py")}
    long = {name: count for name, count in lines.items() if count > LONGEST}
    assert not {name: count for name, count in long.items() if count > LONG.get(name, LONGEST)}
    assert set(LONG) <= set(long), "take the mended ones off the list"


@pytest.fixture(scope="module")
def loaded():
    """What `import rlnlib` loads, seen by a fresh process."""
    program = "import sys, json; before = set(sys.modules); import rlnlib; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["numba", "scipy.stats", "matplotlib", "IPython", "h5py"])
def test_importing_the_library_loads_nothing_that_few_need(name, loaded):
    assert name not in loaded and "torch" in loaded


def test_every_folder_of_the_root_stands_in_the_readme_and_every_package_in_the_wheel():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    if not files:
        pytest.skip("no git here")
    folders = {name.split("/")[0] for name in files if "/" in name and not name.startswith(".")}
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is where")[1]
    assert folders == set(re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE))
    packages = {f"rlnlib.{module_of(path)}".rstrip(".") for path in SOURCES if path.name == "__init__.py"}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^packages = (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
    data = {"rlnlib.data", "rlnlib.data.pretrained"}  # no code, from the folder data/
    assert packages == set(ast.literal_eval(listed)) - data


#: What else has a method `open`, which opens no text.
NO_TEXT = ("os", "Image", "Pillow", "zip", "tarfile", "webbrowser")


def without_encoding(source: str) -> list[int]:
    """Lines that open a text file in the locale's encoding, which in some places is not UTF-8."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(call.func, "value", None)
        modes = [word.value for word in call.keywords if word.arg == "mode"]
        modes += call.args[0 if owner else 1 :][:1]
        binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
        elsewhere = (getattr(owner, "id", None) or getattr(owner, "attr", None)) in NO_TEXT
        text = name in ("read_text", "write_text") or (name == "open" and not binary and not elsewhere)
        if text and "encoding" not in {word.arg for word in call.keywords}:
            found.append(call.lineno)
    return found


def test_text_is_read_and_written_as_utf_8():
    wrong = {}
    for path in (
        p for folder in ("rlnlib", "tools", "experiments", "benchmarks") for p in (ROOT / folder).rglob("*.py")
    ):
        if lines := without_encoding(path.read_text(encoding="utf-8")):
            wrong[str(path.relative_to(ROOT))] = lines
    assert not wrong
    text = "open(a); open(a, 'rb'); p.open(); p.open('wb'); p.read_text(); p.read_text(encoding=e); open(a, mode='w')"
    assert len(without_encoding(text)) == 4


def test_notebooks_read_text_as_utf_8():
    wrong = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and without_encoding("".join(cell["source"])):
                wrong.append(f"{path.name}: {cell['id']}")
    assert not wrong, f'say encoding="utf-8" in {", ".join(wrong)}'
