"""Which statements of the paper hold? Those that take seconds or a few minutes each, one after the other.

    python experiments/statements.py --out data/results/statements.json
    python experiments/statements.py --only peaks invariance     a part; the others stay as they were recorded

What would count as holding stands in ``book/claims.yml`` and was fixed there before the first run. Each case asks one
thing of the equations, of the networks or of records, and measures one claim or several; cells are fresh, of seeds that
nothing else uses. Each case says when, at which commit and with which shipped weights it ran; after a change of these a
test names the cases to run again with ``--only``. Without ``--only`` a case that is in ``--folder`` is not run again.
The released networks and the fields of others are read from the folder that RLN_REFERENCE_DATA names.
"""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import torch

import measured
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


def run(name: str) -> dict:
    """What a case found, and when, at which commit, how long and with which shipped weights."""
    measured.USED.clear()
    started = time.monotonic()
    found = CASES[name]()
    shipped = {entry["file"].removesuffix(".safetensors"): entry["sha256"] for entry in weight_files.catalogue()}
    about = {"date": datetime.date.today().isoformat(), "commit": provenance.current_commit()}
    about["weights"] = {used: shipped[used] for used in sorted(measured.USED)}
    return {**found, "seconds": round(time.monotonic() - started, 1), **about}


def recorded(out: Path | None) -> dict[str, dict]:
    """The cases of an earlier record, each with its measured claims."""
    if out is None or not out.exists():
        return {}
    record = json.loads(out.read_text(encoding="utf-8"))
    claims = {measurement["claim"]: measurement for measurement in record["claims"]}
    return {
        name: {**found, "claims": [claims[claim] for claim in found["claims"]]}
        for name, found in record["cases"].items()
    }


def main():
    options = provenance.parse(__doc__, only=("all",), folder="runs/statements")
    torch.set_num_threads(1)
    folder, everything = Path(options.folder), options.only in (["all"], ("all",))
    cases = {} if everything else recorded(options.out)
    for name in CASES if everything else options.only:
        file = folder / f"{name}.json"
        if not everything or not file.exists():
            found = run(name)
            write_atomically(file, json.dumps(found).encode())
            print(f"{name}: {found['seconds']} s", flush=True)
            for measurement in found["claims"]:
                print(
                    f"    {measurement['claim']}: {measurement['value']} {measurement.get('interval', '')}", flush=True
                )
        cases[name] = json.loads(file.read_text(encoding="utf-8"))
    cases = {name: cases[name] for name in CASES if name in cases}
    claims = [measurement for found in cases.values() for measurement in found["claims"]]
    for found in cases.values():
        found["claims"] = [measurement["claim"] for measurement in found["claims"]]
    del options.only  # each case says of itself when it ran
    provenance.write_record("Which statements of the paper hold?", options, {"cases": cases, "claims": claims})


if __name__ == "__main__":
    main()
