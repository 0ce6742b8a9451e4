"""Small runs of the campaigns in this folder; `make stress` has the large ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fuzz

CALLS = 20


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return list(fuzz.functions(tmp_path_factory.mktemp("fuzz")))


NAMES = [
    "generate_cells",
    "pymks_cell",
    "design",
    "load_cell",
    "load_cell of raw",
    "load_labels",
    "make_dataset",
    "StrainDataset",
    "verify",
    "repair",
    "read_parameters",
    "import_arrays",
    "solve_strain",
    "effective_stiffness",
    "predict_strain",
    "predict",
    "RLN",
    "InformedRLN",
    "TrainingConfig",
    "load_pretrained",
    "load_published",
    "load_weights",
    "fans.write",
    "engineering_constants",
    "mase",
    "energy_by_wavelength",
    "isotropic_stiffness",
    "GreenOperator",
]


def test_every_function_of_the_fuzzer_is_run_here(known):
    assert known == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_hostile_arguments_end_in_a_result_or_in_a_sentence_that_names_them(name):
    wrong = {
        changed: verdict
        for _, changed, verdict in fuzz.campaign([name], CALLS, seed=1)
        if verdict not in ("result", "sentence")
    }
    assert not wrong


def test_the_fuzzer_finds_what_it_looks_for():
    """A negative control for each kind of wrong outcome."""

    def crash(size):
        raise RuntimeError("size")

    def mute(size):
        raise ValueError("no")

    def hang(size):
        while True:
            pass

    found = [fuzz.judge(function, {"size": 1}, ["size"], 0.2) for function in (crash, mute, hang)]
    assert found == ["RuntimeError: size", "no name: ValueError: no", "took more than 0.2 s"]
    assert fuzz.judge(lambda size: size, {"size": 1}, ["size"], 0.2) == "result"
