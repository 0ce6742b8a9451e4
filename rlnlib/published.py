"""The networks released with the paper: their files are pickles, which are read and not run."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlnlib import _checks
from rlnlib.rln import RLN

#: A released network has 132,801 numbers; a file that announces hundreds of times as many is none.
_MOST_NUMBERS = 2**26
#: The instructions of a pickle that the released files use.
_NEEDED = {
    "PROTO STOP MARK LONG1 BININT BININT1 BININT2 BINFLOAT BINUNICODE NONE NEWTRUE NEWFALSE",
    "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS",
    "BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BUILD BINPERSID",
}
_INSTRUCTIONS = {getattr(pickle, name)[0] for line in _NEEDED for name in line.split()}
_TUPLES = {pickle.TUPLE[0], pickle.TUPLE1[0], pickle.TUPLE2[0], pickle.TUPLE3[0]}


def load_published(path, batch_mean: bool = False) -> RLN:
    """Load one of the networks released with the paper, on the CPU, in evaluation mode.

    The file is a pickle. Only the few names that the released ones need are resolved, to inert stand-ins, and nothing
    in it is executed. The authors load along the last axis, so kernels are mirrored to load along axis 0.

    Args:
        path: a ``.model`` file of the paper's reference [66].
        batch_mean: subtract the mean over the batch, as the authors' code does, in place of each cell's.

    Raises:
        OSError: if the file is missing, damaged, names anything else or is not such a network.
    """
    path, batch_mean = _checks.as_path(path), _checks.boolean("batch_mean", batch_mean)
    if not path.exists():
        raise FileNotFoundError(f"No file {path}: the released networks are in the paper's reference [66].")
    try:
        content, storages = _read(path)
        weights = {name: _as_tensor(value, storages) for name, value in content["model_state_dict"].items()}
        settings = content["net_params"]
        tied, passes = bool(settings["reuse_net"]), settings["npasses"]
        if not tied and passes > len(weights):
            raise ValueError(f"it has {len(weights)} weight arrays for {passes} passes")
        model = RLN(passes=passes, tied=tied, history=settings["nprev"], batch_mean=batch_mean)
        model.load_state_dict(_renamed(weights, model))
    except Exception as error:  # whatever a foreign pickle can raise
        raise OSError(f"{path} is not one of the released networks: {error}.") from error
    return model.eval()


def _read(path) -> tuple[dict, dict[str, np.ndarray]]:
    """Read the content, and the numbers of each storage that it refers to."""
    announced: dict[str, int] = {}
    with open(path, "rb") as file:
        for _ in range(3):  # magic number, protocol version, machine
            _Unpickler(file, announced).load()
        content = _Unpickler(file, announced).load()
        keys = _Unpickler(file, {}).load()
        if sum(announced.values()) > _MOST_NUMBERS:
            raise ValueError(f"it announces {sum(announced.values()):,} numbers")
        if not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(announced):
            raise ValueError("the blocks of numbers are not those that its weights refer to")
        storages = {}
        for key in keys:
            if int.from_bytes(file.read(8), "little") != announced[key]:
                raise ValueError("a block of numbers has another length than announced")
            block = file.read(4 * announced[key])
            storages[key] = np.frombuffer(block, dtype="<f4", count=announced[key])
    return content, storages


class _Inert:
    """A stand-in for a class that a published file names: it takes anything and does nothing."""

    def __init__(self, *arguments, **named):
        pass

    def __setstate__(self, state):
        pass


def _rebuild(key, offset, size, stride, *unused):
    return key, offset, size, stride


#: What the released files name, and what it is here.
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): _Inert,
    ("rln.model_types", "RecurrentLocalizationNet"): _Inert,
    ("rln.model_types", "TinyVNet"): _Inert,
}


def _small(make: Callable) -> Callable:
    """Refuse a tuple of more than eight entries or four levels: to hash a deep one takes for ever, or the stack."""

    def levels(value) -> int:
        return 1 + max(map(levels, value), default=0) if isinstance(value, tuple) else 0

    def checked(unpickler):
        make(unpickler)
        if len(unpickler.stack[-1]) > 8 or levels(unpickler.stack[-1]) > 4:
            raise pickle.UnpicklingError("it holds a tuple that a released network does not need")

    return checked


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """A reader of the legacy checkpoint format that knows only the instructions and names of the released files.

    It builds on the unpickler written in Python, from which instructions can be left out.
    """

    dispatch = {  # noqa: RUF012 (the name in the base class)
        code: _small(action) if code in _TUPLES else action
        for code, action in pickle._Unpickler.dispatch.items()  # type: ignore[attr-defined]
        if code in _INSTRUCTIONS
    }

    def __init__(self, file, announced: dict[str, int]):
        super().__init__(file)
        self.announced = announced

    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a released network does not need")
        return _NAMES[module, name]

    def persistent_load(self, identifier):
        if identifier[0] == "module":  # (class, its source file, its source text)
            return identifier[1]
        _, _, key, _, size, _ = identifier
        if not isinstance(key, str) or not isinstance(size, int) or self.announced.setdefault(key, size) != size:
            raise pickle.UnpicklingError("it refers to its numbers in another way than a released network")
        return key


def _as_tensor(reference, storages: dict[str, np.ndarray]) -> torch.Tensor:
    key, offset, size, stride = reference
    values = torch.from_numpy(storages[key].copy())
    if math.prod(size) > len(values) or not bool(torch.isfinite(values).all()):
        raise ValueError("a weight array is larger than its numbers, or holds NaN or infinity")
    return values.as_strided(size, stride, offset)


def _renamed(weights: dict[str, torch.Tensor], model: RLN) -> dict[str, torch.Tensor]:
    """Give the authors' weights our names; both list the layers in the order of the forward pass."""
    ours = list(model.state_dict())
    if len(ours) != len(weights):
        raise ValueError(f"it has {len(weights)} weight arrays where this network has {len(ours)}")
    return {
        name: value.transpose(2, 4).contiguous() if value.ndim == 5 else value
        for name, value in zip(ours, weights.values(), strict=True)
    }
