"""Trajectories that ``scorda simulate --series`` has stored, as data of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.core.shapes import Tensor
    from scorda.systems.base import System

__all__ = ["stored_trajectories"]


def stored_trajectories(
    path: str, given: str | None, options: dict[str, str]
) -> tuple[System, Tensor]:
    """The system of stored trajectories and their states, on the grid that options ask for."""
    import torch

    from scorda.cli.common import make_system, system_of
    from scorda.priors.from_system import resampled
    from scorda.store.series import read_series

    states, _, record = read_series(path)
    named = system_of(path, record["configuration"], given)
    if other := sorted(set(options) - {"size", "resolution"}):
        raise UserError(
            f"Got --system.{other[0]}, but {path} says what system it is of: only the size and "
            "the resolution of a flow may change."
        )
    system = make_system(named.pop("name"), named | options)
    states = states.to(torch.get_default_dtype())
    space = system.space
    fields = space.has_channels and len(space.period) == len(space.grid) == 2
    if fields and space.shape != tuple(states.shape[2:]):
        blocks = [resampled(block, (space.grid[0], space.grid[1])) for block in states.split(16)]
        states = torch.cat(blocks)
    return system, states
