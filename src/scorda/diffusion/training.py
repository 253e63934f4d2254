r"""Training of denoisers: one loss, one loop.

The loss is denoising score matching in the form of ``denoisers.precondition``,

.. math:: E\, \frac{1 + \nu^2}{\nu^2} \| D(x_0 + \nu \varepsilon, \nu) - x_0 \|^2,

with the log of the noise level uniform (stratified over each batch), so that every noise level
counts alike. Segments are cut at random from long trajectories (algorithm 1 of SDA, where a
segment is one window).

A network that takes a noise level per entry also meets segments some of whose entries have less
noise, as if they had been observed: :math:`\nu_i^{-2} = \nu^{-2} + R_i^{-1}` at random times for
random components (see `Conditioned`).

All random numbers of step n are a function of (seed, n), and a checkpoint holds the whole state.
A run that is killed and resumed therefore gives the same bits as one that is not, for the same
number of threads and processes. Several processes (`parallel`) share the rows of each batch: to
rounding, they train the network that one process alone would.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion import parallel
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.denoisers import align, precondition
from scorda.diffusion.levels import Levels, levels_for

__all__ = ["Training", "denoising_loss", "fit", "validation_loss"]

# Gives the loss of each segment for a network, segments, noise levels and noise.
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
# Segments, noise levels and noise.
Batch = tuple[Tensor, Tensor, Tensor]
# Batches that the validation holds, and segments that are evaluated at once there.
HELD_BATCHES, HELD_CHUNK = 8, 64
# Of AdamW: steps in which the rate rises, decay of the weights, largest norm of the gradient.
WARMUP, WEIGHT_DECAY, LARGEST_GRADIENT = 500, 1e-3, 1.0


@dataclass(frozen=True)
class Training:
    """Settings of a training run.

    Arguments:
        training_steps: Number of optimiser steps.
        batch: Segments per step.
        segment: States per segment.
        rate: Highest learning rate of AdamW. It rises linearly in 500 steps, or a tenth of all
            where that is less, and falls to zero along a cosine.
        average: Decay of the exponential moving average of the weights.
        min_noise: Smallest noise level, in units of the standardised data.
        max_noise: Largest noise level.
        observed: Share of segments with observed entries, for a network that takes them.
        validation: Share of the trajectories held back; these are the last ones.
        every: Steps between validations.
        precision: "float32", or "bfloat16" for the products and convolutions of training, which
            is faster on processors that have it; weights and loss stay in the type of the data.
        seed: Seed of weights, batches and noise.
    """

    training_steps: int = 10_000
    batch: int = 64
    segment: int = 65
    rate: float = 3e-3
    average: float = 0.999
    min_noise: float = 2e-3
    max_noise: float = 20.0
    validation: float = 0.1
    every: int = 1000
    observed: float = 0.7
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("training_steps", "batch", "segment", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Got {name} = {getattr(self, name)}: it must be at least 1.")
        if not (0 < self.min_noise < self.max_noise and 0 < self.validation < 1):
            raise ValueError(
                f"Got min_noise = {self.min_noise}, max_noise = {self.max_noise}, validation = "
                f"{self.validation}: need 0 < min_noise < max_noise and a share of validation "
                "between 0 and 1."
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


def denoising_loss(
    network: nn.Module,
    x0: Float[Tensor, "ensemble time ..."],
    noise: Float[Tensor, "ensemble ..."],
    eps: Float[Tensor, "ensemble time ..."],
    weight: Float[Tensor, "ensemble time ..."] | None = None,
) -> Float[Tensor, "ensemble"]:
    """Weighted squared error per member: 1 at every noise level for a network that returns 0.

    The error of each entry is multiplied by its weight, if there are weights.
    """
    nu = align(noise, x0)
    error = precondition(network, x0 + nu * eps, noise) - x0
    loss = error.square() * (1 + nu.square()) / nu.square()
    return (loss if weight is None else weight * loss).flatten(1).mean(1)


def fit(
    network: nn.Module,
    trajectories: Float[Tensor, "series time ..."],
    settings: Training,
    checkpoint: Checkpoint | str | Path | None = None,
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
        network: As for ``denoisers.precondition``; its initial weights are the caller's.
        trajectories: Standardised trajectories ``(series, time, *state)``.
        checkpoint: File that a killed run resumes from; the caller removes it at the end.
        report: Called at every validation with step, loss, validation loss.
        seconds: Time between checkpoints, and so what a kill loses at most.
        keep: Whether the initial weights are validated too, and stay where none are better.
        patience: Stop after so many validations in a row without a lower loss; None: never.
        levels: Makes levels per entry, as ``levels.observed_levels``, if the network takes them.
        loss: Loss per segment of a network, as `denoising_loss` has it.
        slice_seconds: Stop at the first validation after so long; the next call resumes there.

    Returns:
        One entry per validation, with its step, the mean loss since the last, the validation loss.

    Raises:
        ValueError: If the data are too short or too few, or the checkpoint is of another run.
        FloatingPointError: If the loss is not finite.
    """
    training, validation = _split(trajectories.to(next(network.parameters())), settings)
    levels = levels_for(network, settings.observed, levels)
    run = _Run(network, settings, loss, _held_back(validation, settings, levels))
    checkpoint = Checkpoint.at(checkpoint)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    if keep and not run.history:
        run.validate(math.nan)
    key = rng.key(rng.seeded(settings.seed))
    over = False
    while run.step < settings.training_steps and not run.stalled(patience) and not over:
        run.advance(_batch(training, settings, key, run.step + 1, levels))
        if run.step % settings.every == 0 or run.step == settings.training_steps:
            run.validate(run.total / ((run.step - 1) % settings.every + 1))
            if report is not None and parallel.rank() == 0:
                report(run.history[-1])
            over = _since(run.began, slice_seconds)
        # Between validations too, which may be far apart.
        if checkpoint is not None and (over or _since(run.saved, seconds)):
            run.save(checkpoint)
    _load(network, run.best)
    return run.history


def validation_loss(
    network: nn.Module,
    trajectories: Float[Tensor, "series time ..."],
    settings: Training,
    levels: Levels | None = None,
    loss: Loss = denoising_loss,
) -> float:
    """The validation loss of a network as it is, of the very samples and noise of `fit`."""
    _, validation = _split(trajectories.to(next(network.parameters())), settings)
    held_back = _held_back(validation, settings, levels_for(network, settings.observed, levels))
    return _mean_loss(network, held_back, loss)


class _Objective(nn.Module):
    """A loss as a module, so that processes can share the gradient of any loss."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, x0: Tensor, noise: Tensor, eps: Tensor) -> Tensor:
        return self.loss(self.network, x0, noise, eps)


class _Run:
    """The state of a run: what one step hands to the next, and what a checkpoint holds."""

    def __init__(
        self, network: nn.Module, settings: Training, loss: Loss, held_back: Batch
    ) -> None:
        self.network, self.settings = network, settings
        self.loss, self.held_back = loss, held_back
        self.objective = parallel.replicated(_Objective(network, loss))
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, weight_decay=WEIGHT_DECAY, eps=1e-8
        )
        self.average, self.best = _weights(network), _weights(network)
        self.history: list[dict[str, float]] = []
        self.step = 0
        # Of the loss since the last validation.
        self.total = 0.0
        self.began = self.saved = clock.monotonic()

    def advance(self, batch: Batch) -> None:
        """Take one optimiser step, on the rows that are this process's, and add up the loss."""
        settings, rows = self.settings, parallel.rows(self.settings.batch)
        x0, noise, eps = (part[rows] for part in batch)
        # Gradients are averaged over the processes, which may differ in their number of rows.
        share = len(x0) * parallel.count() / settings.batch
        half = settings.precision == "bfloat16"
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=half):
            mean = self.objective(x0, noise, eps).mean() * share
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(self.step, settings)
        self.optimiser.zero_grad()
        mean.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.step += 1
        value = parallel.sum_over(mean.detach()).item() / parallel.count()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is not finite at step {self.step}: lower the learning rate."
            )
        decay = min(settings.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                self.average[name].lerp_(p, 1 - decay)
        self.total += value

    def validate(self, loss: float) -> None:
        """Add an entry to the history, and keep the averaged weights if they are the best."""
        current = _weights(self.network)
        _load(self.network, self.average)
        validation = _mean_loss(self.network, self.held_back, self.loss)
        _load(self.network, current)
        if validation <= min((e["validation"] for e in self.history), default=math.inf):
            self.best = {name: w.clone() for name, w in self.average.items()}
        self.history.append({"step": self.step, "loss": loss, "validation": validation})
        self.total = 0.0

    def stalled(self, patience: int | None) -> bool:
        """Whether so many validations have passed since the lowest loss."""
        if patience is None or not self.history:
            return False
        losses = [entry["validation"] for entry in self.history]
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; process 0 writes, and the others wait until the file is there."""
        if parallel.rank() == 0:
            tensors: dict[str, Tensor] = {}
            for name, p in self.network.named_parameters():
                tensors[f"weight.{name}"] = p
                tensors[f"average.{name}"] = self.average[name]
                tensors[f"best.{name}"] = self.best[name]
                # A parameter that no output depends on has no moments.
                if moments := self.optimiser.state.get(p):
                    tensors[f"first.{name}"] = moments["exp_avg"]
                    tensors[f"second.{name}"] = moments["exp_avg_sq"]
            # JSON has no NaN, the loss before the first step.
            history = [{**e, "loss": e["loss"] if e["step"] else None} for e in self.history]
            header = {"step": self.step, "total": self.total, "history": history}
            checkpoint.write(tensors, header | {"settings": asdict(self.settings)})
        parallel.wait()
        self.saved = clock.monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint.

        Raises:
            ValueError: If it is of another run or of another network.
        """
        path, (tensors, header) = checkpoint.path, checkpoint.read()
        if header.get("settings") != asdict(self.settings):
            raise ValueError(
                f"{path} is no checkpoint of this run (its settings are "
                f"{header.get('settings')}): delete it, or train with the same settings."
            )
        self.step, self.total = header["step"], header["total"]
        self.history = [e if e["step"] else e | {"loss": math.nan} for e in header["history"]]
        for name, p in self.network.named_parameters():
            if f"weight.{name}" not in tensors or tensors[f"weight.{name}"].shape != p.shape:
                raise ValueError(f"{path} is a checkpoint of another network: delete it first.")
            with torch.no_grad():
                p.copy_(tensors[f"weight.{name}"])
            self.average[name] = tensors[f"average.{name}"].to(p)
            self.best[name] = tensors[f"best.{name}"].to(p)
            if f"first.{name}" in tensors:
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"first.{name}"].to(p, copy=True),
                    "exp_avg_sq": tensors[f"second.{name}"].to(p, copy=True),
                }


def _since(moment: float, seconds: float) -> bool:
    """Whether a moment is more than so many seconds ago, for all processes alike."""
    return parallel.agree(clock.monotonic() - moment > seconds)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def _load(network: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(weights[name])


def _rate(step: int, settings: Training) -> float:
    ramp = max(1, min(WARMUP, settings.training_steps // 10))
    fall = 0.5 * (1 + math.cos(math.pi * step / settings.training_steps))
    return settings.rate * min(1.0, (step + 1) / ramp) * fall


def _mean_loss(network: nn.Module, batch: Batch, loss: Loss) -> float:
    with torch.no_grad():
        parts = list(zip(*(part.split(HELD_CHUNK) for part in batch), strict=True))
        mine = [loss(network, *part).sum() for part in parts[parallel.rows(len(parts))]]
        total = torch.stack(mine).sum() if mine else batch[0].new_zeros(())
        return parallel.sum_over(total).item() / len(batch[0])


def _split(trajectories: Tensor, settings: Training) -> tuple[Tensor, Tensor]:
    """Training and validation part: whole series if there are several, else the end of the one."""
    series, length = trajectories.shape[:2]
    if settings.batch < parallel.count():
        raise ValueError(
            f"Got a batch of {settings.batch} for {parallel.count()} processes: each needs a "
            "segment."
        )
    if length < settings.segment:
        raise ValueError(
            f"Got trajectories of {length} states for segments of {settings.segment}: give longer "
            "trajectories or shorter segments."
        )
    if not torch.isfinite(trajectories).all():
        raise ValueError("Got trajectories that are not finite: remove or repair them.")
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
) -> Batch:
    """Segments, noise levels and noise of a step: a function of (key, step)."""
    size, (series, length) = batches * settings.batch, trajectories.shape[:2]
    generator = rng.at(key, step)
    which = torch.randint(series, (size,), generator=generator)
    start = torch.randint(length - settings.segment + 1, (size,), generator=generator)
    x0 = trajectories[which[:, None], start[:, None] + torch.arange(settings.segment)]
    # One uniform number, spread evenly: all noise levels are in every batch.
    u = (torch.arange(size) + torch.rand(1, generator=generator)) / size
    span = math.log(settings.max_noise / settings.min_noise)
    noise = torch.exp(math.log(settings.min_noise) + u * span)
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    if levels is not None:
        noise = levels(noise, tuple(x0.shape[1:]), generator)
    return x0, noise.to(x0), eps.to(x0)


def _held_back(validation: Tensor, settings: Training, levels: Levels | None) -> Batch:
    key = rng.key(rng.seeded(settings.seed + 1))
    return _batch(validation, settings, key, 0, levels, HELD_BATCHES)
