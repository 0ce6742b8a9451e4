"""The layers and the forward pass of :mod:`rlnlib.networks`, computed faster on a CPU.

Each function computes what its plain twin there does, to rounding; ``tests/fast/test_convolutions.py`` compares them,
values and gradients.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def convolve_periodic(layer: nn.Conv3d, field: torch.Tensor) -> torch.Tensor:
    """Convolve a periodic field with a 3 x 3 x 3 kernel: :class:`rlnlib.networks.PeriodicConv3d`.

    Shape: (B, inputs, N1, N2, N3) -> (B, outputs, N1, N2, N3).
    """
    return _convolve(layer, _Pad.apply(field))


def _convolve(layer: nn.Conv3d, padded: torch.Tensor) -> torch.Tensor:
    """Convolve without padding. Shape: (B, inputs, N1 + 2, N2 + 2, N3 + 2) -> (B, outputs, N1, N2, N3)."""
    if len(padded) == 1 and not (layer.training or torch.is_grad_enabled()) and _needs_onednn(padded):
        return torch.mkldnn_convolution(padded, layer.weight, layer.bias, [0] * 3, [1] * 3, [1] * 3, 1)
    return F.conv3d(padded, layer.weight, layer.bias)


def _needs_onednn(field: torch.Tensor) -> bool:
    """Say whether torch would take its own convolution for this batch of one, which takes several times oneDNN's."""
    if field.device.type != "cpu" or field.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    try:
        return not torch.is_autocast_enabled("cpu")
    except TypeError:  # torch before 2.4
        return not torch.is_autocast_cpu_enabled()


class _Pad(torch.autograd.Function):
    """Put one voxel of the neighbouring periods around a field, in one allocation.

    ``F.pad(field, (1,) * 6, mode="circular")`` copies more, and its gradient most of all: with it and torch's PReLU, a
    training step of the V-Net takes 1.6 times as long (16^3 cells, bfloat16, one CPU thread).
    """

    @staticmethod
    def forward(context, field):
        batch, channels, *shape = field.shape
        last = field.is_contiguous(memory_format=torch.channels_last_3d)
        layout = torch.channels_last_3d if last else torch.contiguous_format
        larger = (batch, channels, *(n + 2 for n in shape))
        padded = torch.empty(larger, dtype=field.dtype, device=field.device, memory_format=layout)
        padded[:, :, 1:-1, 1:-1, 1:-1] = field
        for part in (padded[:, :, 1:-1, 1:-1].movedim(4, 0), padded[:, :, 1:-1].movedim(3, 0), padded.movedim(2, 0)):
            part[0], part[-1] = part[-2], part[1]
        return padded

    @staticmethod
    def backward(context, gradient):
        folded = gradient.clone()
        for part in (folded.movedim(2, 0), folded[:, :, 1:-1].movedim(3, 0), folded[:, :, 1:-1, 1:-1].movedim(4, 0)):
            part[1] += part[-1]
            part[-2] += part[0]
        return folded[:, :, 1:-1, 1:-1, 1:-1]


def prelu(field: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Compute max(x, 0) + a min(x, 0): :class:`rlnlib.networks.PReLU`.

    Shape: field (B, C, N1, N2, N3), slope (C,) -> (B, C, N1, N2, N3).
    """
    return _PReLU.apply(field, slope)


class _PReLU(torch.autograd.Function):
    """PReLU with a gradient from whole-array operations: a third of the time of torch's on a CPU in bfloat16."""

    @staticmethod
    def forward(context, field, slope):
        context.save_for_backward(field, slope)
        rows, slopes = _as_rows(field, slope.to(field.dtype))
        out = F.prelu(rows, slopes)
        return out if out.shape == field.shape else out.view(field.movedim(1, -1).shape).movedim(-1, 1)

    @staticmethod
    def backward(context, gradient):
        field, slope = context.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradient, field, 0)
        negative = gradient - positive
        of_slope = (negative * field).sum((0, 2, 3, 4), dtype=slope.dtype)
        return negative * slope.to(field.dtype).view(-1, 1, 1, 1) + positive, of_slope


def _as_rows(field: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """View a field with its channels innermost as rows of up to 8 voxels, and repeat the slopes along a row.

    A CPU's vector holds 32 numbers of bfloat16. With rows of 16 channels torch's kernel goes number by number: PReLU of
    two cells of 36^3 then takes 9.6 ms, and 0.4 ms with rows of 64 or more.
    """
    if not field.is_contiguous(memory_format=torch.channels_last_3d):
        return field, slope
    voxels = math.gcd(field.numel() // field.shape[1], 8)
    return field.movedim(1, -1).reshape(-1, voxels * field.shape[1]), slope.repeat(voxels)


def vnet(network: Any, field: torch.Tensor) -> torch.Tensor:
    """Compute the forward pass of :class:`rlnlib.networks.VNet`, without what the crop of an odd axis takes off.

    Under autocast the first and the last convolution stay in float32: bfloat16 has 8 bits, too few for a strain.
    """
    odd = [n % 2 for n in field.shape[2:]]
    if any(odd):
        field = F.pad(field, [width for o in reversed(odd) for width in (2 * o, 3 * o)], mode="circular")
    with torch.autocast(field.device.type, enabled=False):
        skipped = network.begin[0](field.contiguous(memory_format=torch.channels_last_3d))
    skipped = network.begin[1:](skipped)
    low = network.up(network.low(network.down(skipped)))
    # What is left after the crop of an odd axis depends on all but the last voxel, and on none across the border.
    inner = (..., *(slice(n - o) for o, n in zip(odd, skipped.shape[2:], strict=True)))
    return end(network, torch.cat([low[inner], skipped[inner]], dim=1), odd)


def end(network: Any, joined: torch.Tensor, continued=(0, 0, 0)) -> torch.Tensor:
    """Compute the last three convolutions of a V-Net; the last two, between which nothing happens, as one.

    An axis marked in ``continued`` has two voxels of the neighbouring periods on both sides, which the convolutions use
    up; the others are periodic.

    Shape: (B, C, N1, N2, N3) -> (B, outputs, N1, N2, N3), with N - 4 for N along an axis that is continued.
    """
    first, activation, last, reduction = network.end
    field = activation(_convolve(first, _pad(joined, continued)))
    with torch.autocast(field.device.type, enabled=False):
        field = _pad(field.to(last.weight.dtype), continued)
        outputs, (n1, n2, n3) = reduction.out_channels, (n - 2 for n in field.shape[2:])
        weights = reduction.weight.view(outputs, -1)
        kernel = torch.einsum("po,oixyz->pxyzi", weights, last.weight).flatten(0, 3)  # (outputs * 27, C)
        bias = weights @ last.bias + reduction.bias
        terms = (kernel @ field.flatten(2)).view(len(field), outputs, 3, 3, 3, *field.shape[2:])
        out = bias.view(-1, 1, 1, 1).expand(len(field), outputs, n1, n2, n3).clone()
        for i, j, k in itertools.product(range(3), repeat=3):  # of few output channels, faster than a convolution
            out += terms[:, :, i, j, k, i : i + n1, j : j + n2, k : k + n3]
    return out


def _pad(field: torch.Tensor, continued) -> torch.Tensor:
    """Put one voxel of the neighbouring periods on both sides of each axis that is not continued already."""
    if not any(continued):
        return _Pad.apply(field)
    if all(continued):
        return field
    return F.pad(field, [1 - c for c in reversed(continued) for _ in range(2)], mode="circular")
