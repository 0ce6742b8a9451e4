"""Loads of which some components are prescribed as a strain and the others as a stress."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from rlnlib import _checks, _given


def split_load(macroscopic_strain, macroscopic_stress, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tell prescribed strains from prescribed stresses in a mixed load.

    Args:
        macroscopic_strain: (6,) or (B, 6), Mandel; NaN where the stress is prescribed. None: NaN everywhere.
        macroscopic_stress: The same with strain and stress exchanged.
        batch: B.

    Returns:
        Strain and stress, (B, 6) each, with 0 in place of NaN, and (6,) bool, True where the stress is prescribed.

    Raises:
        ValueError: Where a component has both, or neither, or where the cells differ in which components have what.
    """
    given = {"macroscopic_strain": macroscopic_strain, "macroscopic_stress": macroscopic_stress}
    free, values = {}, {}
    for name, value in given.items():
        raw = _checks.as_tensor([math.nan] * 6 if value is None else value, name).to(torch.float64).cpu()
        values[name] = _given.mandel_vector(name, torch.nan_to_num(raw, nan=0.0, posinf=math.inf), batch)
        free[name] = raw.isnan().reshape(-1, 6)
        if not bool((free[name] == free[name][0]).all()):
            raise ValueError(f"{name} must prescribe the same components in all cells; it has NaN in different ones.")
    of_stress = ~free["macroscopic_stress"][0]
    wrong = torch.nonzero(of_stress != free["macroscopic_strain"][0]).flatten().tolist()
    if wrong:
        names = [("11", "22", "33", "23", "13", "12")[n] for n in wrong]
        raise ValueError(
            f"Each component must have either a macroscopic_strain or a macroscopic_stress, and NaN for the other; the "
            f"components {', '.join(names)} have both or neither."
        )
    return values["macroscopic_strain"], values["macroscopic_stress"], of_stress


def strain_of_mixed_load(
    strain: torch.Tensor,
    stress: torch.Tensor,
    of_stress: torch.Tensor,
    columns: Callable[[torch.Tensor], torch.Tensor],
    mean_stress: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The mean strain of a mixed load, by superposition: C_ss e_s = sigma_s - C_sf e_f.

    Args:
        strain, stress, of_stress: What :func:`split_load` returns.
        columns: Takes the numbers of some components, (S,) int64, to the mean stresses under unit strains of these,
            (B, 6, S).
        mean_stress: Takes a mean strain, (B, 6), to the mean stress, (B, 6).

    Returns:
        (B, 6).
    """
    found, unknown = strain.clone(), torch.nonzero(of_stress).flatten()
    if len(unknown):
        matrix = columns(unknown).double().cpu()[:, unknown]  # (B, S, S)
        if bool((strain != 0).any()):
            stress = stress - mean_stress(strain).double().cpu()
        found[:, unknown] = torch.linalg.solve(matrix, stress[:, unknown])
    return found
