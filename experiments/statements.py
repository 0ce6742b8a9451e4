"""Which statements of the paper hold? Those that take seconds or a few minutes each, one after the other.

    python experiments/statements.py --out data/results/statements.json
    python experiments/statements.py --only peaks invariance     a part; the others stay as they were recorded

What would count as holding stands in ``book/claims.yml`` and was fixed there before the first run. Each case asks one
thing of the equations, of the networks or of records, and measures one claim or several; cells are fresh, of seeds that
nothing else uses. A case that was recorded in ``--folder`` is not run again: after a change of the shipped weights name
the cases that use them with ``--only``, or begin in another folder. The released networks and the fields of
others are read from the folder that RLN_REFERENCE_DATA names.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch

import statements_of_data
import statements_of_equations
import statements_of_networks
import statements_of_records
from rlnlib import provenance, weight_files
from rlnlib._files import write_atomically

#: Name of a case: what runs it. It returns what was found, with the measured claims as "claims".
CASES = {
    **statements_of_equations.CASES,
    **statements_of_data.CASES,
    **statements_of_networks.CASES,
    **statements_of_records.CASES,
}


def weights() -> dict[str, str]:
    """Name and sha256 of the shipped and of the released weights."""
    shipped = {entry["file"]: entry["sha256"] for entry in weight_files.catalogue()}
    released = sorted((statements_of_data.reference_data() / "published").glob("*.model"))
    return shipped | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in released}


def main():
    options = provenance.parse(__doc__, only=("all",), folder="runs/statements")
    torch.set_num_threads(1)
    folder = Path(options.folder)
    wanted = list(CASES) if options.only in (["all"], ("all",)) else options.only
    cases = {}
    for name, case in CASES.items():
        file = folder / f"{name}.json"
        if name in wanted and (wanted != list(CASES) or not file.exists()):
            started = time.monotonic()
            found = {**case(), "seconds": round(time.monotonic() - started, 1)}
            write_atomically(file, json.dumps(found).encode())
            print(f"{name}: {found['seconds']} s", flush=True)
            for measured in found["claims"]:
                print(f"    {measured['claim']}: {measured['value']} {measured.get('interval', '')}", flush=True)
        if file.exists():
            cases[name] = json.loads(file.read_text(encoding="utf-8"))
    claims = [measured for found in cases.values() for measured in found.pop("claims")]
    options.only = sorted(cases)
    found = {"weights": weights(), "cases": cases, "claims": claims}
    provenance.write_record("Which statements of the paper hold?", options, found)


if __name__ == "__main__":
    main()
