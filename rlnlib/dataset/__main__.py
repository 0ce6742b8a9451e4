"""The command line of data sets.

python -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
torchrun --nproc-per-node 2 -m rlnlib.dataset make --profile paper --contrast 50 OUT.h5
python -m rlnlib.dataset verify|repair|info FILE
python -m rlnlib.dataset import OUT.h5 --contrast 10 --train 31_c10_train.npy 31_c10_train_strain.npy
"""

from __future__ import annotations

import argparse
import sys

from rlnlib.dataset import PROFILES, SPLITS, import_arrays, make_dataset, read_parameters, repair, verify
from rlnlib.dataset.making import rank_of_process


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlnlib.dataset", description="Data sets of cells and their strains."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, text):
        added = commands.add_parser(name, help=text, argument_default=argparse.SUPPRESS)
        added.add_argument("path")
        return added

    make = command("make", "generate and solve; run again after a kill to go on")
    make.add_argument("--profile", choices=PROFILES, default="paper", help="number and size of the cells")
    make.add_argument("--n", "--cells", dest="n", type=int, help="number of cells; torchrun takes only --cells")
    make.add_argument("--size", type=int, help="voxels along each edge")
    make.add_argument("--repeats", type=int, help="random cells for each design point")
    make.add_argument("--contrast", type=float, help="stiff over soft modulus, 50 if not given")
    make.add_argument("--poisson", type=float)
    make.add_argument("--grain-size", type=int, nargs=2, metavar=("LOW", "HIGH"))
    make.add_argument("--stiff-fraction", type=float, nargs=2, metavar=("LOW", "HIGH"))
    make.add_argument("--seed", type=int)
    make.add_argument("--discretization")
    make.add_argument("--rtol", type=float)
    make.add_argument("--all-components", action="store_true", help="store all six strain components")
    make.add_argument("--device", help="cpu (default) or cuda")
    make.add_argument("--block", type=int, help="records solved and saved together, which a kill can lose")
    command("verify", "name the damaged records")
    command("repair", "recompute the damaged records")
    command("info", "print what the file holds")
    foreign = command("import", "bring the authors' arrays into the same layout")
    foreign.add_argument("--contrast", type=float, required=True)
    foreign.add_argument("--poisson", type=float)
    for split in SPLITS:
        foreign.add_argument(f"--{split}", nargs=2, metavar=("CELLS", "STRAIN"))
    options = vars(parser.parse_args(arguments))
    name, path = options.pop("command"), options.pop("path")
    try:
        if name == "make":
            first = rank_of_process()[0] == 0
            made = make_dataset(path, progress=first, **{**PROFILES[options.pop("profile")], **options})
            if first:
                print(made)
            return 0
        if name == "import":
            print(import_arrays(path, **options))
            return 0
        if name == "info":
            print(read_parameters(path).to_json())
            return 0
        damaged = verify(path) if name == "verify" else repair(path)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done is kept: run the same command again to go on", file=sys.stderr)
        return 130
    done = "damaged" if name == "verify" else "recomputed"
    print(f"{len(damaged)} records {done}{': ' if damaged else ''}{', '.join(map(str, damaged))}")
    return 1 if damaged and name == "verify" else 0


if __name__ == "__main__":
    sys.exit(main())
