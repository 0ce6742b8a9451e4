"""f(m, y) -> y': the convolutional proximal operators of sections 3.2 and 3.3, on periodic cells.

Each maps the phase-segmented strains (B, C, N1, N2, N3) to a perturbation field (B, 1, N1, N2, N3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rlnlib import _checks


class _PeriodicPad(torch.autograd.Function):
    """One voxel of the neighbouring periods around a field, in one allocation.

    ``F.pad(field, (1,) * 6, mode="circular")`` copies more, and its gradient most of all: with it and the activation
    below, a training step of the V-Net takes 1.6 times as long (16^3 cells, bfloat16, one CPU thread).
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


class PeriodicConv3d(nn.Conv3d):
    """3 x 3 x 3 convolution of a periodic field; translates exactly with its input."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, kernel_size=3)

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        padded = _PeriodicPad.apply(field)
        if len(padded) == 1 and not (self.training or torch.is_grad_enabled()) and _one_alone(padded):
            return torch.mkldnn_convolution(padded, self.weight, self.bias, [0] * 3, [1] * 3, [1] * 3, 1)
        return super().forward(padded)


def _one_alone(field: torch.Tensor) -> bool:
    """Whether torch would take a convolution of its own for this batch of one, with several times oneDNN's time."""
    if field.device.type != "cpu" or field.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    try:
        return not torch.is_autocast_enabled("cpu")
    except TypeError:  # torch before 2.4
        return not torch.is_autocast_cpu_enabled()


class _LeakyByChannel(torch.autograd.Function):
    """PReLU with a gradient from whole-array operations: a third of its own kernel's time on a CPU in bfloat16."""

    @staticmethod
    def forward(context, field, slope):
        context.save_for_backward(field, slope)
        rows, slopes = _as_rows(field, slope.to(field.dtype))
        return _like(F.prelu(rows, slopes), field)

    @staticmethod
    def backward(context, gradient):
        field, slope = context.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradient, field, 0)
        negative = gradient - positive
        of_slope = (negative * field).sum((0, 2, 3, 4), dtype=slope.dtype)
        return negative * slope.to(field.dtype).view(-1, 1, 1, 1) + positive, of_slope


def _as_rows(field: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory of a field with its channels innermost as rows of up to 8 voxels, and the slopes along a row.

    A CPU's vector holds 32 numbers of bfloat16. With rows of 16 channels its kernel goes number by number: PReLU of
    two cells of 36^3 then takes 9.6 ms, and 0.4 ms with rows of 64 or more.
    """
    if not field.is_contiguous(memory_format=torch.channels_last_3d):
        return field, slope
    voxels = math.gcd(field.numel() // field.shape[1], 8)
    return field.movedim(1, -1).reshape(-1, voxels * field.shape[1]), slope.repeat(voxels)


def _like(rows: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    return rows if rows.shape == field.shape else rows.view(field.movedim(1, -1).shape).movedim(-1, 1)


class PReLU(nn.PReLU):
    """max(x, 0) + a min(x, 0) with one slope a for each channel."""

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return _LeakyByChannel.apply(field, self.weight)


class VNet(nn.Module):
    """The V-Net of Fig. 3 with the released networks' layers: 132,801 parameters.

    Two convolutions at full resolution, ``blocks`` at half resolution, two at full resolution on what came up and
    what was skipped, and a 1 x 1 x 1 reduction. ``blocks=3`` gives 160,513 parameters, the paper's "about 160,000".
    PReLU has one slope a channel; the last 3 x 3 x 3 convolution has none.

    Symmetries: for even sizes, exactly periodic: it commutes with shifts by an even number of voxels (the half
    resolution has a parity). An odd axis is first padded circularly by 2 voxels below and 3 above, as the released
    networks do with 31 -> 36, and then commutes with no shift. Odd shifts, mirrors and the exchange of the transverse
    axes are only learned. Cells of a batch never mix.

    In evaluation mode without gradients, the same function is computed with fewer operations (:meth:`_inference`).

    Shape: (B, inputs, N1, N2, N3) -> (B, 1, N1, N2, N3).
    """

    def __init__(self, inputs: int = 6, width: int = 16, low_width: int = 32, blocks: int = 2):
        super().__init__()
        self.blocks = blocks
        self.begin = nn.Sequential(
            PeriodicConv3d(inputs, width), PReLU(width), PeriodicConv3d(width, width), PReLU(width)
        )
        self.down = nn.Sequential(nn.Conv3d(width, low_width, 2, stride=2), PReLU(low_width))
        self.low = nn.Sequential()
        for _ in range(blocks):
            self.low.append(PeriodicConv3d(low_width, low_width))
            self.low.append(PReLU(low_width))
        self.up = nn.Sequential(nn.ConvTranspose3d(low_width, low_width, 2, stride=2), PReLU(low_width))
        self.end = nn.Sequential(
            PeriodicConv3d(width + low_width, low_width),
            PReLU(low_width),
            PeriodicConv3d(low_width, width),
            nn.Conv3d(width, 1, 1),
        )

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if not (self.training or torch.is_grad_enabled()):
            return self._inference(field)
        shape = field.shape[2:]
        odd = [n % 2 for n in shape]
        if any(odd):
            field = F.pad(field, [width for o in reversed(odd) for width in (2 * o, 3 * o)], mode="circular")
        # Channels innermost: the CPU's and the GPU's convolutions then need no rearrangement of their own.
        skipped = self.begin(field.contiguous(memory_format=torch.channels_last_3d))
        field = self.end(torch.cat([self.up(self.low(self.down(skipped))), skipped], dim=1))
        if any(odd):
            x, y, z = (slice(2 * o, 2 * o + n) for o, n in zip(odd, shape, strict=True))
            field = field[:, :, x, y, z]
        return field

    def _inference(self, field: torch.Tensor) -> torch.Tensor:
        """:meth:`forward` with fewer operations, 0.55 of them at 31 voxels in float32: what the crop takes off is not
        computed, the widest convolution is Winograd's, and the last two, between which nothing happens, are one to a
        single channel.

        Under autocast the first and the last convolution stay in float32: bfloat16 has 8 bits, too few for a strain;
        and too few for Winograd's differences, which would make the error of the widest convolution 2.6 times as large.
        """
        shape = field.shape[2:]
        odd = [n % 2 for n in shape]
        if any(odd):
            field = F.pad(field, [width for o in reversed(odd) for width in (2 * o, 3 * o)], mode="circular")
        with torch.autocast(field.device.type, enabled=False):
            skipped = self.begin[0](field.contiguous(memory_format=torch.channels_last_3d))
        skipped = self.begin[1:](skipped)
        field = self.up(self.low(self.down(skipped)))
        # What is left after the crop of an odd axis depends on all but the last voxel, and on none across the border.
        # The first axis keeps that voxel, since Winograd's convolution goes two by two.
        y, z = (slice(n - o) for o, n in zip(odd[1:], skipped.shape[3:], strict=True))
        field = torch.cat([part[:, :, :, y, z] for part in (field, skipped)], dim=1)
        layers: Any = self.end
        convolution, activation, last, reduction = layers
        convolve = _winograd if field.device.type == "cpu" and field.dtype is not torch.bfloat16 else F.conv3d
        field = activation(convolve(_pad_even_axes(field, odd), convolution.weight, convolution.bias))
        with torch.autocast(field.device.type, enabled=False):
            field = _pad_even_axes(field.float(), odd)
            weights = reduction.weight[0, :, 0, 0, 0]
            kernel = torch.einsum("o,oixyz->xyzi", weights, last.weight).flatten(0, 2)
            bias = weights @ last.bias + reduction.bias
            terms = (kernel @ field.flatten(2)).view(len(field), 3, 3, 3, *field.shape[2:])
            n1, n2, n3 = shape
            out = bias.view(1, 1, 1, 1).expand(len(field), n1, n2, n3).clone()
            for i, j, k in itertools.product(range(3), repeat=3):  # of one output channel, faster than a convolution
                out += terms[:, i, j, k, i : i + n1, j : j + n2, k : k + n3]
        return out[:, None]


def _winograd(field: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A 3 x 3 x 3 convolution with two thirds of its products: F(2, 3) along the first axis (Winograd 1980).

    Two neighbouring planes of the result come from four convolutions of planes instead of six. In float32 it is as
    exact as the plain sum, and takes 0.8 of its time (48 to 32 channels, 35^3, one core).

    Shape: (B, C, N1 + 2, N2 + 2, N3 + 2), N1 even -> (B, C', N1, N2, N3), channels innermost.
    """
    batch, pairs = len(field), field.shape[2] // 2 - 1
    n2, n3 = (n - 2 for n in field.shape[3:])
    first, middle, last = weight.unbind(2)
    mean = (first + last) / 2
    out = field.new_empty(batch, pairs, 2, n2, n3, len(weight))
    for cell, planes in zip(out, field.movedim(1, -1), strict=True):  # one by one: their planes stay in the caches
        even, odd = cell.unbind(1)
        a, b, c, d = (planes[i : i + 2 * pairs : 2] for i in range(4))

        def convolved(part, kernel, offset=None):
            return F.conv2d(part.movedim(-1, 1), kernel, offset).movedim(1, -1)

        q, r = convolved(b + c, mean + middle / 2, bias), convolved(c - b, mean - middle / 2)
        torch.add(q, r, out=even).add_(convolved(a - c, first))
        torch.sub(q, r, out=odd).sub_(convolved(b - d, last))
    return out.flatten(1, 2).movedim(-1, 1)


def _pad_even_axes(field: torch.Tensor, odd: list[int]) -> torch.Tensor:
    """One voxel of the neighbouring periods on both sides of each axis that is not marked as odd."""
    if not any(odd):
        return _PeriodicPad.apply(field)
    if all(odd):
        return field
    return F.pad(field, [1 - o for o in reversed(odd) for _ in range(2)], mode="circular")


class PeriodicVNet(VNet):
    """The same V-Net with the same weights, periodic for odd sizes too: without the seam that padding leaves.

    A 3 x 3 x 3 convolution at full resolution is periodic on any size. Only the half resolution needs an even one, so
    only what enters it is continued around an odd axis, by as far as it sees (31 -> 40 for two blocks), and what leaves
    it is cropped. On 31^3 cells that takes about the time of padding everything to 36.

    Symmetries: those of :class:`VNet` for even sizes. On an odd axis voxels are paired from index 0, so a shift changes
    the pairs of some voxels and is as inexact as a shift by one voxel on an even axis, not more.

    Shape: (B, inputs, N1, N2, N3) -> (B, 1, N1, N2, N3), odd axes at least 2 blocks + 1 long.
    """

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        odd = [n % 2 for n in field.shape[2:]]
        if not any(odd):
            return super().forward(field)
        skipped = self.begin(field.contiguous(memory_format=torch.channels_last_3d))
        reach = 2 * self.blocks
        around = [width for o in reversed(odd) for width in (reach * o, (reach + 1) * o)]
        low = self.up(self.low(self.down(F.pad(skipped, around, mode="circular"))))
        x, y, z = (slice(reach * o, reach * o + n) for o, n in zip(odd, field.shape[2:], strict=True))
        return self.end(torch.cat([low[:, :, x, y, z], skipped], dim=1))


class ThreeLayerNet(nn.Module):
    """Three periodic convolutions, the plain sequence of section 3.3.

    Symmetries: commutes with every shift, of odd and even sizes alike. Mirrors and the exchange of the transverse axes
    are only learned. Cells of a batch never mix.

    Shape: (B, inputs, N1, N2, N3) -> (B, 1, N1, N2, N3).
    """

    def __init__(self, inputs: int = 6, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            PeriodicConv3d(inputs, width),
            PReLU(width),
            PeriodicConv3d(width, width),
            PReLU(width),
            PeriodicConv3d(width, 1),
        )

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return self.layers(field)


#: The released V-Net, that of the paper's stated size, the one without a seam on odd sizes, and the plain sequence.
PROXIMALS: dict[str, Callable[[int], nn.Module]] = {
    "vnet": VNet,
    "vnet-160k": partial(VNet, blocks=3),
    "vnet-periodic": PeriodicVNet,
    "three-layer": ThreeLayerNet,
}


def make_proximal(name: str, inputs: int) -> nn.Module:
    """A new proximal operator by name. Raises ValueError for an unknown one."""
    return PROXIMALS[_checks.one_of("proximal", name, PROXIMALS)](inputs)
