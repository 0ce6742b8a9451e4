"""A proximal operator by name: the library's, or a function or class of a user's module.

The name is what weight files and the folders of runs store.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn

from rlnlib import _checks
from rlnlib.networks import PROXIMALS


def full_name(proximal: str | Callable[[int], nn.Module]) -> str:
    """Return the name that is stored for a proximal operator: that of the library, or "module:qualified name".

    Raises:
        ValueError: for what makes no module.
    """
    if isinstance(proximal, str):
        return proximal
    if not callable(proximal) or isinstance(proximal, nn.Module):
        raise ValueError(
            f"proximal must be a name, or a function or class that makes a module from its number of input channels; "
            f"it is {proximal!r}."
        )
    known = [name for name, made_by in PROXIMALS.items() if made_by is proximal]
    named = proximal if hasattr(proximal, "__qualname__") else type(proximal)
    return known[0] if known else f"{named.__module__}:{named.__qualname__}"


def find_proximal(proximal: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return what makes a proximal operator from its number of input channels (and of output channels, if not 1).

    Args:
        proximal: a name of :data:`rlnlib.networks.PROXIMALS`, the "module:qualified name" of a function or class of
            yours, which is imported, or that function or class itself.

    Returns:
        A function or class.

    Raises:
        ValueError: for an unknown name, or one that cannot be imported.
    """
    if not isinstance(proximal, str):
        full_name(proximal)
        return proximal
    module, colon, path = proximal.partition(":")
    if not colon:
        return PROXIMALS[_checks.one_of("proximal", proximal, PROXIMALS)]
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"proximal {proximal!r} cannot be imported ({error}): a function or class at the top of a module that "
            f"Python finds can be named so; any other must be passed itself."
        ) from error
    return found  # type: ignore[return-value]


def make_proximal(proximal: str | Callable[..., nn.Module], inputs: int, outputs: int = 1) -> nn.Module:
    """Make a new proximal operator.

    Args:
        proximal: as for :func:`find_proximal`.
        inputs: channels that it takes.
        outputs: channels that it returns.

    Returns:
        The module, with new weights.

    Raises:
        ValueError: for an unknown name, or for what raises or makes no module.
    """
    make = find_proximal(proximal)
    channels = (inputs,) if outputs == 1 else (inputs, outputs)
    try:
        made = make(*channels)
    except Exception as error:  # of the caller's own code
        raise ValueError(
            f"proximal must make a torch.nn.Module from its number of input channels; {full_name(proximal)}"
            f"({', '.join(map(str, channels))}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"proximal must make a torch.nn.Module; {full_name(proximal)} made {type(made).__name__}.")
    return made
