"""Does a training that is killed at random moments end as one that is left alone? Bit for bit, after many kills.

    python tests/stress/kill_training.py --kills 30

A tiny network and data set; checkpoints are written several times a second, so that some kills hit a write. With
--control each resumed run forgets the state of its optimizer, and must end elsewhere. Exit code 0: equal.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a copy of this process must not wait for threads that it does not have

import lightning_fabric  # noqa: F401  (here, so that no copy spends its short life on importing it)
import torch

import rlnlib
from rlnlib import runs, training
from rlnlib.rln import KINDS, RLN


def run(folder: Path, sets, config: training.TrainingConfig, forget: bool = False) -> None:
    if forget:
        torch.optim.Adam.load_state_dict = lambda self, state: None
    torch.manual_seed(0)
    runs.train(RLN(**KINDS["fln"]), *sets, config, folder, device="cpu")


def outcome(folder: Path) -> tuple[dict, list[dict]]:
    """Weights and learning curve of a run, without the times."""
    model, _, curve = runs.read_run(folder)
    return model.state_dict(), [{**row, "seconds": 0} for row in curve]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = torch.from_numpy(rlnlib.generate_cells(48, size=6, grain_size=(1, 3)))
    strain = rlnlib.solve_strain(cells, 10.0, rtol=1e-4, dtype=torch.float32).strain[:, 0]
    sets = (cells[:40], strain[:40]), (cells[40:], strain[40:])
    config = training.TrainingConfig(epochs=options.epochs, batch_size=4, augment=True, checkpoint_minutes=0.002)
    copies, draw = multiprocessing.get_context("fork"), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        calm, killed = Path(place) / "calm", Path(place) / "killed"
        started = time.monotonic()
        process = copies.Process(target=run, args=(calm, sets, config))
        process.start()
        process.join()
        whole = time.monotonic() - started
        print(f"left alone: {options.epochs} epochs in {whole:.1f} s", flush=True)
        kills = in_a_write = 0
        while kills < options.kills:
            process = copies.Process(target=run, args=(killed, sets, config, options.control))
            process.start()
            # Together about a third of the run, so that it cannot end, also where the machine is faster than before.
            process.join(draw.uniform(0, 0.6 * whole / options.kills))
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            in_a_write += bool(list(killed.glob(f"{runs.CHECKPOINT}.*.partial")))  # the next run removes it
        if kills < options.kills:
            print(f"only {kills} kills before the end: use more epochs")
            return 2
        epochs = len(runs.read_learning_curve(killed)) if (killed / runs.LEARNING_CURVE).exists() else 0
        print(
            f"killed {kills} times, {in_a_write} of them in the writing of a checkpoint; {epochs} epochs done",
            flush=True,
        )
        process = copies.Process(target=run, args=(killed, sets, config, options.control))
        process.start()
        process.join()
        (weights, curve), (others, other_curve) = outcome(calm), outcome(killed)
        left_overs = list(killed.glob("*.partial"))
    equal = curve == other_curve and all(torch.equal(weights[name], others[name]) for name in weights)
    if left_overs:
        print(f"left over: {left_overs}")
        return 1
    print("weights and learning curve are equal bit for bit" if equal else "the two runs DIFFER")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
