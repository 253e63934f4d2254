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
    from scorda.systems.base import System

__all__ = ["Report", "from_fields", "from_system"]

Report = Callable[[dict[str, float]], None]
SIMULATED = "--system or a store of `scorda simulate --series`"
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
    from scorda.priors.from_system import Recipe, architecture_for, train_on_system, training_for

    fields = ("variable", "since", "until", "series_axis", "missing", "no_fill")
    refuse(given, (*fields, "modes", "corrected", "clock"), "goes with --data of fields only")
    names = ("series", "length", "width", "blocks", "half_width", "levels")
    architecture = given.architecture or architecture_for(system.space, given.transition)
    recipe = Recipe(architecture=architecture, **_given(given, *names))
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
        slice_seconds=math.inf if given.minutes is None else 60 * given.minutes,
        transition=given.transition,
        initial=initial,
    )


def from_fields(
    given: Train, checkpoint: Checkpoint, report: Report, device: torch.device
) -> TrainedTrajectory:
    """Return the prior of a record."""
    from scorda.cli.bounds import bounds_of
    from scorda.priors.from_fields import train_on_fields, training_for
    from scorda.priors.step_of_fields import step_training_for, train_step_on_fields
    from scorda.reading.records import read_fields

    simulated = (
        "series",
        "length",
        "architecture",
        "half_width",
        "levels",
        "minutes",
        "start_from",
    )
    refuse(given, simulated, f"goes with {SIMULATED} only")
    refuse(given, ("parameter",), "goes with --system only")
    if given.transition:
        refuse(given, ("clock",), "is of trajectories, and --transition learns steps")
    if device.type != "cpu":
        raise UserError(f"Got --device cuda, which goes with {SIMULATED} only.")
    assert given.data is not None
    fields = read_fields(
        given.data, given.variable, given.since, given.until, given.series_axis, given.missing
    )
    for note in fields.notes:
        console().print(f"record: {note}")
    if given.bounded:
        try:
            space = fields.space.with_transforms(bounds_of(given.bounded))
        except ValueError as error:
            raise UserError(f"--bounded: {error}") from error
        fields = replace(fields, space=space)
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


def _given(given: Train, *names: str) -> dict[str, Any]:
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}
