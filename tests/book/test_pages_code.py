"""The code that the pages show is enough: run without the library, it computes what the library computes.

Each check takes the functions and classes of a chapter by their names out of its cells, solutions included, runs them
with NumPy and PyTorch alone, and returns by how much they miss the library. With a line of the page changed it has to
find the fault.
"""

import ast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rlnlib
from rlnlib import networks, rln, runs, solvers, training
from stored import NOTEBOOKS, cells_of

UNSEEN = {"hide-input", "remove-cell", "remove-input"}


def shown(chapter: str) -> str:
    """The code of a chapter that a reader sees, the solutions of its exercises included."""
    (path,) = [path for path in NOTEBOOKS if path.stem.partition("_")[2] == chapter]
    return "\n\n".join(cell.source for cell in cells_of(path) if not UNSEEN & set(cell.metadata.get("tags", [])))


def assembled(chapter: str, names: str, wrong=("", "")) -> dict:
    """What the chapter's functions and classes of these names are, with a text in them replaced by another one."""
    code, names = shown(chapter), names.split()
    parts = {
        node.name: ast.get_source_segment(code, node)
        for node in ast.parse(code).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names
    }
    assert sorted(parts) == sorted(names), f"{chapter} shows only {', '.join(parts)}"
    source = "\n\n".join(parts.values())
    assert wrong[0] in source, f"{chapter} does not have {wrong[0]!r} any more"
    own: dict = {"np": np, "torch": torch, "F": F, "nn": nn}
    exec(source.replace(*wrong) if wrong[0] else source, own)
    return own


def cells(n=2, size=8, seed=3) -> torch.Tensor:
    return torch.from_numpy(rlnlib.generate_cells(n, size, (2, 4), (0.3, 0.6), seed=seed))


def apart(one, other) -> float:
    return float((torch.as_tensor(one) - torch.as_tensor(other)).abs().max())


def moulinec(wrong=("", "")) -> float:
    solve = assembled("moulinec_fixed_point", "solve_moduli", wrong)["solve_moduli"]
    cell, mean_strain = cells(1, size=7).numpy(), np.diag([1.0, 0.0, 0.0])
    try:
        with np.errstate(all="ignore"):  # a wrong scheme may run away
            found, _ = solve(np.where(cell[0], 10.0, 1.0), mean_strain)
    except RuntimeError:  # no convergence
        return float("inf")
    library = rlnlib.solve_strain(cell, 10.0, discretization="continuous", rtol=1e-10)
    return apart(found[0, 0], library.strain[0, 0])


def vnet(wrong=("", "")) -> float:
    own = assembled("a_network_from_scratch", "Conv VNet", wrong)
    torch.manual_seed(0)
    library, field = networks.VNet().eval(), torch.randn(2, 6, 8, 8, 8)
    network = own["VNet"]()
    network.load_state_dict(library.state_dict())
    with torch.no_grad():
        return apart(network(field), library(field))


def recurrent(wrong=("", "")) -> float:
    own = assembled("a_network_from_scratch", "Conv VNet RLN", wrong)
    torch.manual_seed(0)
    library, indicators = rlnlib.RLN(passes=3).eval(), rln.phase_indicators(cells())
    network = own["RLN"](own["VNet"]() for _ in range(3))
    network.load_state_dict(library.state_dict())
    with torch.no_grad():
        pairs = zip(network(indicators), library(indicators, return_iterates=True), strict=True)
        return max(apart(*pair) for pair in pairs)


def exercise(wrong=("", "")) -> float:
    """The RLN of an exercise of chapter 12, with each of its options."""
    own = assembled("recurrent_localization_network", "OwnRLN", wrong)
    indicators, missed = rln.phase_indicators(cells()), []
    for options in ({"passes": 3}, {"passes": 4, "tied": True}, {"passes": 3, "history": 0}, {"passes": 1}):
        torch.manual_seed(0)
        library = rlnlib.RLN(**options).eval()
        network = own["OwnRLN"](networks.VNet, **options).eval()
        network.load_state_dict(library.state_dict())
        with torch.no_grad():
            pairs = zip(network(indicators), library(indicators, return_iterates=True), strict=True)
            missed += [apart(*pair) for pair in pairs]
    return max(missed)


def loop(wrong=("", ""), folder=None, epochs=2) -> float:
    """Losses and errors of the page's training loop beside the library's, relative to these."""
    stiff = cells(12, seed=5)
    strain = rlnlib.solve_strain(stiff, 10.0, rtol=1e-4, dtype=torch.float32).strain[:, :1]
    own = assembled("a_network_from_scratch", "Conv VNet RLN train", wrong)
    own |= {"m_train": rln.phase_indicators(stiff), "y_train": strain}
    own |= {"m_test": own["m_train"], "errors_of": lambda field: rlnlib.mase(field[:, 0], strain[:, 0])}
    torch.manual_seed(0)
    library = rlnlib.RLN(passes=2, proximal=lambda inputs: networks.VNet(inputs, width=8, low_width=16))
    network = own["RLN"](own["VNet"](c=8) for _ in range(2))
    network.load_state_dict(library.state_dict())
    recipe = training.TrainingConfig(epochs=epochs, batch_size=4, learning_rate=4e-3, loss="rmse", seed=0)
    pair = stiff, strain[:, 0]
    learning_curve = runs.train(library, pair, pair, recipe, folder, device="cpu")
    # The library's own order of the cells, in each epoch.
    orders = iter([torch.randperm(12, generator=training._generator(0, epoch)) for epoch in range(epochs)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda n: next(orders))
        found = own["train"](network, epochs, learning_rate=4e-3, batch_size=4)
    wanted = [(row["training_loss"], row["validation_mase"]) for row in learning_curve]
    return float(np.abs(np.divide(found, wanted) - 1).max())


CHECKS = {  # by how much the page may miss the library: rounding, and what rounding has grown to after six steps
    "Moulinec's scheme": (moulinec, 1e-6),
    "the V-Net": (vnet, 1e-5),
    "the RLN": (recurrent, 1e-5),
    "the RLN of the exercise": (exercise, 1e-5),
    "the training loop": (loop, 1e-3),
}


def missed_by(name, tmp_path, wrong=("", "")) -> float:
    check = CHECKS[name][0]
    return check(wrong, folder=tmp_path / "run") if check is loop else check(wrong)


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_pages_show_computes_what_the_library_computes(name, tmp_path):
    assert missed_by(name, tmp_path) < CHECKS[name][1]


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("Moulinec's scheme", "2 * (mu - mu_r) * y", "2 * mu * y"),
        ("the V-Net", 'mode="circular"', 'mode="constant"'),
        ("the V-Net", "[coarse, fine]", "[fine, coarse]"),
        ("the RLN", "update.mean((1, 2, 3, 4), keepdim=True)", "0"),
        ("the RLN", "*past[:2]]", "*past[:1], past[0]]"),
        ("the RLN of the exercise", "[0 * one] * self.history", "[one] * self.history"),
        ("the training loop", "cosine.step()", "pass"),
        ("the training loop", ".sqrt()", ""),
        ("the training loop", "optimizer.zero_grad()", "pass"),
    ],
)
def test_a_wrong_line_on_a_page_is_found(name, right, wrong, tmp_path):
    assert missed_by(name, tmp_path, (right, wrong)) > 10 * CHECKS[name][1]


@pytest.mark.parametrize(
    "chapter, function",
    [
        ("recurrent_localization_network", solvers.recurrence),
        ("training", training.training_loss),
        ("training", training.gradient),
        ("training", training.step),
    ],
)
def test_a_function_of_the_library_stands_on_the_page_as_it_is(chapter, function):
    """Printed by the page from the library's source, so that it cannot differ."""
    code = shown(chapter)
    assert "inspect.getsource(" in code and f"{function.__module__.rpartition('.')[2]}.{function.__name__}" in code


def test_the_code_that_a_chapter_shows_is_its_idea():
    """Without solutions and what is folded, 120 lines in each of chapters 10 to 18, none over 88 columns."""
    for path in NOTEBOOKS:
        code = [cell for cell in cells_of(path) if not {"remove-cell"} & set(cell.metadata.get("tags", []))]
        wide = [line for cell in code for line in cell.source.splitlines() if len(line) > 88]
        folded = {*UNSEEN, "hide-cell"}
        lines = [
            line
            for cell in code
            if not folded & set(cell.metadata.get("tags", []))
            for line in cell.source.splitlines()
            if line.strip()
        ]
        if 10 <= int(path.stem[:2]) <= 18:
            assert not wide, (path.stem, wide)
            assert len(lines) <= 120, (path.stem, len(lines))
