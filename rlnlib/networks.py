"""f(m, y) -> y': the convolutional proximal operators of sections 3.2 and 3.3, on periodic cells.

Each maps the phase-segmented strains (B, C, N1, N2, N3) to a perturbation field (B, 1, N1, N2, N3). A GPU runs the code
of this file. A CPU computes the same by the code of :mod:`rlnlib.fast.convolutions`, unless RLN_PLAIN=1 is set.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from rlnlib import fast


def pad_periodic(field: torch.Tensor, widths) -> torch.Tensor:
    """Continue a periodic field by so many voxels below and above, the last axis first.

    Shape: (B, C, N1, N2, N3) -> the same, larger by the widths of each axis.
    """
    return F.pad(field, tuple(widths), mode="circular")


class PeriodicConv3d(nn.Conv3d):
    """3 x 3 x 3 convolution of a periodic field; translates exactly with its input.

    Shape: (B, inputs, N1, N2, N3) -> (B, outputs, N1, N2, N3).
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, kernel_size=3)

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if fast.use(field.device):
            return fast.convolutions.convolve_periodic(self, field)
        return super().forward(pad_periodic(field, (1,) * 6))


class PReLU(nn.PReLU):
    """max(x, 0) + a min(x, 0) with one slope a for each channel."""

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if fast.use(field.device):
            return fast.convolutions.prelu(field, self.weight)
        return F.prelu(field, self.weight.to(field.dtype))


class VNet(nn.Module):
    """The V-Net of Fig. 3 with the released networks' layers: 132,801 parameters.

    Two convolutions at full resolution, ``blocks`` at half resolution, two at full resolution on what came up and
    what was skipped, and a 1 x 1 x 1 reduction. ``blocks=3`` gives 160,513 parameters, the paper's "about 160,000".
    PReLU has one slope a channel; the last 3 x 3 x 3 convolution has none.

    Symmetries: for even sizes, exactly periodic: the network commutes with shifts by an even number of voxels (the half
    resolution has a parity). An odd axis is first padded circularly by 2 voxels below and 3 above, as the released
    networks do with 31 -> 36, and then the network commutes with no shift. Odd shifts, mirrors and the exchange of the
    transverse axes are only learned. Cells of a batch never mix.

    Args:
        inputs: channels of the input; 6 are two phases times the newest and two earlier iterates.
        outputs: channels of the output.
        width: channels at full resolution.
        low_width: channels at half resolution.
        blocks: convolutions at half resolution.

    Shape: (B, inputs, N1, N2, N3) -> (B, outputs, N1, N2, N3).
    """

    def __init__(self, inputs: int = 6, outputs: int = 1, *, width: int = 16, low_width: int = 32, blocks: int = 2):
        super().__init__()
        self.blocks = blocks
        self.begin = nn.Sequential(
            PeriodicConv3d(inputs, width), PReLU(width), PeriodicConv3d(width, width), PReLU(width)
        )
        self.down = nn.Sequential(nn.Conv3d(width, low_width, 2, stride=2), PReLU(low_width))
        self.low = nn.Sequential()
        for _ in range(blocks):
            self.low.extend([PeriodicConv3d(low_width, low_width), PReLU(low_width)])
        self.up = nn.Sequential(nn.ConvTranspose3d(low_width, low_width, 2, stride=2), PReLU(low_width))
        self.end = nn.Sequential(
            PeriodicConv3d(width + low_width, low_width),
            PReLU(low_width),
            PeriodicConv3d(low_width, width),
            nn.Conv3d(width, outputs, 1),
        )

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if self.infers_fast(field):
            return fast.convolutions.vnet(self, field)
        # Channels innermost: convolutions of a CPU and of a GPU then need not rearrange their inputs.
        field = field.contiguous(memory_format=torch.channels_last_3d)
        field, inner = around_odd_axes(field, 2)  # (B, 6, 36, 36, 36) for 31 voxels
        skipped = self.begin(field)  # (B, 16, 36, 36, 36)
        low = self.low(self.down(skipped))  # (B, 32, 18, 18, 18)
        joined = torch.cat([self.up(low), skipped], dim=1)  # (B, 48, 36, 36, 36)
        return self.end(joined)[inner]  # (B, 1, 31, 31, 31)

    def infers_fast(self, field: torch.Tensor) -> bool:
        """Say whether this is a forward pass on a CPU without gradients, of which the fast twin leaves a part out."""
        return fast.use(field.device) and not (self.training or torch.is_grad_enabled())


class PeriodicVNet(VNet):
    """The same V-Net with the same weights, periodic for odd sizes too: without the seam that padding leaves.

    A 3 x 3 x 3 convolution at full resolution is periodic on any size. Only the half resolution needs an even one. So
    only what enters the half resolution is continued around an odd axis, by as far as a convolution there sees
    (31 -> 40 for two blocks), and what leaves it is cropped. On 31^3 cells that takes about the time of padding
    everything to 36.

    Symmetries: those of :class:`VNet` for even sizes. On an odd axis voxels are paired from index 0, so a shift changes
    the pairs of some voxels and is as inexact as a shift by one voxel on an even axis, not more.

    Shape: (B, inputs, N1, N2, N3) -> (B, outputs, N1, N2, N3), odd axes at least 2 blocks + 1 long.
    """

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if not any(n % 2 for n in field.shape[2:]):
            return super().forward(field)
        field = field.contiguous(memory_format=torch.channels_last_3d)
        skipped = self.begin(field)  # (B, 16, 31, 31, 31)
        continued, inner = around_odd_axes(skipped, 2 * self.blocks)  # (B, 16, 40, 40, 40)
        low = self.low(self.down(continued))  # (B, 32, 20, 20, 20)
        halved = (..., *(slice(axis.start // 2, (axis.stop + 1) // 2) for axis in inner[1:]))
        own = (..., *(slice(n) for n in field.shape[2:]))
        low = self.up(low[halved])[own]  # (B, 32, 31, 31, 31), without what surrounds the cell
        joined = torch.cat([low, skipped], dim=1)  # (B, 48, 31, 31, 31)
        return fast.convolutions.end(self, joined) if self.infers_fast(field) else self.end(joined)


def around_odd_axes(field: torch.Tensor, below: int) -> tuple[torch.Tensor, tuple]:
    """Continue a periodic field along its odd axes, which makes them even; even axes stay as they are.

    Args:
        field: (B, C, N1, N2, N3).
        below: voxels added before the first one of an odd axis; one more comes after the last one.

    Returns:
        The larger field, and the index that takes the cell out of it again.

    Raises ValueError for an odd axis that is shorter than what comes after it.
    """
    shape = field.shape[2:]
    odd = [n % 2 for n in shape]
    if any(n % 2 and n <= below for n in shape):
        raise ValueError(
            f"An odd axis must have at least {below + 1} voxels; a cell has {tuple(shape)}: repeat it along the axis."
        )
    widths = [width * o for o in reversed(odd) for width in (below, below + 1)]  # F.pad begins with the last axis
    inner = tuple(slice(below * o, below * o + n) for o, n in zip(odd, shape, strict=True))
    return pad_periodic(field, widths) if any(odd) else field, (..., *inner)


class ThreeLayerNet(nn.Module):
    """Three periodic convolutions, the plain sequence of section 3.3.

    Symmetries: commutes with every shift, of odd and even sizes alike. Mirrors and the exchange of the transverse axes
    are only learned. Cells of a batch never mix.

    Shape: (B, inputs, N1, N2, N3) -> (B, outputs, N1, N2, N3).
    """

    def __init__(self, inputs: int = 6, outputs: int = 1, *, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            PeriodicConv3d(inputs, width),
            PReLU(width),
            PeriodicConv3d(width, width),
            PReLU(width),
            PeriodicConv3d(width, outputs),
        )

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return self.layers(field)


#: By name: the released V-Net; a V-Net of the paper's stated size; one without a seam on odd sizes; three plain layers.
PROXIMALS: dict[str, Callable[..., nn.Module]] = {
    "vnet": VNet,
    "vnet-160k": partial(VNet, blocks=3),
    "vnet-periodic": PeriodicVNet,
    "three-layer": ThreeLayerNet,
}
