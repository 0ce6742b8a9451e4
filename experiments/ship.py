"""Ship what a training run made: score it on the test part of its data, write weights, header and records.

    python experiments/ship.py --file runs/table-1/rln-10.safetensors
    python experiments/ship.py --run runs/mine --data runs/contrast-10.h5 --device "CPU, 1 thread"

With --file, what `python -m rlnlib.reproduce` made and scored. With --run, folders of rlnlib.runs.train: the stages
of one training, each begun from the best weights of the one before; --after names the weight file from which the first
of them began, whose stages, minutes and learning curve are put in front. If the runs were trained on all cells of
another data set, --train-data names it; none of its cells may be a test cell. A network of yours is named by
--proximal module:name, and by --kind if it is none of the paper's three.

Writes data/pretrained/NAME.safetensors and its line in the manifest, beside it NAME.test.json and
NAME.learning_curve.csv.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, provenance, weight_files
from rlnlib._files import write_atomically
from rlnlib.rln import KINDS
from rlnlib.runs import describe_data, read_checkpoint, read_learning_curve, read_run, write_learning_curve


def known(cells: torch.Tensor, others: torch.Tensor) -> int:
    """How many of the cells are among the others; homogeneous cells, of which there are only two, do not count."""
    mixed = [{cell.numpy().tobytes() for cell in part if cell.any() and not cell.all()} for part in (cells, others)]
    return len(mixed[0] & mixed[1])


def ship(
    runs: list[Path],
    data: Path,
    device: str,
    after: Path | None = None,
    train_data: Path | None = None,
    proximal=None,
    kind: str | None = None,
) -> tuple[str, dict]:
    """Ship the network of the last of the runs.

    Args:
        runs: folders of the stages, in their order.
        data: the data set of the last of them, on whose test part the network is scored.
        device: what it was trained on, in words.
        after: the weight file with which the first stage began.
        train_data: another data set, of which all cells were trained on.
        proximal: the function, class or "module:name" of a network that is not the library's.
        kind: the name of the kind; by default the one of the paper's three that it is.

    Returns:
        The name under which the network is shipped now, and its header.

    Raises:
        ValueError: for a network that is none of the paper's three and has no ``kind``, or was trained on a test cell,
            or on other data than those named.
        OSError: for a missing or damaged file.
    """
    trained_on = provenance.described(train_data or data)
    parameters = provenance.described(data)
    cells, strains = dataset.StrainDataset(train_data or data, None if train_data else "train").tensors()
    sha256 = describe_data(cells, strains, None)["sha256"]
    stages: list[tuple[dict, dict]] = []
    learning_curve: list[dict] = []
    if after:
        before = weight_files.read_header(after)
        name = weight_files.shipped_name(before["kind"], before["contrast"], before["data"]["size"])
        stages = [(stage.pop("data", before["data"]), stage) for stage in before["recipe"]]
        learning_curve = read_learning_curve(weight_files.PRETRAINED, f"{name}.learning_curve.csv")
    for run in runs:
        model, config, rows = read_run(run, proximal)
        if (of := read_checkpoint(run)["data"]["train"])["sha256"] != sha256:
            raise ValueError(f"{run} was trained on other cells than {train_data or data} has: on {of}.")
        stages.append((trained_on, asdict(config)))
        learning_curve = provenance.joined(learning_curve, rows)
    kinds = [name for name, options in KINDS.items() if options.items() <= model.config.items()]
    if kind is None and (not kinds or proximal is not None):
        raise ValueError(f"{model.config} is none of {', '.join(KINDS)}: name its kind, to ship it under that.")
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    if count := known(stiff, cells):
        raise ValueError(f"{count} of the {len(stiff)} test cells were trained on: test with another data set.")
    predicted = rlnlib.predict_strain(model, stiff)
    worst = 100 * float((predicted - strain).abs().max())
    about = provenance.record(
        kind or kinds[0],
        parameters["contrast"],
        parameters,
        stages,
        learning_curve,
        [round(error, 4) for error in rlnlib.mase(predicted, strain).tolist()],
        worst,
        training_cells=len(cells),
        device=device,
    )
    with tempfile.TemporaryDirectory() as folder:
        weight_files.save_weights(Path(folder) / "weights", model, **provenance.header(about))
        return shipped(Path(folder) / "weights", about, learning_curve), about


def ship_file(path: Path) -> tuple[str, dict]:
    """Ship weights that ``rlnlib.reproduce`` made, with the record and the learning curve beside them."""
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return shipped(path, about, read_learning_curve(path.parent, f"{path.stem}.learning_curve.csv")), about


def shipped(path: Path, about: dict, learning_curve: list[dict]) -> str:
    """Copy a weight file into data/pretrained, with its record and learning curve; returns its name there."""
    name = weight_files.ship(path)
    write_atomically(weight_files.PRETRAINED / f"{name}.test.json", (json.dumps(about) + "\n").encode())
    write_learning_curve(weight_files.PRETRAINED / f"{name}.learning_curve.csv", learning_curve)
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="weights that rlnlib.reproduce made; nothing else is needed then")
    parser.add_argument("--run", type=Path, nargs="+", help="folders of runs.train, in their order")
    parser.add_argument("--data", type=Path, help="the data set of the last of them")
    parser.add_argument("--device", help='what it was trained on, such as "CPU, 1 thread"')
    parser.add_argument("--after", type=Path, help="the weight file with which the first run began")
    parser.add_argument("--train-data", type=Path, help="another data set, of which all cells were trained on")
    parser.add_argument("--proximal", help="module:name of what makes a network of yours")
    parser.add_argument("--kind", help="the name of its kind")
    options = parser.parse_args()
    if options.file:
        name, about = ship_file(options.file)
    elif options.run and options.data and options.device:
        name, about = ship(
            options.run, options.data, options.device, options.after, options.train_data, options.proximal, options.kind
        )
    else:
        parser.error("give --file, or --run, --data and --device")
    print(f"{name} is shipped; of its test: {about['metrics']}")


if __name__ == "__main__":
    main()
