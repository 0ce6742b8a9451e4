"""Cells -> strains -> six networks -> Table 1: the paper's experiment as one command that can be cut off anywhere.

    python -m rlnlib.reproduce --profile laptop --out runs/laptop
    python -m rlnlib.reproduce --profile paper --max-minutes 9   # again and again, on a lent GPU
    torchrun --nproc-per-node 4 -m rlnlib.reproduce --profile paper

The networks are trained one after the other, each in the stages of its profile: the small cells first, then the large
ones, from the weights that the small ones left. What stands in the folder is not made again, and the last line says
what is left. ``results.json`` holds the table: mean, deviation, standard error and 95 % bootstrap interval of the MASE
(eq. 29) over the test part of the last stage's data, the worst voxel, and the differences of the rows, cell by cell.

"table-1" answers, on the paper's cells of 31^3 and its split, with as many presented cells for each network: are all
six means below Table 1, are those of the RLN at most 1.00 and 2.80 % (:data:`AIMS`), and is FLN > RLN-t > RLN at both
contrasts, with intervals of the differences that leave out zero?
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rlnlib import _checks, dataset, metrics, provenance, runs, training, weight_files
from rlnlib._files import write_atomically, writing
from rlnlib.fast.environment import restart_with_environment
from rlnlib.inference import predict_strain
from rlnlib.rln import KINDS, RLN
from rlnlib.training import TrainingConfig

CONTRASTS = (50.0, 10.0)
#: The largest means of "table-1" that count as what was aimed at: Table 1's, and less for the RLN.
AIMS = {"fln-10": 4.98, "rln-t-10": 1.81, "rln-10": 1.00, "fln-50": 9.23, "rln-t-50": 4.26, "rln-50": 2.80}
#: Cells that are scored before the scores are saved.
_BLOCK = 64


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        data: the cells, as in ``dataset.PROFILES``.
        config: the recipe.
        splits: parts of the cells that are trained on.
        proximal: name of the network in each pass.
    """

    data: dict
    config: TrainingConfig
    splits: tuple[str, ...] = ("train",)
    proximal: str = "vnet"


@dataclass(frozen=True)
class Profile:
    """What is trained, and how.

    Attributes:
        stages: of the training of each network. The ``pass_weights`` of a recipe are for the networks with as many
            passes; the others have none.
        kinds: the networks, in the order in which they are trained, should the time run out.
        validation_cells: how many of the validation part choose the best epoch; all of them by default.
    """

    stages: tuple[Stage, ...]
    kinds: tuple[str, ...] = ("rln", "rln-t", "fln")
    validation_cells: int | None = None


def _recipe(**options) -> TrainingConfig:
    """Weigh the absolute error, by which a network is judged, most on the passes that end nearest to it."""
    return TrainingConfig(loss="mae", pass_weights=(0.5, 0.5, 0.5, 1.0, 2.0), augment=True, warm_up=0.03, **options)


#: "ci" shows that the command works; "laptop" is a real, smaller table for two cores; "paper" is section 4; "table-1"
#: is the paper's data, learned by two cores in a day: 131,072 cells of 16^3 are presented, then 24,576 of 31^3.
#: "ci", "laptop" and "paper" have the cells, epochs and batches of ``notebooks/profiles``.
PROFILES = {
    "ci": Profile((Stage(dataset.PROFILES["ci"], TrainingConfig(epochs=3, batch_size=8, loss="rmse", augment=True)),)),
    "laptop": Profile(
        (Stage(dataset.PROFILES["laptop"], TrainingConfig(epochs=20, batch_size=16, loss="rmse", augment=True)),)
    ),
    "paper": Profile((Stage(dataset.PROFILES["paper"], TrainingConfig(epochs=60, batch_size=32, loss="rmse")),)),
    "table-1": Profile(
        stages=(
            Stage(
                {**dataset.PROFILES["paper"], "size": 16},
                _recipe(epochs=8, batch_size=16, learning_rate=2e-3),
                splits=("train", "test"),
            ),
            Stage(
                dataset.PROFILES["paper"],
                _recipe(epochs=3, batch_size=4, learning_rate=1e-3, seed=1),
                proximal="vnet-periodic",
            ),
        ),
        kinds=("fln", "rln-t", "rln"),
        validation_cells=256,
    ),
}


def reproduce(profile: Profile, out, device: str = "auto", max_minutes: float | None = None, progress=False) -> dict:
    """Do what is left of a profile in a folder.

    Args:
        profile: one of :data:`PROFILES`, say.
        out: the folder; it receives data sets, runs, weights and records.
        device: "auto", "cpu" or "cuda".
        max_minutes: time of this call.
        progress: show bars.

    Returns:
        {"rln-50": {"mase_mean", "mase_deviation", "interval", ...}, ...}, also of the networks done before; with
        "left" where ``max_minutes`` ran out: the names of the unfinished networks, what the first of them is doing,
        and the minutes that it still needs.

    Raises:
        OSError: for a folder that was made by another profile, or a place that cannot be written.
    """
    out, deadline = Path(out), math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    results: dict = {}
    names = {f"{kind}-{contrast:g}": (kind, contrast) for kind in profile.kinds for contrast in CONTRASTS}
    for name, (kind, contrast) in names.items():
        record = out / f"{name}.json"
        if record.exists():
            results[name] = json.loads(record.read_text(encoding="utf-8"))
            continue
        try:
            results[name] = network(profile, out, kind, contrast, device, deadline, progress)
        except Left as pause:
            left = [other for other in names if other not in results]
            return {**results, "left": {"networks": left, "doing": pause.doing, "minutes_of_first": pause.minutes}}
    return results


class Left(Exception):
    """The time of the call ran out."""

    def __init__(self, doing: str, done: float = 0.0, seconds: float = 0.0):
        super().__init__(doing)
        self.doing = doing
        self.minutes = seconds / done * (1 - done) / 60 if done else math.nan


class _Cells:
    """Some parts of a data set, as :func:`rlnlib.runs.train` takes them; the first ``count`` cells, if given."""

    def __init__(self, data: Path, splits: tuple[str, ...], count: int | None = None):
        parts = [dataset.StrainDataset(data, split) for split in splits]
        self.parameters = parts[0].parameters
        self.fields = [torch.cat(fields)[:count] for fields in zip(*(part.tensors() for part in parts), strict=True)]

    def tensors(self):
        return self.fields


def suffix(profile: Profile, stage: Stage) -> str:
    """What ends the names of a stage's files: its size, and nothing for the last stage."""
    return "" if stage is profile.stages[-1] else f"-{stage.data['size']}"


def data_file(profile: Profile, stage: Stage, out: Path, contrast: float) -> Path:
    """The file of a stage's cells."""
    return out / f"contrast-{contrast:g}{suffix(profile, stage)}.h5"


def network(
    profile: Profile, out: Path, kind: str, contrast: float, device="auto", deadline=math.inf, progress=False
) -> dict:
    """Train one network in all its stages, score it, and write its weights and its record.

    Args:
        profile, out, device, progress: as for :func:`reproduce`.
        kind: a name of :data:`rlnlib.rln.KINDS`.
        contrast: of the phases.
        deadline: the time, of ``time.monotonic``, at which the call ends.

    Returns:
        The record.

    Raises:
        Left: where the time ran out; the same call goes on.
    """
    name = f"{kind}-{contrast:g}"
    target = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    model: RLN | None = None
    learning_curve: list[dict] = []
    stages: list[tuple] = []
    for stage in profile.stages:
        # The solver spreads over the cores of one process; it takes minutes where training takes hours.
        data = dataset.make_dataset(
            data_file(profile, stage, out, contrast),
            **stage.data,
            contrast=contrast,
            device=target,
            progress=progress,
        )
        train_set, held_out = _Cells(data, stage.splits), _Cells(data, ("validation",), profile.validation_cells)
        if model is None:
            torch.manual_seed(stage.config.seed)
            model = RLN(**KINDS[kind], proximal=stage.proximal)
        else:
            model = model.with_options(proximal=stage.proximal)
        weights = stage.config.pass_weights
        config = replace(
            stage.config,
            precision=training.fast_precision(device),
            pass_weights=weights if weights and len(weights) == model.passes else None,
        )
        doing = f"training on cells of {stage.data['size']}^3"
        try:
            rows = runs.train(
                model.train(),
                train_set,
                held_out,
                config,
                out / f"{name}{suffix(profile, stage)}",
                device,
                progress,
                slice_minutes=max(0.0, (deadline - time.monotonic()) / 60),
            )
        except runs.Unfinished as pause:
            raise Left(doing, pause.done, pause.seconds) from pause
        stages.append((provenance.described(data), asdict(config)))
        learning_curve = provenance.joined(learning_curve, rows)
    assert model is not None
    errors, worst = _scores(model, data, out / name / "scores.json", deadline, target)
    place = (
        torch.cuda.get_device_name()
        if target == "cuda"
        else f"{provenance.cpu_name()}, {torch.get_num_threads()} threads"
    )
    about = provenance.record(
        kind, contrast, stages[-1][0], stages, learning_curve, errors, worst, len(train_set.fields[0]), place
    )
    if _checks.from_environment("RANK", 0, least=0) == 0:
        runs.write_learning_curve(out / f"{name}.learning_curve.csv", learning_curve)
        with writing(out):
            weight_files.save_weights(out / f"{name}.safetensors", model, **provenance.header(about))
            write_atomically(out / f"{name}.json", (json.dumps(about) + "\n").encode())
    return about


def _scores(model, data, path: Path, deadline: float, device: str) -> tuple[list[float], float]:
    """Score the test cells, of which a kill loses one block: the MASE of each, and the worst voxel, in percent."""
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    done: dict = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"mase": [], "worst_voxel": 0.0}
    scored = len(done["mase"])
    for begin in range(scored, len(stiff), _BLOCK):
        if begin > scored and time.monotonic() > deadline:
            raise Left(f"scoring, {begin} of {len(stiff)} test cells done")
        block = slice(begin, begin + _BLOCK)
        predicted = predict_strain(model, stiff[block], device=device)
        done["mase"] += [round(error, 4) for error in metrics.mase(predicted, strain[block]).tolist()]
        done["worst_voxel"] = max(done["worst_voxel"], 100 * float((predicted - strain[block]).abs().max()))
        if _checks.from_environment("RANK", 0, least=0) == 0:
            with writing(path):
                write_atomically(path, json.dumps(done).encode())
    return done["mase"], done["worst_voxel"]


def differences(results: dict) -> dict:
    """Compare each network with the next better one, cell by cell.

    Args:
        results: what :func:`reproduce` returned.

    Returns:
        {"50": {"fln - rln-t": {"mean": ..., "interval": ...}, ...}, ...}: how much more the first one errs, in percent.
    """
    found: dict = {}
    for contrast in CONTRASTS:
        for worse, better in (("fln", "rln-t"), ("rln-t", "rln")):
            one, other = (results.get(f"{kind}-{contrast:g}") for kind in (worse, better))
            if one and other and one["data"] == other["data"]:
                errors = torch.tensor(one["mase"]) - torch.tensor(other["mase"])
                found.setdefault(f"{contrast:g}", {})[f"{worse} - {better}"] = metrics.summary(errors)
    return found


def table(results: dict) -> str:
    """Write the results as Table 1 of the paper, in plain text."""
    lines = ["            MASE (mean +- deviation)   95 % interval of the mean   worst voxel   test cells"]
    paired = differences(results)
    for contrast in reversed(CONTRASTS):
        lines.append(f"contrast {contrast:g}")
        for kind in KINDS:
            if found := results.get(f"{kind}-{contrast:g}"):
                low, high = found["interval"]
                shown = f"{found['mase_mean']:.2f} % +- {found['mase_deviation']:.2f} %"
                between = f"{low:.2f} to {high:.2f} %"
                lines.append(
                    f"  {kind:<8}  {shown:<25}  {between:<26}  {found['worst_voxel']:>9.0f} %{found['test_cells']:>13}"
                )
        for pair, found in paired.get(f"{contrast:g}", {}).items():
            low, high = found["interval"]
            lines.append(f"  {pair:<13} {found['mean']:.2f} %, {low:.2f} to {high:.2f} %")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rlnlib.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, required=True)
    parser.add_argument("--max-minutes", type=float, help="stop cleanly after this time; run again to go on")
    parser.add_argument("--out", type=Path, help="folder to work in (default: runs/PROFILE)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.profile
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        results = reproduce(PROFILES[options.profile], out, options.device, options.max_minutes, progress=True)
        left = results.pop("left", None)
        speaks = _checks.from_environment("RANK", 0, least=0) == 0  # one of several processes
        if speaks:
            content = {"profile": options.profile, "networks": results, "differences": differences(results)}
            with writing(out):
                write_atomically(out / "results.json", (json.dumps(content, indent=1) + "\n").encode())
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done is kept: run the same command again to go on", file=sys.stderr)
        return 130
    last = f"Complete: {out / 'results.json'}"
    if left:
        minutes = left["minutes_of_first"]
        needs = "" if math.isnan(minutes) else f", which still needs about {minutes:.1f} minutes"
        last = f"Left: {', '.join(left['networks'])}; the first is at {left['doing']}{needs}. Run the command again."
    with contextlib.suppress(BrokenPipeError):
        if speaks:
            print(f"{table(results)}\n{last}")
    return 0


if __name__ == "__main__":
    restart_with_environment()
    sys.exit(main())
