"""What do the parts of the recipe change? One short training, many times, with one part of it replaced.

    python experiments/ablation.py --folder runs/ablation --out data/results/ablation.json

Small cells and a minute of training a run: enough to see a direction and its spread over the seeds, too little to quote
as the error of a network. All runs of one seed begin with the same weights and see the same batches. A run that was cut
off goes on from its folder.

What counts as the paper's statement holding on these runs was fixed before the first of them:

- PReLU (section 3.3: "improved the model's stability during training and accuracy during testing"): with ReLU in its
  place, the test error is higher for every seed, and the validation error is less steady (see ``unsteadiness``) on
  average over the seeds.
- Cosine decay (section 4: "converge smoothly and quickly"): with a constant rate, the test error of the best epoch is
  higher for every seed, and the validation error less steady on average.
- Three layers (section 3.3: "worked reasonably well"): as the step of an RLN-t, the plain sequence ends with at most
  twice the error of the V-Net for every seed.
- Symmetry copies are not the paper's; they help where the test error without them is higher for every seed.
"""

import itertools
from pathlib import Path

import torch

import rlnlib
from rlnlib import networks, provenance, training
from rlnlib.rln import KINDS


def vnet_with_relu(inputs: int) -> networks.VNet:
    """The V-Net with ReLU in the place of each PReLU; its convolutions start with the same weights."""
    network = networks.VNet(inputs)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, networks.PReLU):
                setattr(parent, name, torch.nn.ReLU())
    return network


#: Name: (kind, proximal, change of the recipe).
VARIANTS: dict[str, tuple] = {
    "baseline": ("fln", "vnet", {}),
    "ReLU": ("fln", vnet_with_relu, {}),
    "constant rate": ("fln", "vnet", {"final_learning_rate": 2e-3}),
    "no symmetry copies": ("fln", "vnet", {"augment": False}),
    "RLN-t": ("rln-t", "vnet", {}),
    "RLN-t of three layers": ("rln-t", "three-layer", {}),
}


def unsteadiness(errors: list[float]) -> float:
    """By how many percent the validation error rises from one epoch to the next, a fall counted as 0: the mean."""
    rises = [max(0.0, 100 * (new / old - 1)) for old, new in itertools.pairwise(errors)]
    return sum(rises) / len(rises)


def main():
    options = provenance.parse(
        __doc__,
        train=1024,
        validation=256,
        test=512,
        size=10,
        contrast=10.0,
        epochs=16,
        seeds=3,
        recurrent_seeds=1,
        folder="runs/ablation",
    )
    torch.set_num_threads(1)
    counts = [options.train, options.validation, options.test]
    cells = rlnlib.generate_cells(sum(counts), size=options.size, grain_size=(1, options.size // 2), seed=7)
    strain = rlnlib.solve_strain(cells, options.contrast, rtol=1e-4).strain[:, 0].float()
    train_set, validation_set, test_set = zip(torch.from_numpy(cells).split(counts), strain.split(counts), strict=True)
    precision = training.fast_precision("cpu")
    runs = []
    for name, (kind, proximal, change) in VARIANTS.items():
        for seed in range(options.seeds if kind == "fln" else options.recurrent_seeds):
            torch.manual_seed(seed)
            model = rlnlib.RLN(**KINDS[kind], proximal=proximal)
            recipe = {"batch_size": 16, "loss": "rmse", "augment": True, "precision": precision, **change}
            config = training.TrainingConfig(epochs=options.epochs, seed=seed, **recipe)
            folder = Path(options.folder) / f"{name.replace(' ', '-')}-{seed}"
            history = training.train(model, train_set, validation_set, config, folder, device="cpu")
            on_train, on_test = (
                round(float(rlnlib.mase(rlnlib.predict_strain(model, stiff), true).mean()), 3)
                for stiff, true in (train_set, test_set)
            )
            validation = [round(row["validation_mase"], 3) for row in history]
            runs.append(
                {
                    "variant": name,
                    "seed": seed,
                    "test_mase": on_test,
                    "training_mase": on_train,
                    "unsteadiness": round(unsteadiness(validation), 3),
                    "validation_mase": validation,
                }
            )
            print(f"{name} {seed}: {on_test:.3f} %", flush=True)
    provenance.write_record("What do the parts of the recipe change?", options, {"precision": precision, "runs": runs})


if __name__ == "__main__":
    main()
