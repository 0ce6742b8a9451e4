"""Weights on disk: safetensors with everything about them in the header; and the authors' files, read but not run.

A weight file carries, as JSON in its header, the network's configuration, the data set and recipe it was trained
with, its metrics and the library version. ``data/pretrained/manifest.json`` lists the shipped ones with their hashes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from rlnlib import _checks
from rlnlib._files import write_atomically
from rlnlib._version import __version__
from rlnlib.rln import KINDS, RLN

PRETRAINED = Path(__file__).resolve().parent.parent / "data" / "pretrained"
#: Edge of the cells, in voxels, that weights are shipped for if nothing else is asked.
DEFAULT_SIZE = 16


def save_weights(path, model: RLN, **about) -> None:
    """Write a model's weights; ``about`` (data, recipe, metrics, ...) goes into the header as JSON."""
    if "proximal" not in model.config:
        raise ValueError("Only a model whose proximal is one of the library's, given by name, can be saved.")
    header = {"config": model.config, "library_version": __version__, **about}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(tensors, {key: json.dumps(value) for key, value in header.items()}))


def read_header(path) -> dict:
    """Everything that a weight file says about itself. Raises OSError if it is missing or damaged."""
    return _read(path)[0]


def load_weights(path) -> RLN:
    """The model of a weight file, on the CPU, in evaluation mode. Raises OSError if it is missing or damaged."""
    header, tensors = _read(path)
    model = RLN(**header["config"])
    model.load_state_dict(tensors)
    return model.eval()


def _read(path) -> tuple[dict, dict]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No weights {path}: check the name, or train them with rlnlib.training.train.")
    try:
        with safe_open(path, framework="pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # the format's own error type is not public
        raise OSError(f"{path} is not a readable weight file ({error}): it may be truncated; copy it again.") from error
    if "config" not in header:
        raise OSError(f"{path} has no network configuration in its header: it was not written by this library.")
    return header, tensors


def load_pretrained(kind: str, contrast: float, size: int = DEFAULT_SIZE) -> RLN:
    """A shipped model: "fln", "rln-t" or "rln", for the contrast and the size of cells that it was trained for.

    It can be used on cells of other sizes, with a larger error; not at another contrast.
    Raises ValueError for what is not shipped, OSError if the file does not match its hash.
    """
    return load_weights(_checked(kind, contrast, size))


def pretrained_header(kind: str, contrast: float, size: int = DEFAULT_SIZE) -> dict:
    """What the shipped weight file says about itself; see :func:`load_pretrained` for the arguments."""
    return read_header(_checked(kind, contrast, size))


def shipped(size: int = DEFAULT_SIZE) -> list[tuple[str, float]]:
    """The (kind, contrast) of every model shipped for that size of cells, by contrast and the paper's order."""
    return [(entry["kind"], entry["contrast"]) for entry in catalogue() if entry["size"] == size]


def catalogue() -> list[dict]:
    """All shipped weight files: kind, contrast, size of the cells, file and sha256; the smallest cells first."""
    return sorted(
        _manifest().values(), key=lambda entry: (entry["size"], entry["contrast"], list(KINDS).index(entry["kind"]))
    )


def shipped_name(kind: str, contrast: float, size: int = DEFAULT_SIZE) -> str:
    """Under which a model and its records are stored: "rln-10", and "rln-10-31" for another size of cells."""
    return f"{kind}-{contrast:g}" + ("" if size == DEFAULT_SIZE else f"-{size}")


def ship(path) -> str:
    """Copy a weight file into ``data/pretrained`` and list it in the manifest; returns its name there.

    Raises ValueError if its header does not say the kind, the contrast and the size of the cells.
    """
    header, content = read_header(path), Path(path).read_bytes()
    try:
        about = {"kind": header["kind"], "contrast": float(header["contrast"]), "size": int(header["data"]["size"])}
    except KeyError as error:
        raise ValueError(
            f"The header of {path} has no {error}: give kind, contrast and data to save_weights."
        ) from error
    name = shipped_name(**about)
    write_atomically(PRETRAINED / f"{name}.safetensors", content)
    entry = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(content).hexdigest(), **about}
    known = _manifest() if (PRETRAINED / "manifest.json").exists() else {}
    manifest = dict(sorted({**known, name: entry}.items()))
    write_atomically(PRETRAINED / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return name


def _checked(kind: str, contrast: float, size: int) -> Path:
    """The shipped file, with the hash that the manifest says."""
    _checks.one_of("kind", kind, KINDS)
    name = shipped_name(kind, _checks.positive("contrast", contrast), _checks.positive_integer("size", size, least=2))
    entry = _manifest().get(name)
    if entry is None:
        there = "; ".join(f"{e['kind']}, contrast {e['contrast']:g}, size {e['size']}" for e in catalogue())
        raise ValueError(
            f"No {kind} is shipped for contrast {contrast!r} and cells of {size}^3. There are: {there or 'none'}. "
            f"A network holds for one contrast only: train one with rlnlib.training.train."
        )
    path = PRETRAINED / entry["file"]
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise OSError(f"{path} is missing or differs from the hash in its manifest: get data/pretrained again.")
    return path


def _manifest() -> dict:
    path = PRETRAINED / "manifest.json"
    if not path.exists():
        raise OSError(
            f"No shipped weights at {PRETRAINED}: they stand in the repository, so install the library in place "
            f"(pip install -e .) from a checkout."
        )
    return json.loads(path.read_text())


class _Inert:
    """Stands in for a class that a published file names; takes anything and does nothing."""

    def __init__(self, *arguments, **named):
        pass

    def __setstate__(self, state):
        pass


class _Storage:
    """A storage that the pickle refers to by key; its numbers follow after the pickle."""

    def __init__(self, key: str, size: int):
        self.key, self.values = key, np.zeros(size, dtype=np.float32)


class _PublishedUnpickler(pickle.Unpickler):
    """Reads the legacy checkpoint format, and resolves no name but those that the released files need."""

    _harmless = (("rln.model_types", "RecurrentLocalizationNet"), ("rln.model_types", "TinyVNet"))

    def __init__(self, file, storages: dict):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) in self._harmless or (module, name) == ("torch", "FloatStorage"):
            return _Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a released network does not need")

    def persistent_load(self, identifier):
        if identifier[0] == "module":  # (class, its source file, its source text)
            return identifier[1]
        _, _, key, _, size, _ = identifier
        return self.storages.setdefault(key, _Storage(key, size))


def _rebuild(storage, offset, size, stride, *unused):
    return storage, offset, tuple(size), tuple(stride)


def load_published(path, batch_mean: bool = False) -> RLN:
    """One of the networks released with the paper, on the CPU, in evaluation mode.

    The file is a pickle; only the few names that the released ones need are resolved, to inert stand-ins, and
    nothing in it is executed. The authors load along the last axis, so kernels are mirrored to load along axis 0.
    ``batch_mean=True`` subtracts the mean over the batch, as the authors' code does, in place of each cell's.

    Raises OSError if the file is missing, damaged, names anything else or is not such a network.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No file {path}: the released networks are in the paper's reference [66].")
    try:
        storages: dict[str, _Storage] = {}
        with open(path, "rb") as file:
            for _ in range(3):  # magic number, protocol version, machine
                _PublishedUnpickler(file, storages).load()
            content = _PublishedUnpickler(file, storages).load()
            for key in _PublishedUnpickler(file, storages).load():
                storage = storages[key]
                if int.from_bytes(file.read(8), "little") != len(storage.values):
                    raise ValueError("a block of numbers has another length than announced")
                block = file.read(4 * len(storage.values))
                storage.values = np.frombuffer(block, dtype="<f4", count=len(storage.values))
        weights = {name: _as_tensor(value) for name, value in content["model_state_dict"].items()}
        settings = content["net_params"]
        model = RLN(
            passes=settings["npasses"],
            tied=bool(settings["reuse_net"]),
            history=settings["nprev"],
            batch_mean=batch_mean,
        )
        model.load_state_dict(_renamed(weights, model))
    except Exception as error:  # whatever a foreign pickle can raise
        raise OSError(f"{path} is not one of the released networks: {error}.") from error
    return model.eval()


def _as_tensor(reference) -> torch.Tensor:
    storage, offset, size, stride = reference
    return torch.from_numpy(storage.values.copy()).as_strided(size, stride, offset)


def _renamed(weights: dict[str, torch.Tensor], model: RLN) -> dict[str, torch.Tensor]:
    """The authors' weights under our names; both list the layers in the order of the forward pass."""
    ours = list(model.state_dict())
    if len(ours) != len(weights):
        raise ValueError(f"it has {len(weights)} weight arrays where this network has {len(ours)}")
    return {
        name: value.transpose(2, 4).contiguous() if value.ndim == 5 else value
        for name, value in zip(ours, weights.values(), strict=True)
    }
