"""Kill the making of a data set at random moments, go on, and count what was computed: nothing twice but in flight.

    python tests/stress/kill_generation.py --kills 50

Sets of 8^3 cells are made one after the other, each killed (SIGKILL) at moments drawn at random over its whole course
and taken up again until it is complete, until all kills have been dealt. Every set must equal an undisturbed one byte
for byte. Each process notes the records that it begins to solve, before it does; a record that is begun twice must be
of the block in which a process was killed. The report is one line of JSON.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

from rlnlib.dataset import making

N, BLOCK = 160, 8
PARAMETERS = {"size": 8, "grain_size": (1, 4), "contrast": 50.0, "repeats": 2}


def make(path: Path, log: Path) -> None:
    solve = making.solve

    def noted(parameters, records, device):
        with open(log, "a") as file:  # one line, written at once
            file.write(f"{records[0]} {records[-1] + 1}\n")
        return solve(parameters, records, device)

    making.solve = noted
    making.make_dataset(path, N, block=BLOCK, **PARAMETERS)


def begun(log: Path) -> list[range]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [range(*map(int, line.split())) for line in lines]


def saved(path: Path) -> set[int]:
    parts = path.with_name(path.name + ".parts")
    return {i for records, _ in making.blocks(parts) for i in range(records.start, records.stop)}


def run(path: Path, log: Path, delay: float | None) -> bool:
    """Make the set in a process of its own; kill it after ``delay`` seconds. True if that ended it."""
    process = multiprocessing.get_context("fork").Process(target=make, args=(path, log))
    process.start()
    process.join(delay)
    process.kill()
    process.join()
    if process.exitcode not in (0, -9):
        raise SystemExit(f"a process ended with {process.exitcode}")
    return process.exitcode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    count = dict.fromkeys(("kills", "sets", "computed", "again", "solving", "joining", "elsewhere"), 0)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed.h5"
        run(undisturbed, Path(folder) / "first", None)  # fills the caches of the compiler
        undisturbed.unlink()
        started = time.monotonic()
        run(undisturbed, Path(folder) / "log", None)
        whole = time.monotonic() - started
        expected = undisturbed.read_bytes()
        assert sum(map(len, begun(Path(folder) / "log"))) == N
        while count["kills"] < options.kills:
            path, log = (Path(folder) / f"{count['sets']}{end}" for end in (".h5", ".log"))
            in_flight: set[int] = set()
            while not path.exists():
                known, lines = saved(path), len(begun(log))
                killed = run(path, log, draw.uniform(0, whole / 2) if count["kills"] < options.kills else None)
                ran, there = begun(log)[lines:], set(range(N)) if path.exists() else saved(path)
                again = {i for block in ran for i in block} & {i for block in begun(log)[:lines] for i in block}
                assert again <= in_flight, f"computed again, though no kill hit them: {sorted(again - in_flight)}"
                assert not known & {i for block in ran for i in block}, "computed again, though they were saved"
                count["again"] += len(again)
                in_flight -= there
                if killed:
                    lost = [block for block in ran if not there.issuperset(block)]
                    assert len(lost) <= 1, f"more than one block was lost: {lost}"
                    in_flight.update(i for block in lost for i in block)  # until they are saved
                    count["kills"] += 1
                    count["solving" if lost else "joining" if len(there) == N else "elsewhere"] += 1
            assert path.read_bytes() == expected, "the killed set differs from the undisturbed one"
            count["computed"] += sum(map(len, begun(log)))
            count["sets"] += 1
    assert count["computed"] == count["sets"] * N + count["again"]
    assert count["again"] <= count["kills"] * BLOCK
    print(
        json.dumps({**count, "records_of_a_set": N, "records_of_a_block": BLOCK, "seconds_of_a_set": round(whole, 2)})
    )


if __name__ == "__main__":
    sys.exit(main())
