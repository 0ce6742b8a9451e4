"""What do symmetry copies and the falling learning rate change? The same short training with and without.

    python benchmarks/recipe.py --out data/results/recipe.json

An FLN on a few cells of 16^3: small enough to show a direction on two cores, too small for a figure to quote.
"""

import tempfile

import common
import torch

import rlnlib
from rlnlib import notebook, training
from rlnlib.rln import KINDS

RECIPES = {
    "symmetry copies, cosine": {"augment": True},
    "no copies, cosine": {"augment": False},
    "symmetry copies, constant rate": {"augment": True, "final_learning_rate": 2e-3},
}


def main():
    options = common.parse(__doc__, train=64, test=64, epochs=30, seeds=2, contrast=50.0)
    torch.set_num_threads(1)
    cells = torch.from_numpy(rlnlib.generate_cells(options.train + options.test, size=16, seed=7))
    strain = rlnlib.solve_strain(cells, options.contrast, rtol=1e-4).strain[:, 0].float()
    train_set, test_set = (
        (part(cells), part(strain)) for part in (lambda f: f[: options.train], lambda f: f[options.train :])
    )
    runs = []
    for seed in range(options.seeds):
        for name, recipe in RECIPES.items():
            torch.manual_seed(seed)
            model = rlnlib.RLN(**KINDS["fln"])
            config = training.TrainingConfig(epochs=options.epochs, batch_size=16, loss="rmse", seed=seed, **recipe)
            with tempfile.TemporaryDirectory() as folder:
                history = training.train(model, train_set, test_set, config, folder, device="cpu")
            on_train = float(rlnlib.mase(rlnlib.predict_strain(model, train_set[0]), train_set[1]).mean())
            validation = [round(row["validation_mase"], 3) for row in history]
            runs.append(
                {"recipe": name, "seed": seed, "validation_mase": validation, "training_mase": round(on_train, 3)}
            )
            print(name, seed, validation[-1], on_train, flush=True)
    result = {
        **{name: getattr(options, name) for name in ("train", "test", "epochs", "contrast")},
        "kind": "fln",
        "size": 16,
        "runs": runs,
        "commit": notebook.current_commit(),
    }
    common.write("What symmetry copies and the falling learning rate change", options, result)


if __name__ == "__main__":
    main()
