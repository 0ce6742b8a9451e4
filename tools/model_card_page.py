"""The page on the shipped weights, from what their files say about themselves."""

from __future__ import annotations

from rlnlib import weight_files


def tables() -> str:
    """One table of all shipped networks, then a section for each, as Markdown.

    Raises OSError for a file that does not match its hash.
    """
    entries = weight_files.catalogue()
    cards = [(e, weight_files.pretrained_header(e["kind"], e["contrast"], e["size"])) for e in entries]
    text = "\n## All of them\n\n| network | contrast | cells | weights | test error (MASE) | test cells |\n"
    text += "|---|---|---|---|---|---|\n"
    for entry, header in cards:
        metrics = header["metrics"]
        text += f"| {entry['kind']} | {entry['contrast']:g} | ${entry['size']}^3$ | {parameters(entry):,} | "
        text += f"{metrics['mase_mean']:.2f} ± {metrics['mase_deviation']:.2f} % | {metrics['cells']:,} |\n"
    return text + "".join(card(entry, header) for entry, header in cards)


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
    for number, stage in enumerate(stages, start=1):
        rows["recipe" if len(stages) == 1 else f"recipe, stage {number}"] = recipe(stage)
    rows |= {
        "training": f"{header['training_cells']:,} cells, {header['epochs']} epochs in {header['minutes']:g} minutes; "
        f"{header['device']}",
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
    text = (
        f"a data set of {data['n']:,} cells of ${data['size']}^3$ voxels, grains of {grains[0]} to {grains[1]} voxels, "
    )
    text += f"stiff fraction {fractions[0]:g} to {fractions[1]:g}, {data['repeats']} of a design, seed {data['seed']}, "
    text += (
        f"contrast {data['contrast']:g}, Poisson ratio {data['poisson']:g}, solved with `{data['discretization']}` to "
    )
    text += f"a relative residual of {data['rtol']:g}"
    return text + (f", sha256 `{data['sha256']}`" if "sha256" in data else "")


def recipe(stage: dict) -> str:
    """One stage of a training in a few words."""
    end = f"{stage['max_minutes']:g} minutes" if stage["max_minutes"] else f"{stage['epochs']} epochs"
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
