"""A prior is learned from one record by a network of its grid: a ring, or two periodic axes.

The anomalies of the record are those of `from_fields`: from the mean of each point, with its daily
and yearly cycle, in units of the spread of each variable and level. But the law is not estimated
mode by mode. A network that is the same at every place (`nn.ring_temporal`, `nn.unet`) learns it,
as that of the trajectories of a system. What differs between places beyond mean and spread it can
know from static fields alone, which it gets beside the states (`Fields.static`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.training import Training
from scorda.priors.anomalies import mean_of, spread_of, standardised
from scorda.priors.from_fields import unbounded
from scorda.priors.from_system import train_on_z
from scorda.priors.recipe import Recipe, check_grid, check_transition, training_for
from scorda.priors.step_of_fields import starts_of
from scorda.priors.trajectory import Standardisation, TrainedTrajectory
from scorda.reading.records import Fields

__all__ = ["NETWORKS", "train_grid_on_fields"]

# Networks of a grid.
NETWORKS = ("ring-conv", "unet")
INSTEAD = "name axes that close (periodic), or leave the architecture out, for patterns"


def train_grid_on_fields(
    fields: Fields,
    recipe: Recipe,
    settings: Training | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    device: torch.device | str = "cpu",
    slice_seconds: float = math.inf,
    initial: TrainedTrajectory | None = None,
    transition: bool = False,
) -> TrainedTrajectory:
    """Learn a prior of trajectories from a record of fields, by a network of its grid.

    Approximate: as good as its training, stationary but for the cycles of its mean, and alike at
    all places but for mean, spread and what the static fields of the record tell.

    Arguments:
        fields: The record, without gaps. Of its static fields the network gets deviations from
            the mean over the points in units of their standard deviation, and 0 where one has no
            value outside of the mask.
        recipe: "ring-conv" or "unet", and its sizes.
        settings: Settings of the training (default: those of the architecture).
        checkpoint: As in `training.fit`, like `report`.
        device: As in `train_on_states`, like all that follow.
        slice_seconds: Stop at the first validation after so long.
        initial: Prior of the same network, whose weights are the first.
        transition: Learn the law of a field given the one before, for `Emulator`, from segments
            of 2. It has the daily cycle of the mean and no yearly one.

    Raises:
        ValueError: If the record has gaps, is too short or beyond its bounds, or does not vary;
            its grid or a static field does not fit the network; or `initial` has another network.
    """
    if recipe.architecture not in NETWORKS:
        raise ValueError(
            f"Got the architecture {recipe.architecture} for a record: it is one of "
            f"{', '.join(NETWORKS)}, or left out, for patterns."
        )
    check_grid(recipe, fields.space, INSTEAD)
    if fields.missing:
        raise ValueError(
            f"Got a record of which {fields.missing} values are missing, which "
            f"{recipe.architecture} does not fill: leave these fields or points out, or leave the "
            "architecture out, for patterns, which do."
        )
    recipe = replace(recipe, series=len(fields.states), length=len(fields))
    settings = settings or Training(**training_for(recipe, transition))
    if transition:
        check_transition(recipe, settings)
    fields, space = unbounded(fields, settings.segment), fields.space
    mean = mean_of(fields, seasons=not transition)
    std = spread_of(fields, mean)
    cycle, annual = space.filled(mean.cycle), mean.annual
    cyclic = len(cycle) > 1 or annual is not None
    center = torch.zeros_like(cycle[0]) if cyclic else cycle[0]
    context, static = _context(fields)
    told = {
        "fields": len(fields), "start": fields.start, "harmonics": mean.harmonics(space),
        "static": static,
    }  # fmt: skip
    prior = train_on_z(
        _on_grid(fields, standardised(fields, mean, std)),
        space,
        Standardisation(center, std),
        recipe,
        settings,
        told,
        checkpoint,
        report,
        context,
        device,
        slice_seconds,
        transition,
        initial,
    )
    return replace(
        prior,
        start=starts_of(fields, mean.cycle, mean.phase) if transition else None,
        diurnal_mean=cycle if cyclic else None,
        annual=None if annual is None else space.filled(annual),
    )


def _on_grid(
    fields: Fields, z: Float[Tensor, "fields points"]
) -> Float[Tensor, "series time ..."]:
    """Return anomalies of the points inside of the mask as states, 0 outside."""
    space = fields.space
    if space.has_land:
        inner, z = z, z.new_zeros(len(z), space.size)
        z[:, space.inside] = inner
    return z.view(fields.states.shape).to(torch.get_default_dtype())


def _context(fields: Fields) -> tuple[Tensor | None, list[dict[str, Any]]]:
    """Return the static fields as the network gets them; their names, means and deviations."""
    # A list: the header of a file sorts the names of a mapping, and the fields have an order.
    rows, told = [], []
    space = fields.space
    inside = torch.ones(space.grid, dtype=torch.bool)
    if space.mask is not None:
        inside = torch.from_numpy(space.mask)
    for name, values in fields.static.items():
        known = values.isfinite()
        if lacking := int((inside & ~known).sum()):
            raise ValueError(
                f"The static field {name} has no value at {lacking} points of the record: give "
                "one that has."
            )
        # Equal numbers may differ from their mean by a rounding error.
        if values[known].min() == values[known].max():
            raise ValueError(
                f"The static field {name} is the same at all points, which tells a network "
                "nothing: leave it out."
            )
        mean, std = float(values[known].mean()), float(values[known].std())
        rows.append(torch.where(known, (values - mean) / std, 0.0))
        told.append({"name": name, "mean": mean, "std": std})
    return (torch.stack(rows) if rows else None), told
