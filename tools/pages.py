"""The parts of pages that programs write: each page of ``book/`` includes its own from ``_made/`` by name.

A page ``book/NAME.md`` with the line ``{include} _made/NAME.md`` gets what the function in :data:`MAKERS` returns.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nbformat

import benchmark_tables
import claims_page
import front_page
from project import ROOT, Failure, notebooks, read_yaml
from rlnlib import runs, weight_files
from rlnlib.book import benchmarks, claims
from rlnlib.book.parameters import PARAMETERS
from run import PROFILES, parameters_of

#: Folder of the generated parts, beside the pages that include them.
MADE = "_made"
#: How the name of a shipped network's learning curve ends, in the place of ``.safetensors``.
LEARNING_CURVE = ".learning_curve.csv"


def make(book: Path, copies: list[Path]) -> None:
    """Write the generated parts of the pages of ``book``, its front page too; ``copies`` are the executed notebooks."""
    ledger = claims.ledger(ROOT / "book" / "claims.yml", copies, claims.record_files())
    (book / MADE).mkdir(exist_ok=True)
    for name, maker in MAKERS.items():
        (book / MADE / f"{name}.md").write_text(maker(ledger), encoding="utf-8")
    front_page.make(book)


def benchmark_page(_=None) -> str:
    """The recorded benchmarks. Raises Failure for a record that cannot be."""
    found = benchmarks.records()
    if faults := [fault for name, record in found.items() for fault in benchmark_tables.faults(name, record)]:
        raise Failure("\n".join(faults))
    return benchmark_tables.page(found)


def parameter_page(_=None) -> str:
    """The table of every notebook's parameters, by profile."""
    text = ""
    profiles = {name: read_yaml(PROFILES / f"{name}.yml") for name in ("ci", "laptop", "paper")}
    shipped = " or ".join(f"{ratio:g}" for ratio in sorted({ratio for _, ratio in weight_files.shipped()}))
    for path in notebooks():
        title = next(c.source for c in nbformat.read(path, as_version=4).cells).splitlines()[0].lstrip("# ")
        text += f"\n## {title}\n\n`notebooks/{path.name}`\n\n"
        text += "| parameter | type | ci | laptop | paper | may be | meaning |\n"
        text += "|---|---|---|---|---|---|---|\n"
        for name, entry in parameters_of(path).items():
            values = " | ".join(str(p.get(name, entry["default"])) for p in profiles.values())
            allowed = shipped if name == "contrast" and asks_for_shipped(path) else PARAMETERS[name].in_words()
            text += f"| `{name}` | {entry['inferred_type_name']} | {values} | {allowed} | {entry['help']} |\n"
    return text


def asks_for_shipped(path: Path) -> bool:
    """Whether a notebook refuses a contrast that no network is shipped for."""
    return any("shipped=True" in cell.source for cell in nbformat.read(path, as_version=4).cells)


def model_cards(_=None) -> str:
    """One table of all shipped networks, then a section for each, as Markdown.

    Raises OSError for a file that does not match its hash.
    """
    entries = [entry for entry in weight_files.catalogue() if entry["contrast"] is not None]
    cards = [(e, weight_files.pretrained_header(e["kind"], e["contrast"], e["size"])) for e in entries]
    text = "\n## All of them\n\n| network | contrast | cells | weights | test error (MASE) | test cells |\n"
    text += "|---|---|---|---|---|---|\n"
    for entry, header in cards:
        metrics = header["metrics"]
        text += f"| {entry['kind']} | {entry['contrast']:g} | ${entry['size']}^3$ | {parameters(entry):,} | "
        text += f"{metrics['mase_mean']:.2f} ± {metrics['mase_deviation']:.2f} % | {metrics['cells']:,} |\n"
    text += informed_row()
    return text + "".join(card(entry, header) for entry, header in cards) + informed_card()


def informed_entry() -> dict | None:
    """The file of the informed network, None where none is shipped."""
    return next((entry for entry in weight_files.catalogue() if entry["kind"] == "informed"), None)


def informed_row() -> str:
    """The informed network in the table of all: its errors at the contrasts of Table 1."""
    entry = informed_entry()
    if entry is None:
        return ""
    by_contrast = scores()["random"]["16"]
    errors = (by_contrast[ratio]["mase"] for ratio in ("10", "50"))
    said = ", ".join(f"{error['mean']:.2f} ± {error['deviation']:.2f} %" for error in errors)
    largest = weight_files.pretrained_header("informed")["recipe"]["largest_contrast"]
    row = f"informed | 1 to {largest:g} | any size; tested on $16^3$ | {parameters(entry):,} | {said} (contrast 10, 50)"
    return f"| {row} | {by_contrast['10']['cells']} |\n"


def informed_card() -> str:
    """The informed network: empty where none is shipped."""
    entry = informed_entry()
    if entry is None:
        return ""
    header = weight_files.pretrained_header("informed")
    recipe, answer = header["recipe"], header["config"].get("answer", "displacement")
    share = {name: f"{100 * recipe[name]:.0f} %" for name in ("many_phases", "random_poisson", "axial")}
    rows = {
        "file": f'`data/pretrained/{entry["file"]}`, `rlnlib.load_pretrained("informed")`, for `rlnlib.predict`',
        "network": f"{header['config']['passes']} passes; {parameters(entry):,} weights; proximal operator "
        f"`{header['config']['proximal']}`; it sees strain, stress, stiffness and preconditioned residual, and answers "
        f"with a {answer}",
        "training": f"no solution of any cell; contrasts 1 to {recipe['largest_contrast']:g}; three or four phases in "
        f"{share['many_phases']}, random Poisson ratios in {share['random_poisson']}; axial loads in {share['axial']}, "
        f"else shear; {trained_on(header)}",
        **informed_errors(),
        "holds for": holds_for(),
        "sha256": f"`{entry['sha256']}`",
    }
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return (
        f"\n## The informed network, for contrasts of 1 to {recipe['largest_contrast']:g}\n\n| | |\n|---|---|\n{lines}"
    )


def holds_for() -> str:
    """What the informed network takes, and where it fails by the record."""
    found = scores()
    unlike = [of[ratio] for kind in ("shapes", "images") for of in found[kind].values() for ratio in ("10", "50")]
    many = [of["300"]["mase"]["mean"] for of in found["random"].values()]
    return (
        f"isotropic phases. At contrast 300 the MASE is {min(many):.1f} to {max(many):.1f} %, and single unit cells "
        "are far off; at 1000 and beyond do not use it without a tolerance. On shapes that it was not trained on "
        "(laminates, fibres, spheres), a cell made like a scan, and a scan it errs, over all six components and "
        "contrasts 10 and 50, by "
        f"{min(one['strain_error'] for one in unlike):.0f} to {max(one['strain_error'] for one in unlike):.0f} % "
        "({doc}`../notebooks/19_one_network_for_all`). The bounds are of the effective stiffness along the load, not "
        "of the strain"
    )


def trained_on(header: dict) -> str:
    """How often an informed network was shown how many random cells, and where; first in the training it began with."""
    recipe, metrics = header["recipe"], header["metrics"]
    larger = f", and of some of ${recipe['large_size']}^3$" if recipe.get("large") else ""
    where = recipe.get("device", "two busy cores")
    cells = f"{recipe['cells']:,} random cells of ${recipe['size']}^3${larger}"
    said = f"{metrics['presented']:,} presentations of {cells}, in {metrics['minutes']:g} minutes of {where}"
    return f"{trained_on(recipe['start'])}; then {said}" if recipe.get("start") else said


def scores() -> dict:
    """The recorded scores of the informed network."""
    return json.loads((ROOT / "data" / "results" / "informed.json").read_text(encoding="utf-8"))


def informed_errors() -> dict[str, str]:
    """Rows of the informed network's card: its recorded errors, of the axial strain and of all six components."""
    found = scores()
    sets = {f"random cells of ${size}^3$": by_contrast for size, by_contrast in found["random"].items()}
    rows = {}
    for name, by_contrast in {**sets, "test cells of the paper's design, $31^3$": found["paper_test"]}.items():
        said = []
        for ratio in (ratio for ratio in ("10", "50", "300") if ratio in by_contrast):
            cells, error = by_contrast[ratio]["cells"], by_contrast[ratio]["mase"]
            of = f"contrast {ratio} ({cells:,} cells)"
            said.append(f"{error['mean']:.2f} ± {error['deviation']:.2f} % at {of}")
            if "strain_error" in by_contrast[ratio]:
                said[-1] += f", all six components {by_contrast[ratio]['strain_error']['mean']:.1f} %"
        rows[f"error, {name}"] = "MASE " + "; ".join(said)
    return rows


def card(entry: dict, header: dict) -> str:
    """Everything about one file."""
    call = f'rlnlib.load_pretrained("{entry["kind"]}", {entry["contrast"]:g}'
    call += ")" if entry["size"] == weight_files.DEFAULT_SIZE else f", size={entry['size']})"
    config, metrics = header["config"], header["metrics"]
    passes = f"{config['passes']} pass" + ("es" if config["passes"] > 1 else "")
    weights = ("; one network for all, " if config["tied"] else "; ") + f"{parameters(entry):,} weights"
    rows = {
        "file": f"`data/pretrained/{entry['file']}`, `{call}`",
        "network": f"{passes}{weights}; proximal operator `{config['proximal']}`, {config['history']} earlier iterates",
        "contrast": f"{entry['contrast']:g}",
        "data": f"tested on a part of {described(header['data'])}; trained on another part of it, where no stage says "
        "otherwise",
    }
    stages = header["recipe"]
    took = zip(stages, minutes_of_stages(entry, len(stages)), epochs_of_stages(entry, len(stages)), strict=True)
    for number, (stage, minutes, epochs) in enumerate(took, start=1):
        rows["recipe" if len(stages) == 1 else f"recipe, stage {number}"] = recipe(stage, minutes, epochs)
    rows |= {
        "training": f"{header['epochs']} epochs of all stages in {header['minutes']:g} minutes, the last stage on "
        f"{header['training_cells']:,} cells; {header['device']}",
        "error": f"MASE {metrics['mase_mean']:.2f} ± {metrics['mase_deviation']:.2f} % (mean and deviation over "
        f"{metrics['cells']:,} cells of the {metrics['split']} part)",
        "library": f"rlnlib {header['library_version']}",
        "sha256": f"`{entry['sha256']}`",
    }
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    title = f"{entry['kind']}, contrast {entry['contrast']:g}, cells of {entry['size']}^3"
    return f"\n## {title.replace('^3', '³')}\n\n| | |\n|---|---|\n{lines}"


def described(data: dict) -> str:
    """A data set in a few words."""
    grains, fractions = data["grain_size"], data["stiff_fraction"]
    text = f"a data set of {data['n']:,} cells of ${data['size']}^3$ voxels, grain sizes {grains[0]} to {grains[1]}, "
    text += f"stiff fraction {fractions[0]:g} to {fractions[1]:g}, {per_point(data['repeats'])}, seed {data['seed']}, "
    text += (
        f"contrast {data['contrast']:g}, Poisson ratio {data['poisson']:g}, solved with `{data['discretization']}` to "
    )
    text += f"a relative residual of {data['rtol']:g}"
    return text + (f", sha256 `{data['sha256']}`" if "sha256" in data else "")


def per_point(repeats: int) -> str:
    """How many cells share a point of the design."""
    return "one cell for each design point" if repeats == 1 else f"{repeats} cells for each design point"


def ends_of_stages(entry: dict, stages: int) -> list[tuple[float, int]] | None:
    """Seconds and epochs after each stage of a training, from zero on: the learning rate rises where one begins.

    None where it rises elsewhere, too, as over epochs of warm-up, or where no learning curve was kept.
    """
    name = entry["file"].replace(".safetensors", LEARNING_CURVE)
    if not (weight_files.PRETRAINED / name).exists():
        return None
    curve = runs.read_learning_curve(weight_files.PRETRAINED, name)
    pairs = itertools.pairwise(curve)
    last = [n for n, (old, new) in enumerate(pairs, start=1) if new["learning_rate"] > old["learning_rate"]]
    ends = [(0.0, 0), *((curve[n - 1]["seconds"], n) for n in (*last, len(curve)))]
    return ends if len(ends) == stages + 1 else None


def minutes_of_stages(entry: dict, stages: int) -> list[float | None]:
    """How long each stage of a training took; None for all where that is not known."""
    ends = ends_of_stages(entry, stages)
    return [(b - a) / 60 for (a, _), (b, _) in itertools.pairwise(ends)] if ends else [None] * stages


def epochs_of_stages(entry: dict, stages: int) -> list[int | None]:
    """How many epochs each stage of a training began; None for all where that is not known."""
    ends = ends_of_stages(entry, stages)
    return [b - a for (_, a), (_, b) in itertools.pairwise(ends)] if ends else [None] * stages


def recipe(stage: dict, minutes: float | None, epochs: int | None = None) -> str:
    """One stage of a training in a few words; ``minutes`` and ``epochs`` are how long it took, if that is known."""
    end = f"{stage['max_minutes']:g} minutes" if stage["max_minutes"] else f"{stage['epochs']} epochs"
    if stage["max_minutes"] and minutes is not None and minutes < stage["max_minutes"] - 1:
        end += f" (it ended after {minutes:.0f})"
    elif stage["max_minutes"] and epochs is not None:
        end += f", within epoch {epochs}"
    text = f"loss `{stage['loss']}`, batches of {stage['batch_size']}, learning rate {stage['learning_rate']:g} "
    text += f"falling to {stage['final_learning_rate']:g} after {end}, {'with' if stage['augment'] else 'without'} "
    text += f"symmetry copies, precision `{stage['precision']}`, seed {stage['seed']}"
    if stage.get("warm_up"):
        text += f"; warm-up over {100 * stage['warm_up']:g} %"
    if stage.get("pass_weights"):
        text += f"; weights of the passes {', '.join(f'{weight:g}' for weight in stage['pass_weights'])}"
    return text + (f"; on {described(stage['data'])}" if "data" in stage else "")


def parameters(entry: dict) -> int:
    """How many numbers the file's network has learned."""
    model = weight_files.load_pretrained(entry["kind"], entry["contrast"], entry["size"])
    return sum(parameter.numel() for parameter in model.parameters())


#: Page -> what makes its generated part from the ledger.
MAKERS = {
    "benchmarks": benchmark_page,
    "claims": claims_page.page,
    "differences": claims_page.otherwise,
    "model_card": model_cards,
    "parameters": parameter_page,
}
