"""Training in several processes and in reduced precision, by ``lightning_fabric``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from rlnlib import _checks

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fast_precision(device: str = "auto") -> str:
    """The precision to train in: "bf16-mixed" where the device has matrix units for bfloat16, else "32-true".

    Without that hardware, or where the environment keeps torch from using it, bfloat16 convolutions on a CPU take a
    hundred times as long as with it.
    """
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    known = [getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    used = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return "bf16-mixed" if used and any(supported() for supported in known) else "32-true"


def start(device, precision: str) -> Fabric:
    """One process, or those that ``torchrun`` started, each with its own device."""
    from lightning_fabric import Fabric  # here, since it takes a second to import

    if str(device) != "auto":
        _checks.as_device(device)
    world, here = (_checks.from_environment(name, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    with warnings.catch_warnings():
        # Where there is SLURM, Lightning takes one process for a mistake.
        warnings.filterwarnings("ignore", "The `srun` command is available")
        fabric = Fabric(
            accelerator=str(device).split(":")[0],
            devices=here,
            num_nodes=world // here,
            strategy="ddp" if world > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
    fabric.launch()
    return fabric


def longest(fabric: Fabric, seconds: float) -> float:
    """The largest of the processes' times, so that all of them decide alike."""
    if fabric.world_size == 1:
        return seconds
    return float(torch.as_tensor(fabric.all_reduce(torch.tensor(seconds, device=fabric.device), reduce_op="max")))


def mean_over_processes(fabric: Fabric, value: torch.Tensor) -> torch.Tensor:
    """Average a value over the processes, with its gradient. Shape: (...) -> the same."""
    return torch.as_tensor(fabric.all_gather(value, sync_grads=True)).view(-1, *value.shape).mean(0)
