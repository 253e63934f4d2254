r"""Training of denoisers: one loss, one loop.

The loss is denoising score matching in the form of `denoisers.precondition`,

.. math:: E\, \frac{1 + \nu^2}{\nu^2} \| D(x_0 + \nu \varepsilon, \nu) - x_0 \|^2,

with the log of the noise level uniform (stratified over each batch): every noise level counts
alike. Segments are cut at random from long trajectories (algorithm 1 of SDA, where a segment is
one window).

A network that takes a noise level per entry also meets segments some of whose entries have less
noise, as if they had been observed: :math:`\nu_i^{-2} = \nu^{-2} + R_i^{-1}` at random
times for random components (see `merging`).

Everything random in step n is a function of (seed, n), and a checkpoint holds the whole state, so
a run that is killed and resumed gives the same bits as one that is not, for the same number of
threads. Several processes (`parallel`) share the rows of each batch and sum their gradients: to
rounding, they train the network that one alone would.


Noise levels of segments some of whose entries have been observed.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scorda.core import rng
from scorda.core.align import align
from scorda.core.files import read_tensors, write_tensors
from scorda.core.shapes import Float, Tensor
from scorda.diffusion import parallel
from scorda.diffusion.denoisers import precondition

__all__ = ["Training", "denoising_loss", "fit", "observed_levels", "validation_loss"]


Levels = Callable[[Tensor, tuple[int, ...], torch.Generator], Tensor]


Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Training:
    """Settings of a training run.

    Arguments:
        steps: Optimiser steps.
        batch: Segments per step.
        segment: States per segment.
        rate: Highest learning rate of AdamW; warms up linearly, falls to zero along a cosine.
        warmup: Steps of the warm-up; a tenth of all steps where that is less.
        weight_decay: Weight decay of AdamW.
        average: Decay of the exponential moving average of the weights.
        clip: Largest norm of the gradient.
        low: Smallest noise level, in units of the standardised data.
        high: Largest noise level.
        observed: Share of segments with observed entries, for a network that takes them.
        validation: Share of the trajectories held back; the last ones.
        every: Steps between validations.
        precision: "float32", or "bfloat16" for the products and convolutions of training: faster
            on processors that have it; weights and loss stay in the type of the data.
        compile: Whether torch.compile makes a program of the network first. Nothing gained on a
            CPU with the U-Net: 148 ms per step for 131, after minutes of compiling.
        seed: Seed of weights, batches and noise.
    """

    steps: int = 10_000
    batch: int = 64
    segment: int = 65
    rate: float = 3e-3
    warmup: int = 500
    weight_decay: float = 1e-3
    average: float = 0.999
    clip: float = 1.0
    low: float = 2e-3
    high: float = 20.0
    validation: float = 0.1
    every: int = 1000
    observed: float = 0.7
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "segment", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Got {name} = {getattr(self, name)}: it must be at least 1.")
        if not (0 < self.low < self.high and 0 < self.validation < 1):
            raise ValueError(
                f"Got low = {self.low}, high = {self.high}, validation = {self.validation}: "
                "need 0 < low < high and a share of validation between 0 and 1."
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Got precision = {self.precision!r}: it is float32 or bfloat16.")
        if not (0 <= self.average < 1 and 0 < self.rate < math.inf):
            raise ValueError(
                f"Got average = {self.average}, rate = {self.rate}: need 0 <= average < 1 and a "
                "positive rate."
            )
        if not 0 <= self.observed <= 1:
            raise ValueError(f"Got observed = {self.observed}: it is a share, between 0 and 1.")


@dataclass
class _State:
    """All that one step hands to the next."""

    network: nn.Module
    optimiser: torch.optim.AdamW
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    loss: Loss
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0


def denoising_loss(
    network: nn.Module,
    x0: Float[Tensor, "ensemble time ..."],
    noise: Float[Tensor, "ensemble ..."],
    eps: Float[Tensor, "ensemble time ..."],
    weight: Float[Tensor, "ensemble time ..."] | None = None,
) -> Float[Tensor, "ensemble"]:
    """Weighted squared error per member: 1 at every noise level for a network that returns 0.

    Each entry times its weight, if any.
    """
    nu = align(noise, x0)
    error = precondition(network, x0 + nu * eps, noise) - x0
    loss = error.square() * (1 + nu.square()) / nu.square()
    return (loss if weight is None else weight * loss).flatten(1).mean(1)


def fit(
    network: nn.Module,
    trajectories: Float[Tensor, "series time ..."],
    settings: Training,
    checkpoint: str | Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    seconds: float = 60.0,
    keep: bool = False,
    patience: int | None = None,
    levels: Levels | None = None,
    loss: Loss = denoising_loss,
    slice_seconds: float = math.inf,
) -> list[dict[str, float]]:
    """Train a network in place; it ends with the averaged weights of the lowest validation loss.

    Arguments:
        network: As for `denoisers.precondition`; its initial weights are the caller's.
        trajectories: Standardised trajectories ``(series, time, *state)``.
        settings: Settings of the run.
        checkpoint: File that a killed run resumes from; removed by the caller when no longer
            needed. One of another run is refused.
        report: Called at every validation with step, loss, validation loss.
        seconds: Time between checkpoints.
        keep: Whether the initial weights are validated too, as those of step 0, and stay where
            none are better: what fine-tuning wants.
        patience: Stop after so many validations in a row without a lower loss; None: never.
        levels: Makes levels per entry of one level per segment, of the shape of a segment and a
            generator (default: `observed_levels`), for a network that takes them.
        loss: Loss per segment of a network, as `denoising_loss` has it.
        slice_seconds: Stop at the first validation after so long, with a checkpoint that the next
            call resumes from; the network has the best weights so far.

    Returns:
        One entry per validation: step, loss (mean since the last), validation (loss of the
        averaged weights on fixed segments, noise levels and noise).

    Raises:
        ValueError: If the trajectories are too short, the checkpoint is of another run, or there
            are more processes than segments per step.
        FloatingPointError: If the loss is not finite.
    """
    if settings.batch < parallel.count():
        raise ValueError(
            f"Got a batch of {settings.batch} for {parallel.count()} processes: each needs a "
            "segment."
        )
    if trajectories.shape[1] < settings.segment:
        raise ValueError(
            f"Got trajectories of {trajectories.shape[1]} states for segments of "
            f"{settings.segment}: give longer trajectories or shorter segments."
        )
    if not torch.isfinite(trajectories).all():
        raise ValueError("Got trajectories that are not finite: remove or repair them.")
    with torch.no_grad():
        parallel.same([*network.parameters(), *network.buffers()])
    trajectories = trajectories.to(next(network.parameters()))
    training, validation = _split(trajectories, settings)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, eps=1e-8
    )
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    state = _State(network, optimiser, weights, {n: w.clone() for n, w in weights.items()}, loss)
    if checkpoint is not None and Path(checkpoint).exists():
        _restore(state, Path(checkpoint), settings)
    evaluate: Any = torch.compile(network) if settings.compile else network
    key = rng.key(rng.seeded(settings.seed))
    levels = _levels(network, settings, levels)
    mine = parallel.rows(settings.batch)
    half = settings.precision == "bfloat16"
    held_back = _held_back(validation, settings, levels)
    if keep and not state.history:
        _validate(state, held_back, math.nan)
    began = saved = clock.monotonic()
    total = 0.0
    while state.step < settings.steps and not _stalled(state.history, patience):
        for group in optimiser.param_groups:
            group["lr"] = _rate(state.step, settings)
        batch = [part[mine] for part in _batch(training, settings, key, state.step + 1, levels)]
        with torch.autocast(trajectories.device.type, torch.bfloat16, enabled=half):
            mean = loss(evaluate, *batch).mean() * (len(batch[0]) / settings.batch)
        optimiser.zero_grad()
        mean.backward()
        mean = mean.detach()
        parallel.sum_over([mean, *(p.grad for p in network.parameters() if p.grad is not None)])
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimiser.step()
        state.step += 1
        total += mean.item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"The loss is not finite at step {state.step}: lower the learning rate."
            )
        decay = min(settings.average, state.step / (state.step + 10))
        with torch.no_grad():
            for name, p in network.named_parameters():
                state.average[name].lerp_(p, 1 - decay)
        if state.step % settings.every == 0 or state.step == settings.steps:
            since = (state.step - 1) % settings.every + 1
            _validate(state, held_back, total / since)
            total = 0.0
            if report is not None and parallel.rank() == 0:
                report(state.history[-1])
            now = clock.monotonic()
            over, due = (
                parallel.agree(flag)
                for flag in (now - began > slice_seconds, now - saved > seconds)
            )
            # Only where the running mean of the loss starts anew, so that it need not be saved.
            if checkpoint is not None and (over or due):
                if parallel.rank() == 0:
                    _save(state, Path(checkpoint), settings)
                # Else one might look for the file, in its next slice, before it is there.
                parallel.wait()
                saved = clock.monotonic()
            if over:
                break
    _load(network, state.best)
    return state.history


def validation_loss(
    network: nn.Module,
    trajectories: Float[Tensor, "series time ..."],
    settings: Training,
    levels: Levels | None = None,
    loss: Loss = denoising_loss,
) -> float:
    """The validation loss of a network as it is, of the very samples and noise of `fit`."""
    _, validation = _split(trajectories.to(next(network.parameters())), settings)
    levels = _levels(network, settings, levels)
    return _mean_loss(network, _held_back(validation, settings, levels), loss)


def _levels(network: nn.Module, settings: Training, levels: Levels | None) -> Levels | None:
    """What makes levels per entry; None for a network with one level per segment."""
    if not getattr(network, "per_entry", False):
        return None
    share = settings.observed
    return levels or (lambda noise, shape, at: observed_levels(noise, shape, share, at))


def _split(trajectories: Tensor, settings: Training) -> tuple[Tensor, Tensor]:
    """Training and validation part: whole series if there are several, else the end of the one."""
    series, length = trajectories.shape[:2]
    if series > 1:
        held = max(1, round(settings.validation * series))
        return trajectories[:-held], trajectories[-held:]
    held = max(settings.segment, round(settings.validation * length))
    if length - held < settings.segment:
        raise ValueError(
            f"Got one trajectory of {length} states: training and validation need segments of "
            f"{settings.segment} each; give more data or shorter segments."
        )
    return trajectories[:, :-held], trajectories[:, -held:]


def _batch(
    trajectories: Tensor,
    settings: Training,
    key: rng.Key,
    step: int,
    levels: Levels | None,
    batches: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Segments, noise levels and noise of a step: a function of (key, step)."""
    size, (series, length) = batches * settings.batch, trajectories.shape[:2]
    generator = rng.at(key, step)
    which = torch.randint(series, (size,), generator=generator)
    start = torch.randint(length - settings.segment + 1, (size,), generator=generator)
    x0 = trajectories[which[:, None], start[:, None] + torch.arange(settings.segment)]
    # One uniform number, spread evenly: all noise levels in every batch.
    u = (torch.arange(size) + torch.rand(1, generator=generator)) / size
    noise = torch.exp(math.log(settings.low) + u * math.log(settings.high / settings.low))
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    if levels is not None:
        noise = levels(noise, tuple(x0.shape[1:]), generator)
    return x0, noise.to(x0), eps.to(x0)


def _held_back(
    validation: Tensor, settings: Training, levels: Levels | None
) -> tuple[Tensor, Tensor, Tensor]:
    key = rng.key(rng.seeded(settings.seed + 1))
    return _batch(validation, settings, key, 0, levels, 8)


def _rate(step: int, settings: Training) -> float:
    ramp = max(1, min(settings.warmup, settings.steps // 10))
    warmup = min(1.0, (step + 1) / ramp)
    return settings.rate * warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _validate(state: _State, batch: tuple[Tensor, Tensor, Tensor], loss: float) -> None:
    current = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    _load(state.network, state.average)
    validation = _mean_loss(state.network, batch, state.loss)
    _load(state.network, current)
    entry = {"step": state.step, "loss": loss, "validation": validation}
    if entry["validation"] <= min((e["validation"] for e in state.history), default=math.inf):
        state.best = {name: w.clone() for name, w in state.average.items()}
    state.history.append(entry)


def _mean_loss(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor], loss: Loss) -> float:
    with torch.no_grad():
        parts = list(zip(*(part.split(64) for part in batch), strict=True))
        mine = [loss(network, *part).sum() for part in parts[parallel.rows(len(parts))]]
        total = torch.stack(mine).sum() if mine else batch[0].new_zeros(())
        parallel.sum_over([total])
        return total.item() / len(batch[0])


def _stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    losses = [entry["validation"] for entry in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _load(network: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(weights[name])


def _save(state: _State, path: Path, settings: Training) -> None:
    tensors: dict[str, Tensor] = {}
    for name, p in state.network.named_parameters():
        moments = state.optimiser.state[p]
        tensors |= {
            f"weight.{name}": p,
            f"average.{name}": state.average[name],
            f"best.{name}": state.best[name],
            f"first.{name}": moments["exp_avg"],
            f"second.{name}": moments["exp_avg_sq"],
        }
    write_tensors(
        path,
        tensors,
        {
            "kind": "checkpoint",
            "step": state.step,
            "settings": asdict(settings),
            "history": state.history,
        },
    )


def _restore(state: _State, path: Path, settings: Training) -> None:
    tensors, header = read_tensors(path)
    if header.get("kind") != "checkpoint" or header.get("settings") != asdict(settings):
        raise ValueError(
            f"{path} is no checkpoint of this run (its settings are {header.get('settings')}): "
            "delete it, or train with the same settings."
        )
    state.step, state.history = header["step"], header["history"]
    for name, p in state.network.named_parameters():
        if f"weight.{name}" not in tensors or tensors[f"weight.{name}"].shape != p.shape:
            raise ValueError(f"{path} is a checkpoint of another network: delete it first.")
        with torch.no_grad():
            p.copy_(tensors[f"weight.{name}"])
        state.average[name] = tensors[f"average.{name}"].to(p)
        state.best[name] = tensors[f"best.{name}"].to(p)
        state.optimiser.state[p] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": tensors[f"first.{name}"].to(p, copy=True),
            "exp_avg_sq": tensors[f"second.{name}"].to(p, copy=True),
        }


def observed_levels(
    noise: Float[Tensor, "ensemble"],
    shape: tuple[int, ...],
    share: float,
    generator: torch.Generator,
) -> Float[Tensor, "ensemble time ..."]:
    """Lower the noise of some entries as observations of them would.

    Each component is observed or not, with an error between 0.01 and 1 standard deviation. Times
    are regular in half of the segments and at random in the others, 1 to 64 steps apart; in half
    of the segments all components share them; in a quarter there is a hole, which may reach an
    end.
    """
    size, states, components = len(noise), shape[0], math.prod(shape[1:])

    def uniform(*axes: int) -> Tensor:
        return torch.rand(*axes, generator=generator)

    time = torch.arange(states)[:, None]
    used = (uniform(size, 1) < share) & (uniform(size, components) < 0.5)
    stride = (64 ** uniform(size, 1, components)).round()
    offset = (uniform(size, 1, components) * stride).floor()
    regular = (time - offset) % stride == 0
    random = uniform(size, states, components) < 1 / stride
    times = torch.where(uniform(size, 1, 1) < 0.5, regular, random)
    times = torch.where(uniform(size, 1, 1) < 0.5, times, times[..., :1])
    ends = ((2 * uniform(size, 2) - 0.5) * states).sort().values[..., None, None]
    hole = (time >= ends[:, 0]) & (time < ends[:, 1]) & (uniform(size, 1, 1) < 0.25)
    std = 10 ** (2 * uniform(size, components) - 2)
    precision = (used[:, None] & times & ~hole) / std[:, None].square()
    level = (noise[:, None, None] ** -2 + precision).rsqrt()
    return level.view(size, *shape)
