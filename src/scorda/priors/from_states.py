"""A prior of trajectories in one call, from an array or a dataset."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.progress import Progress, told
from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.priors.from_fields import train_on_fields, training_for
from scorda.priors.from_system import train_on_states
from scorda.priors.grid_of_fields import NETWORKS, train_grid_on_fields
from scorda.priors.recipe import SIZES, Recipe, architecture_for, training_for as training_of
from scorda.priors.step_of_fields import step_training_for, train_step_on_fields
from scorda.priors.trajectory import TrainedTrajectory
from scorda.reading.opening import Source, is_labelled
from scorda.reading.records import Fields, read_fields

__all__ = ["train"]

MODES = "modes"
# Pieces that a single record is cut into, of which the last tenth is held back.
PIECES = 20


def train(
    states: ArrayLike | Source | Fields,
    space: StateSpace | None = None,
    architecture: str | None = None,
    training_steps: int | None = None,
    seed: int = 0,
    training: Training | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | bool = True,
    transition: bool = False,
    **sizes: int,
) -> TrainedTrajectory:
    """Learn a prior of trajectories, for `SDA` and for drawing from it.

    Two kinds of prior are learned (see ``priors.from_fields`` and ``priors.from_system``):

    * "modes": of a record of fields. The Gaussian law of their patterns, with a daily cycle where
      the record has one, and a network that corrects the leading ones. A few hundred fields are
      enough, and it takes a minute;
    * "temporal-conv", "window-mlp", "ring-conv" (states on one periodic axis) and "unet" (two
      periodic axes): a network alone, of trajectories of a nonlinear system. It needs many
      states, and takes minutes to hours. Of a record, "ring-conv" and "unet" learn the anomalies
      from its daily and yearly cycle, beside its static fields (``priors.grid_of_fields``).

    Both are approximate. The result is a function of the arguments and the number of threads.

    Arguments:
        states: Trajectories ``(time, *state)`` or ``(series, time, *state)``; or a path or an
            xarray Dataset of variables on regular times, as ``scorda train --data`` reads it, or
            ``Fields`` of ``reading.records.read_fields``, which knows more: static fields, axes
            that close.
        space: Space of the states of an array, whose `dt` is the time between them (default:
            that of a dataset).
        architecture: One of the five (default: "modes" of states on axes, else "temporal-conv").
            A single array is cut into up to 20 trajectories for a network alone.
        training_steps: Steps of the optimiser (default: 1000 for "modes", else 10 000).
        seed: Seed of weights, batches and noise, a whole number.
        training: All settings of the training, in place of these two.
        checkpoint: File that a killed training goes on from; the caller removes it at the end.
        progress: Whether to show a bar, or a function of the steps done and their total; both
            move at each validation.
        transition: Learn the law of a state given the one before, for `priors.Emulator`, in place
            of that of trajectories: by "modes", "unet", "ring-conv" or "temporal-conv" (an array
            has "ring-conv" by default where its states are on one periodic axis of equal steps,
            else "temporal-conv").
        sizes: Sizes of the network: `width`, `blocks`; `modes` and `corrected` of "modes",
            and its `clock`, harmonics of the year that the network sees beside each state;
            `half_width` of "window-mlp" and "unet", `levels` of "unet".

    Raises:
        ValueError: If an array comes without a space or of another shape, or is too short; or if
            there is no such architecture or size.
        FloatingPointError: If the loss is not finite.

    Example:
        A short training on a record of two numbers, which takes a second:

        >>> record = np.random.default_rng(0).normal(size=(400, 2))
        >>> prior = sc.train(record, sc.StateSpace((2,)), "window-mlp", training_steps=20)
        >>> type(sc.SDA(prior)).__name__
        'SDA'
    """
    fields = _fields(states, space)
    recorded = isinstance(states, Fields | str | Path) or is_labelled(states)
    alone = not fields.space.axes or (transition and not recorded)
    chosen = architecture or (architecture_for(fields.space) if alone else MODES)
    if chosen not in (MODES, *SIZES):
        names = ", ".join((MODES, *SIZES))
        raise ValueError(f"Got architecture = {architecture!r}: it is one of {names}.")
    known = {"width", "blocks", *(("modes", "corrected") if chosen == MODES else ())}
    known |= {"clock"} if chosen == MODES and not transition else set()
    known |= set(SIZES.get(chosen, {})) - {"series", "length"}
    if unknown := sorted(set(sizes) - known):
        raise ValueError(
            f"{chosen} has no size {unknown[0]!r}: it has {', '.join(sorted(known))}."
        )
    by_grid = recorded and (chosen == "ring-conv" or (chosen in NETWORKS and not transition))
    if chosen == MODES:
        settings = training or (step_training_for if transition else training_for)(fields)
        pieces, recipe = fields.states, None
    else:
        pieces = fields.states if by_grid else _pieces(fields)
        recipe = Recipe(pieces.shape[0], pieces.shape[1], chosen, **sizes)
        settings = training or Training(**training_of(recipe, transition))
    if training is None:
        steps = settings.training_steps if training_steps is None else training_steps
        settings = replace(settings, training_steps=steps, seed=seed)
        settings = replace(settings, every=min(settings.every, max(steps // 10, 1)))
    with told(progress, f"train {chosen}") as update:

        def report(entry: dict[str, float]) -> None:
            update(int(entry["step"]), settings.training_steps)

        if recipe is None:
            how: dict[str, Any] = {**sizes, "settings": settings, "checkpoint": checkpoint}
            learn = train_step_on_fields if transition else train_on_fields
            return learn(fields, **how, report=report)
        if by_grid:
            return train_grid_on_fields(
                fields, recipe, settings, checkpoint, report, transition=transition
            )
        told_of = {"states": list(fields.states.shape), "start": fields.start}
        return train_on_states(
            pieces, fields.space, recipe, settings, told_of, checkpoint, report,
            transition=transition,
        )  # fmt: skip


def _fields(states: ArrayLike | Source | Fields, space: StateSpace | None) -> Fields:
    """Return trajectories with their space."""
    if isinstance(states, Fields):
        return states
    if isinstance(states, str | Path) or is_labelled(states):
        fields = read_fields(states)
        if space is not None and space != fields.space:
            raise ValueError("Got a space beside a dataset, which has its own: leave it out.")
        return fields
    if space is None:
        raise ValueError("Got trajectories without a space: give one, `sc.StateSpace(...)`.")
    tensor = as_tensor(states, "states")
    if not tensor.numel():
        raise ValueError(f"Got trajectories of shape {tuple(tensor.shape)}: give some states.")
    return Fields(tensor, space)


def _pieces(fields: Fields) -> torch.Tensor:
    """Return several trajectories; a single record is cut, and the rest at its end left out."""
    if fields.missing:
        raise ValueError(
            f"Got trajectories of which {fields.missing} values are missing: only {MODES!r} "
            "fills them."
        )
    if fields.static:
        raise ValueError(
            f"Got the static fields {', '.join(fields.static)}, which {' and '.join(NETWORKS)} "
            "see, of trajectories: choose one of these, without transition, or leave them out."
        )
    states = fields.space.filled(fields.states).to(torch.get_default_dtype())
    if len(states) > 1:
        return states
    length = max(math.floor(states.shape[1] / PIECES), 1)
    number = states.shape[1] // length
    return states[0, : number * length].unflatten(0, (number, length))
