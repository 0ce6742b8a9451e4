"""Weights on disk: safetensors with everything about them in the header, and those that come with the package.

A weight file carries, as JSON in its header, the network's configuration, the data set and recipe it was trained
with, its metrics and the library version. ``manifest.json`` lists the shipped ones with their hashes. They come with
the package, where :mod:`importlib.resources` finds them; in a checkout they stand in ``data/pretrained``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from rlnlib import _checks, proximals
from rlnlib._files import resource, write_atomically
from rlnlib._version import __version__
from rlnlib.informed import InformedRLN
from rlnlib.networks import PROXIMALS
from rlnlib.rln import KINDS, RLN

PRETRAINED = resource("pretrained")
#: What the configuration of an :class:`RLN` may have.
_OPTIONS = {"passes", "tied", "history", "batch_mean", "proximal"}
#: Edge of the cells, in voxels, that weights are shipped for if nothing else is asked.
DEFAULT_SIZE = 16


def save_weights(path, model: RLN | InformedRLN, **about) -> None:
    """Write a model's weights.

    Args:
        path: the file.
        model: its network may be one of yours; then only the name of that is stored, not its code.
        about: data, recipe, metrics, ...; goes into the header as JSON.

    Raises:
        ValueError: for weights that are not finite, or what JSON cannot hold.
        OSError: where the file cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _finite(tensors, "the model")
    try:
        header = {"config": model.config, "library_version": __version__, **about}
        if isinstance(model, InformedRLN):
            header["family"] = "informed"
        content = save(tensors, {key: json.dumps(value, allow_nan=False) for key, value in header.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"The header of a weight file holds numbers, text, lists and dicts: {error}.") from error
    write_atomically(_checks.as_path(path), content)


def read_header(path) -> dict:
    """Read everything that a weight file says about itself.

    Args:
        path: the file.

    Returns:
        "config" of the network, and what :func:`save_weights` was given.

    Raises:
        OSError: if it is missing or damaged.
    """
    return _read(path)[0]


def load_weights(path, proximal: str | Callable[[int], nn.Module] | None = None) -> Any:
    """Read the model of a weight file, an RLN or an InformedRLN, on the CPU, in evaluation mode.

    Args:
        path: the file.
        proximal: for a network that is not the library's: the function or class that makes it. The word of a file
            alone does not have a module imported.

    Returns:
        The model.

    Raises:
        OSError: if the file is missing or damaged, or its weights are not finite or not those of its network.
        ValueError: for a network that is not the library's and not passed.
    """
    header, tensors = _read(path)
    family = InformedRLN if header.get("family") == "informed" else RLN
    if family is InformedRLN and proximal is not None:
        raise ValueError(f"{path} holds an informed network, whose passes are the library's: leave proximal out.")
    config, recipe = header["config"], header.get("recipe")
    if family is InformedRLN and isinstance(config, dict) and isinstance(recipe, dict) and "largest_contrast" in recipe:
        config = {"largest_contrast": recipe["largest_contrast"], **config}
    model = _made(family, config, tensors, proximal, path)
    try:
        model.load_state_dict(tensors)
        _finite(tensors, "the file")
    except (RuntimeError, ValueError) as error:
        raise OSError(f"The weights in {path} are not those of its network {header['config']}: {error}") from error
    return model.eval()


def _made(family, config, tensors, proximal, path) -> RLN | InformedRLN:
    """Make the untrained network of a header. Raises as :func:`load_weights`."""
    own = isinstance(config, dict) and ":" in str(config.get("proximal"))
    try:
        passes = config.get("passes") if isinstance(config, dict) and not config.get("tied") else None
        if isinstance(passes, int) and passes > len(tensors):
            raise ValueError(f"it has {len(tensors)} arrays for {passes} passes")
        return InformedRLN(**config) if family is InformedRLN else untrained(config, proximal)
    except (ValueError, TypeError) as error:
        if own or proximal is not None:  # not the file's fault: the caller has to pass another network
            raise
        raise OSError(f"{path} does not describe a network of this library: {error}") from error


def untrained(config: dict, proximal: str | Callable[[int], nn.Module] | None = None) -> RLN:
    """Make the untrained model that a file describes.

    Args:
        config: what :attr:`RLN.config` was when the file was written.
        proximal: for a network that is not the library's: the function or class that makes it, or its
            "module:name". The word of a file alone does not have a module imported.

    Returns:
        The model.

    Raises:
        ValueError: for a configuration that is none, or a network of yours that is not passed, or another one.
    """
    if not isinstance(config, dict) or not {"passes", "tied", "history"} <= config.keys() <= _OPTIONS:
        raise ValueError(f"A configuration has the entries {', '.join(sorted(_OPTIONS))}; this one is {config!r}.")
    stored = config.get("proximal", "vnet")
    if proximal is None and stored not in PROXIMALS:
        raise ValueError(
            f"The network {stored!r} is not one of the library's: pass the function or class that makes it as "
            f"proximal=... (the word of a file alone does not have a module imported)."
        )
    if proximal is not None and proximals.full_name(proximal) != stored:
        raise ValueError(f"The network of the file is {stored!r}, not {proximals.full_name(proximal)!r}.")
    return RLN(**{**config, "proximal": stored if proximal is None else proximal})


def _finite(tensors: dict[str, torch.Tensor], where: str) -> None:
    """Refuse weights that are not finite. Raises ValueError."""
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} of {where} holds NaN or infinity.")


def _read(path) -> tuple[dict, dict]:
    """Read header and tensors of a weight file. Raises OSError."""
    path = _checks.as_path(path)
    if not path.exists():
        raise FileNotFoundError(f"No weights {path}: check the name, or train them with rlnlib.runs.train.")
    try:
        with safe_open(path, framework="pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # the format's own error type is not public
        raise OSError(f"{path} is not a readable weight file ({error}).") from error
    if "config" not in header:
        raise OSError(f"{path} has no network configuration in its header: it was not written by this library.")
    return header, tensors


@overload
def load_pretrained(kind: Literal["informed"]) -> InformedRLN: ...


@overload
def load_pretrained(kind: str, contrast: float, size: int = DEFAULT_SIZE, proximal=None) -> RLN: ...


def load_pretrained(kind, contrast=None, size=DEFAULT_SIZE, proximal=None):
    """Load a shipped model. It can be used on cells of other sizes, with a larger error.

    The networks of the paper hold for one contrast each; "informed" is one for all up to its ``largest_contrast``.

    Args:
        kind: "fln", "rln-t" or "rln"; "rln-further", the RLN for 16^3 whose training went on at 31^3; or "informed",
            which :func:`rlnlib.predict` applies.
        contrast: for which it was trained; None for "informed".
        size: edge of the cells for which it was trained, in voxels.
        proximal: for a network of yours that you shipped: the function or class that makes it.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        ValueError: for what is not shipped.
        OSError: if the file does not match its hash.
    """
    return load_weights(_checked(kind, contrast, size), proximal)


def pretrained_header(kind: str, contrast: float | None = None, size: int = DEFAULT_SIZE) -> dict:
    """Read what the shipped weight file says about itself; see :func:`load_pretrained` for the arguments."""
    return read_header(_checked(kind, contrast, size))


def shipped(size: int = DEFAULT_SIZE) -> list[tuple[str, float]]:
    """List the (kind, contrast) of every model shipped for that size, by contrast, the paper's kinds first."""
    return [(e["kind"], e["contrast"]) for e in catalogue() if e["contrast"] is not None and e["size"] == size]


def catalogue() -> list[dict]:
    """List the shipped networks: those for one contrast, the smallest cells first, then the informed one.

    Returns:
        For each: "kind", "contrast" (None for the informed one), "size" of the cells that it was trained on, "file" and
        "sha256".
    """
    order = list(KINDS)

    def place(entry):  # the paper's kinds in its order, then others by name
        kind = entry["kind"]
        contrast = math.inf if entry["contrast"] is None else entry["contrast"]
        return contrast == math.inf, entry["size"], contrast, order.index(kind) if kind in order else len(order), kind

    return sorted(_manifest().values(), key=place)


def shipped_name(kind: str, contrast: float, size: int = DEFAULT_SIZE) -> str:
    """Name a model and its records: "rln-10", and "rln-10-31" for another size of cells than the default."""
    return f"{kind}-{contrast:g}" + ("" if size == DEFAULT_SIZE else f"-{size}")


def ship(path) -> str:
    """Copy a weight file into ``data/pretrained`` and list it in the manifest.

    Args:
        path: the file.

    Returns:
        Its name there.

    Raises:
        ValueError: if its header does not say the kind, the contrast and the size of the cells.
    """
    header, content = read_header(path), Path(path).read_bytes()
    about: dict
    try:
        if header.get("family") == "informed":
            about = {"kind": "informed", "contrast": None, "size": int(header["recipe"]["size"])}
        else:
            about = {"kind": header["kind"], "contrast": float(header["contrast"]), "size": int(header["data"]["size"])}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The header of {path} has no {error}: give kind, contrast and data to save_weights."
        ) from error
    name = "informed" if about["contrast"] is None else shipped_name(**about)
    write_atomically(PRETRAINED / f"{name}.safetensors", content)
    entry = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(content).hexdigest(), **about}
    known = _manifest() if (PRETRAINED / "manifest.json").exists() else {}
    manifest = dict(sorted({**known, name: entry}.items()))
    write_atomically(PRETRAINED / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return name


def _checked(kind: str, contrast: float | None, size: int) -> Path:
    """Return the shipped file, which has the hash that the manifest says."""
    manifest = _manifest()
    if str(kind).endswith(".safetensors"):
        raise ValueError(f"kind names a shipped network, such as 'rln'; rlnlib.weight_files.load_weights reads {kind}.")
    _checks.one_of("kind", kind, dict.fromkeys([*KINDS, "informed", *(entry["kind"] for entry in manifest.values())]))
    size = _checks.positive_integer("size", size, least=2)
    if kind == "informed" and (contrast is not None or size != DEFAULT_SIZE):
        most = pretrained_header(kind)["recipe"]["largest_contrast"]
        raise ValueError(
            f"There is one informed network, for contrasts from 1 to {most:g}: leave contrast and size out."
        )
    name = (
        kind
        if kind == "informed" or contrast is None
        else shipped_name(kind, _checks.positive("contrast", contrast), size)
    )
    entry = manifest.get(name)
    if entry is None:
        listed = [e for e in catalogue() if e["kind"] == kind]
        there = "; ".join(f"contrast {e['contrast']:g}, size {e['size']}" for e in listed)
        message = f"No {kind} is shipped for contrast {contrast!r} and cells of {size}^3; shipped: {there or 'none'}. "
        if contrast is None:
            raise ValueError(message + "Name one of these contrasts.")
        if contrast in [e["contrast"] for e in listed]:
            raise ValueError(message + "Take one of these sizes: the network serves cells of other sizes, too.")
        raise ValueError(
            message + "A network of the paper holds for one contrast only: train one with rlnlib.runs.train, or "
            "predict with load_pretrained('informed') and rlnlib.predict."
        )
    path = PRETRAINED / entry["file"]
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise OSError(f"{path} is missing or differs from the hash in its manifest: get data/pretrained again.")
    return path


def _manifest() -> dict[str, dict]:
    """Read the manifest: what is shipped, by name. Raises OSError."""
    path = PRETRAINED / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest.values():
            if not {"kind", "contrast", "size", "file", "sha256"} <= entry.keys():
                raise ValueError(f"an entry is {entry}")
    except FileNotFoundError as error:
        raise OSError(f"No shipped weights at {PRETRAINED}: install the library again.") from error
    except (ValueError, AttributeError) as error:
        raise OSError(f"{path} is not a list of shipped weights ({error}).") from error
    return manifest
