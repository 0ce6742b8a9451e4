"""The symmetries of the axial strain under a load along axis 0: shifts, mirrors, exchange of the transverse axes."""

from __future__ import annotations

import torch


def draw_moves(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw shifts along three axes, mirrors of three axes, and exchange. Shape: -> (count, 7) int64."""
    return torch.randint(0, 2**31 - 1, (count, 7), generator=generator)


def moved_by(field: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Shift, mirror and turn each field as its row of ``moves`` says. Shape: (B, N1, N2, N3), (B, 7) -> the same."""
    odd = moves[:, 3:] % 2 == 1  # (B, 4): mirror axis 0, 1, 2; exchange
    index = []
    for axis, n in enumerate(field.shape[1:]):
        at = (torch.arange(n, device=field.device) - moves[:, axis : axis + 1]) % n  # (B, n)
        at = torch.where(odd[:, axis : axis + 1], at.flip(1), at)
        index.append(at.view([len(field), *(n if a == axis else 1 for a in range(3))]))
    batch = torch.arange(len(field), device=field.device).view(-1, 1, 1, 1)
    moved = field[tuple([batch, *index])]  # (B, N1, N2, N3)
    if field.shape[2] == field.shape[3]:
        moved = torch.where(odd[:, 3].view(-1, 1, 1, 1), moved.transpose(2, 3), moved)
    return moved
