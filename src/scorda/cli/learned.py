"""The prior that ``scorda train`` learns: of a system, of its trajectories, or of a record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console
from scorda.cli.settings import UserError, refuse

if TYPE_CHECKING:
    import torch

    from scorda.cli.train import Train
    from scorda.core.shapes import Tensor
    from scorda.diffusion.checkpoint import Checkpoint
    from scorda.priors.trajectory import TrainedTrajectory
    from scorda.reading.records import Fields
    from scorda.systems.base import System

__all__ = ["Report", "from_fields", "from_system"]

Report = Callable[[dict[str, float]], None]
SIMULATED = "--system or a store of `scorda simulate --series`"
# Settings of the patterns of a record, and sizes of networks.
OF_PATTERNS = ("modes", "corrected", "clock", "no_fill")
SIZES = ("width", "blocks", "half_width", "levels")
# Settings of `Training` that have a flag, beside the seed.
TRAINING = (
    "training_steps", "batch", "segment", "rate", "min_noise", "max_noise", "average", "every",
    "precision",
)  # fmt: skip


def from_system(
    given: Train,
    system: System,
    states: Tensor | None,
    checkpoint: Checkpoint,
    report: Report,
    device: torch.device,
    initial: TrainedTrajectory | None = None,
) -> TrainedTrajectory:
    """Return the prior of a system, of its stored trajectories or of simulated ones."""
    from scorda.diffusion.training import Training
    from scorda.priors.from_system import train_on_system
    from scorda.priors.recipe import Recipe, architecture_for, training_for

    fields = ("variable", "since", "until", "series_axis", "missing", "periodic", "static")
    refuse(given, (*fields, *OF_PATTERNS), "goes with --data of fields only")
    if given.distil is not None:
        return _distilled(given, system, states, checkpoint, report, device, initial)
    architecture = given.architecture or architecture_for(system.space)
    recipe = Recipe(architecture=architecture, **_given(given, "series", "length", *SIZES))
    if states is not None:
        recipe = replace(recipe, series=states.shape[0], length=states.shape[1])
    chosen = training_for(recipe, given.transition) | _given(given, *TRAINING, "seed")
    return train_on_system(
        system,
        recipe,
        Training(**chosen),
        checkpoint,
        report,
        states,
        device=device,
        slice_seconds=_seconds(given),
        transition=given.transition,
        initial=initial,
    )


def _distilled(
    given: Train,
    system: System,
    states: Tensor | None,
    checkpoint: Checkpoint,
    report: Report,
    device: torch.device,
    initial: TrainedTrajectory | None,
) -> TrainedTrajectory:
    """Return the prior to start from, trained through few steps."""
    from scorda.diffusion import parallel
    from scorda.diffusion.training import Training
    from scorda.priors.distilled import DISTILLING, FEW, check_levels, distilled
    from scorda.priors.from_system import simulated
    from scorda.priors.recipe import Recipe
    from scorda.priors.trained_on import other_settings

    if initial is None:
        raise UserError("Got --distil without --start-from, the prior whose network is trained.")
    # Before anything is simulated.
    check_levels(initial)
    if given.distil is None or given.distil < 2:
        raise UserError(f"Got --distil {given.distil}: a sampler has at least 2 steps.")
    own = "is that of the prior which --distil trains"
    refuse(given, ("architecture", *SIZES, "min_noise", "max_noise", "transition"), own)
    if initial.name != system.name or other_settings(initial, system):
        raise UserError(
            f"Got --distil for a prior of {initial.name} with --system {system.name}, or with "
            "other settings of it: give the system that the prior was trained on."
        )
    chosen = DISTILLING | _given(given, *TRAINING, "seed")
    levels = {name: initial.architecture[name] for name in ("min_noise", "max_noise")}
    if states is None:
        sizes = _given(given, "series", "length")
        recipe = Recipe(architecture=initial.architecture["name"], **sizes)
        states = parallel.make_once(lambda: simulated(system, recipe, given.seed))
    chosen["segment"] = min(chosen["segment"], states.shape[1])
    return distilled(
        initial,
        states,
        Training(**chosen | levels),
        replace(FEW, noise_levels=given.distil),
        checkpoint,
        report,
        device,
        _seconds(given),
    )


def from_fields(
    given: Train,
    checkpoint: Checkpoint,
    report: Report,
    device: torch.device,
    initial: TrainedTrajectory | None = None,
) -> TrainedTrajectory:
    """Return the prior of a record: of its patterns, or by a network of its grid."""
    refuse(given, ("distil",), f"goes with {SIMULATED} only")
    refuse(given, ("series", "length"), f"goes with {SIMULATED} only")
    refuse(given, ("parameter",), "goes with --system only")
    if given.architecture is not None:
        refuse(given, OF_PATTERNS, "is of patterns: leave --architecture out")
        if given.architecture != "ring-conv":
            steps = "is of ring-conv and of patterns: name ring-conv, or leave --architecture out"
            refuse(given, ("transition",), steps)
        return _by_a_grid(given, checkpoint, report, device, initial)
    grids = f"goes with {SIMULATED}, or with --architecture, only"
    refuse(given, ("half_width", "levels", "minutes", "start_from"), grids)
    if given.transition:
        refuse(given, ("clock",), "is of trajectories, and --transition learns steps")
    if device.type != "cpu":
        raise UserError(f"Got --device cuda, which {grids}.")
    return _of_patterns(given, checkpoint, report)


def _by_a_grid(
    given: Train,
    checkpoint: Checkpoint,
    report: Report,
    device: torch.device,
    initial: TrainedTrajectory | None,
) -> TrainedTrajectory:
    """Return the prior of a record by a network of its grid."""
    from scorda.diffusion.training import Training
    from scorda.priors.grid_of_fields import train_grid_on_fields
    from scorda.priors.recipe import Recipe, training_for

    fields = _record(given)
    recipe = Recipe(length=len(fields), **_given(given, "architecture", *SIZES))
    chosen = training_for(recipe, given.transition) | _given(given, *TRAINING, "seed")
    return train_grid_on_fields(
        fields,
        recipe,
        Training(**chosen),
        checkpoint,
        report,
        device,
        _seconds(given),
        initial,
        given.transition,
    )


def _of_patterns(given: Train, checkpoint: Checkpoint, report: Report) -> TrainedTrajectory:
    """Return the prior of a record, of its patterns."""
    from scorda.priors.from_fields import train_on_fields, training_for
    from scorda.priors.step_of_fields import step_training_for, train_step_on_fields

    fields = _record(given)
    if fields.missing and not given.no_fill:
        console().print("record: missing values are filled by its own Gaussian law")
    chosen = _given(given, *TRAINING)
    learn: Callable[..., TrainedTrajectory] = train_on_fields
    settings = training_for
    if given.transition:
        learn, settings = train_step_on_fields, step_training_for
    training = replace(settings(fields), **chosen, seed=given.seed)
    return learn(
        fields,
        **_given(given, "modes", "corrected", "width", "blocks", "clock"),
        settings=training,
        checkpoint=checkpoint,
        report=report,
        fill=not given.no_fill,
    )


def _record(given: Train) -> Fields:
    """Read the record, and say what was understood of it."""
    from scorda.cli.bounds import bounds_of
    from scorda.reading.records import read_fields

    assert given.data is not None
    fields = read_fields(
        given.data,
        given.variable,
        given.since,
        given.until,
        given.series_axis,
        given.missing,
        given.periodic,
        given.static,
    )
    for note in fields.notes:
        console().print(f"record: {note}")
    if given.bounded:
        try:
            space = fields.space.with_transforms(bounds_of(given.bounded))
        except ValueError as error:
            raise UserError(f"--bounded: {error}") from error
        fields = replace(fields, space=space)
    return fields


def _seconds(given: Train) -> float:
    return math.inf if given.minutes is None else 60 * given.minutes


def _given(given: Train, *names: str) -> dict[str, Any]:
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}
