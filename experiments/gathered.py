"""Periodic padding by one gather, with channels innermost: what a GPU trains faster with.

torch's circular padding copies the field and its faces one by one, into a tensor whose channels are outermost, and its
gradient does so again: fifty kernels, after which each convolution rearranges its input.
"""

from __future__ import annotations

import functools

import torch

from rlnlib import networks


class _Gathered(torch.autograd.Function):
    """Shape: (B, C, N1, N2, N3) -> the same, larger by the widths of each axis."""

    @staticmethod
    def forward(context, field, widths):
        context.shape, context.widths = field.shape, widths
        batch, channels, *shape = field.shape
        innermost = field.permute(0, 2, 3, 4, 1).reshape(batch, -1, channels)
        larger = [n + below + above for n, (below, above) in zip(shape, widths, strict=True)]
        index = _index(tuple(shape), widths, field.device)
        return innermost.index_select(1, index).view(batch, *larger, channels).permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.permute(0, 2, 3, 4, 1).clone(memory_format=torch.contiguous_format)
        for axis, (n, (below, above)) in enumerate(zip(context.shape[2:], context.widths, strict=True), 1):
            inner = gradient.narrow(axis, below, n)
            if below:
                inner.narrow(axis, n - below, below).add_(gradient.narrow(axis, 0, below))
            if above:
                inner.narrow(axis, 0, above).add_(gradient.narrow(axis, below + n, above))
            gradient = inner
        return gradient.contiguous().permute(0, 4, 1, 2, 3), None


@functools.cache
def _index(shape: tuple[int, ...], widths: tuple[tuple[int, int], ...], device) -> torch.Tensor:
    """The voxel that each voxel of the larger field repeats, by its number."""
    axes = [torch.arange(-below, n + above) % n for n, (below, above) in zip(shape, widths, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return ((x * shape[1] + y) * shape[2] + z).flatten().to(device)


def pad_periodic(field: torch.Tensor, widths) -> torch.Tensor:
    """What takes the place of :func:`rlnlib.networks.pad_periodic`: the same by one gather."""
    pairs = tuple(zip(widths[::2], widths[1::2], strict=True))[::-1]  # F.pad begins with the last axis
    return _Gathered.apply(field, pairs)


def use() -> None:
    """Let the networks of this process pad by it."""
    networks.pad_periodic = pad_periodic
