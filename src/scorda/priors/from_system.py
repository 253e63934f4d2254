"""A prior is learned from simulated trajectories of a system."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion import parallel
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.guidance import MMPS, InflatedLikelihood, SwitchedGuidance
from scorda.diffusion.levels import ring_levels
from scorda.diffusion.samplers import Ancestral, Multistep, Sampler, VarianceExploding
from scorda.diffusion.training import Training, fit
from scorda.diffusion.transitions import known_first, transition_loss
from scorda.nn import build
from scorda.nn.steps import StepUNet
from scorda.nn.unet import UNet
from scorda.priors.recipe import Recipe, check_grid, check_transition
from scorda.priors.shares import LEVELS, fit_shares
from scorda.priors.trajectory import Standardisation, TrainedTrajectory
from scorda.systems.base import System, plain_settings

# Numbers of the states that a transition keeps of its record, and how many states at least.
KEPT, FEWEST = 2**16, 256
# States whose covariances the law around a network of fields knows.
MEMORY = 33
# How far beyond the largest simulated value a denoised one may lie.
MARGIN = 1.25
# 61 evaluations. Chosen on Lorenz-63, on other test cases than `scorda bench lorenz63-sda` has.
SAMPLER = Ancestral(noise_levels=16, corrections=3, tau=0.5, min_noise=8e-3, max_noise=20.0)
# 125 evaluations. Chosen on other truths than `scorda bench lorenz96-sda` has: with 16 levels the
# CRPS is 2 to 18 % larger.
RING_SAMPLER = Ancestral(noise_levels=32, corrections=3, tau=0.5, min_noise=8e-3, max_noise=20.0)
# The largest scales of a field have far more than unit variance: it starts above them. 127
# evaluations. States far apart in time come to agree by corrections at noise levels of 0.5 to 5.
# Chosen on other truths than the benchmark has, between looks at these (benchmarks/NOTES.md): with
# fewer or smaller corrections the steps are less consistent.
FIELD_SAMPLER = Ancestral(
    noise_levels=62,
    corrections=5,
    tau=1.0,
    min_noise=2e-3,
    max_noise=100.0,
    correct_above=0.5,
    correct_below=5.0,
    upper=0.5,
)
FIELD_GUIDANCE = SwitchedGuidance(MMPS(8, covariance="law"), InflatedLikelihood(1e-3), 2.0)
# A step of a field changes all but its largest scales by less than a standard deviation.
STEP_SAMPLER = Multistep(noise_levels=12, corrections=0, min_noise=5e-3, max_noise=10.0)

__all__ = [
    "kept_states",
    "resampled",
    "simulated",
    "train_on_states",
    "train_on_system",
    "train_on_z",
]


def train_on_system(
    system: System,
    recipe: Recipe,
    settings: Training,
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    states: Float[Tensor, "series time *state"] | None = None,
    device: torch.device | str = "cpu",
    slice_seconds: float = math.inf,
    transition: bool = False,
    initial: TrainedTrajectory | None = None,
) -> TrainedTrajectory:
    """Simulate a system, train a network on its trajectories, and return the prior.

    Trajectories start from the system's own prior. The result is a function of the settings, with
    their seed, and of the numbers of threads and processes.

    Arguments:
        recipe: What to simulate, and the network.
        settings: Settings of the training.
        checkpoint: As in `training.fit`, like `report`.
        states: Trajectories to learn from, in place of simulated ones.
        device: Device on which the network is trained; the prior is on the CPU.
        slice_seconds: As in `training.fit`; `provenance` tells how far the training is.
        transition: As in `train_on_states`, like `initial`.

    Raises:
        ValueError: As `train_on_states`.
    """
    check_grid(recipe, system.space)
    if states is None:
        states = parallel.make_once(lambda: simulated(system, recipe, settings.seed))
    told = {"system": {"name": system.name, "settings": plain_settings(system)}}
    return train_on_states(
        states,
        system.space,
        recipe,
        settings,
        told,
        checkpoint,
        report,
        system.context,
        device,
        slice_seconds,
        transition,
        initial,
    )


def train_on_states(
    states: Float[Tensor, "series time *state"],
    space: StateSpace,
    recipe: Recipe,
    settings: Training,
    told: Mapping[str, Any],
    checkpoint: Checkpoint | str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    context: Float[Tensor, "..."] | None = None,
    device: torch.device | str = "cpu",
    slice_seconds: float = math.inf,
    transition: bool = False,
    initial: TrainedTrajectory | None = None,
) -> TrainedTrajectory:
    """Train a network on trajectories, wherever they are from, and return the prior.

    Arguments:
        states: Trajectories.
        space: Their space.
        recipe: The network.
        settings: Settings of the training.
        told: What the provenance says of the trajectories.
        checkpoint: As in `train_on_system`, like all that follow.
        report: Called at each validation.
        context: Fields that the network gets beside the states.
        device: Device of the training.
        slice_seconds: Stop at the first validation after so long.
        transition: Learn the law of a state given the one before, for `Emulator`, in place of
            that of trajectories, by "temporal-conv", "ring-conv" or "unet", from segments of 2.
        initial: Prior of the same network, whose weights are the first. They stay where training
            finds none with a lower validation loss.

    Raises:
        ValueError: If the trajectories are too short, the architecture does not fit the states,
            or `initial` has another network.
    """
    check_grid(recipe, space)
    if transition:
        check_transition(recipe, settings)
    space.check(states, "trajectories")
    space.check_no_circles("A trained prior")
    space.check_bounds(states, "trajectories")
    states = space.unbounded(states)
    standardisation = Standardisation.of(states, space)
    z = standardisation.forward(states)
    start = kept_states(states, space) if transition else None
    del states
    prior = train_on_z(
        z,
        space,
        standardisation,
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
    return replace(prior, start=start)


def train_on_z(
    z: Float[Tensor, "series time *state"],
    space: StateSpace,
    standardisation: Standardisation,
    recipe: Recipe,
    settings: Training,
    told: Mapping[str, Any],
    checkpoint: Checkpoint | str | Path | None,
    report: Callable[[dict[str, float]], None] | None,
    context: Float[Tensor, "..."] | None,
    device: torch.device | str,
    slice_seconds: float,
    transition: bool = False,
    initial: TrainedTrajectory | None = None,
) -> TrainedTrajectory:
    """Train a network on standardised trajectories, and return the prior.

    Arguments:
        z: Standardised trajectories, in coordinates without bounds.
        space: As in `train_on_states`, like all that is not named here.
        standardisation: Map between states and these.

    Raises:
        ValueError: If the trajectories are too short, or `initial` has another network.
    """
    of_fields = recipe.architecture == "unet"
    if of_fields and not space.has_channels:
        z = z.unsqueeze(2)
    architecture = _architecture(recipe, settings, context, z, transition)
    torch.manual_seed(settings.seed)
    network = build(architecture)
    if isinstance(network, UNet | StepUNet):
        network.prepare(z, context)
    elif context is not None:
        network.get_buffer("context").copy_(context)
    if initial is not None:
        _take_weights(network, initial.network)
    network.to(device)
    how: dict[str, Any] = {}
    if recipe.architecture == "ring-conv" and settings.observed:
        how = {"levels": lambda noise, shape, at: ring_levels(noise, shape, settings.observed, at)}
    if transition:
        how = {"levels": known_first, "loss": transition_loss}
    how |= {"slice_seconds": slice_seconds, "keep": initial is not None}
    history = fit(network, z, settings, checkpoint, report, **how)
    if isinstance(network, UNet):
        fit_shares(network, z, rng.spawn(rng.seeded(settings.seed), 3)[2])
    provenance = {
        **told,
        "recipe": asdict(recipe),
        "training": asdict(settings),
        "threads": torch.get_num_threads(),
        "processes": parallel.count(),
        # JSON has no NaN, the loss before the first step.
        "history": [{**e, "loss": e["loss"] if e["step"] else None} for e in history],
    }
    samplers: dict[str, Sampler] = {"unet": FIELD_SAMPLER, "ring-conv": RING_SAMPLER}
    if transition:
        samplers = {"unet": STEP_SAMPLER, "ring-conv": STEP_SAMPLER}
    return TrainedTrajectory(
        architecture,
        network.to("cpu"),
        space,
        standardisation,
        VarianceExploding(1e-3, 1e3),
        samplers.get(recipe.architecture, SAMPLER),
        provenance,
        guidance=FIELD_GUIDANCE if of_fields and not transition else None,
        limit=MARGIN * float(z.abs().max()),
    )


def _take_weights(network: nn.Module, initial: nn.Module) -> None:
    """Copy the weights of a network; what the data give, as their Gaussian law, stays."""
    first = dict(initial.named_parameters())
    shapes = [
        {n: p.shape for n, p in each.items()} for each in (dict(network.named_parameters()), first)
    ]
    if shapes[0] != shapes[1]:
        other = next(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(
            f"The prior to start from has another network ({other} differs in shape): train with "
            "its architecture and sizes, or start anew."
        )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(first[name])


def _architecture(
    recipe: Recipe,
    settings: Training,
    context: Tensor | None,
    z: Float[Tensor, "series time ..."],
    transition: bool,
) -> dict[str, Any]:
    """Return the name and the arguments of the network, as for `nn.build`."""
    made: dict[str, Any] = {"name": recipe.architecture, "channels": z[0, 0].numel()}
    made |= {"min_noise": settings.min_noise, "max_noise": settings.max_noise}
    made |= {"width": recipe.width}
    if recipe.architecture == "unet":
        fields = 0 if context is None else len(context)
        made |= {"channels": z.shape[2], "grid": list(z.shape[3:]), "context": fields}
        made |= {"levels": recipe.levels, "blocks": recipe.blocks}
        if transition:
            return made | {"name": "step-unet"}
        made |= {"k": recipe.half_width, "shares": LEVELS if recipe.half_width else 0}
        return made | {"memory": (min(MEMORY, z.shape[1]) - 1) // 2 * 2 + 1}
    if recipe.architecture == "window-mlp":
        return made | {"k": recipe.half_width, "depth": recipe.blocks}
    if recipe.architecture == "ring-conv":
        made |= {"channels": made["channels"] // z.shape[-1], "grid": [z.shape[-1]]}
        made |= {} if context is None else {"context": len(context)}
    else:
        made |= {"dilation": 2}
    first = z[:, 1:] - z[:, :-1]
    if transition and recipe.architecture == "ring-conv":
        std = first.flatten(2).unflatten(2, (made["channels"], -1)).square().mean((0, 1, 3)).sqrt()
        return made | {"name": "step-ring", "blocks": recipe.blocks, "differences": std.tolist()}
    second = first[:, 1:] - first[:, :-1]
    differences = [float(d.square().mean().sqrt()) for d in (first, second)]
    made |= {"blocks": recipe.blocks, "differences": differences}
    return made | {"per_entry": settings.observed > 0}


def simulated(system: System, recipe: Recipe, seed: int) -> Float[Tensor, "series time *state"]:
    """Return the trajectories of a recipe, from the system's own prior."""
    start, error = rng.spawn(rng.seeded(seed), 2)
    assert recipe.series is not None and recipe.length is not None
    return system.trajectory(system.prior(recipe.series, start), recipe.length - 1, error)


def kept_states(
    states: Float[Tensor, "series time *state"], space: StateSpace
) -> Float[Tensor, "states *state"]:
    """Return states that stand for the climate, evenly spaced in the record, in their units."""
    every = states.flatten(0, 1)
    number = max(1, min(len(every), max(KEPT // space.size, FEWEST)))
    return space.bounded(every[torch.linspace(0, len(every) - 1, number).round().long()])


def resampled(
    states: Float[Tensor, "*any rows columns"], grid: tuple[int, int]
) -> Float[Tensor, "*any y x"]:
    """Return periodic fields on another grid, with the same low wave numbers.

    Wave numbers that either grid cannot tell from others, half its points and above, are dropped.
    """
    kept = [(min(old, new) - 1) // 2 for old, new in zip(states.shape[-2:], grid, strict=True)]
    spectrum = torch.fft.rfft2(states, norm="forward")[..., : kept[1] + 1]
    wide = spectrum.new_zeros((*states.shape[:-2], grid[0], grid[1] // 2 + 1))
    wide[..., : kept[0] + 1, : kept[1] + 1] = spectrum[..., : kept[0] + 1, :]
    if kept[0]:
        wide[..., -kept[0] :, : kept[1] + 1] = spectrum[..., -kept[0] :, :]
    return torch.fft.irfft2(wide, s=grid, norm="forward")
