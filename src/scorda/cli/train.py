"""``scorda train``: a prior of trajectories, from a system or from a file of states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from scorda.shapes import Float, Tensor
    from scorda.space import StateSpace

__all__ = ["Train", "train"]

QUICK_STEPS, QUICK_SERIES = 20, 16


@dataclass
class Train:
    """Settings of a training."""

    system: str | None = None
    """System to simulate: a built-in one, or your own as module:object."""

    data: Path | None = None
    """NetCDF file with states on regular times, instead of a system."""

    variable: list[str] = field(default_factory=list)
    """Variables of the file (default: all on time); repeat the flag for several."""

    series: int = 1024
    """Trajectories to simulate."""

    length: int = 257
    """States of each simulated trajectory."""

    architecture: str = "temporal-conv"
    """Network: temporal-conv or window-mlp."""

    width: int = 96
    """Channels of the network."""

    blocks: int = 4
    """Residual blocks, which set how far in time one state sees."""

    steps: int = 10_000
    """Optimiser steps."""

    batch: int = 64
    """Segments per step."""

    segment: int = 65
    """States per segment."""

    rate: float = 3e-3
    """Highest learning rate."""

    every: int = 1000
    """Steps between validations."""

    seed: int = 0
    """Seed of data, weights, batches and noise."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    quick: bool = False
    """A few steps on little data: shows that it runs."""

    out: Path = Path("prior.safetensors")
    """File of weights to write; a checkpoint is beside it while the training runs."""

    resume: bool = False
    """Continue a training that was interrupted."""

    system_options: dict[str, str] = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def train(*, settings: Annotated[Train | None, Parameter(name="*")] = None) -> None:
    """Train a prior on trajectories."""
    import torch

    from scorda.cli.console import console, progress
    from scorda.cli.run import use_torch
    from scorda.cli.settings import UserError, plain
    from scorda.nn import build
    from scorda.prior import TrajectoryPrior
    from scorda.space import Standardisation
    from scorda.train import Training, fit

    given = settings or Train()
    if (given.system is None) == (given.data is None):
        raise UserError("Give either --system, to simulate, or --data, a NetCDF file of states.")
    if given.quick:
        given.steps, given.every = QUICK_STEPS, QUICK_STEPS // 2
        given.series = min(given.series, QUICK_SERIES)
    use_torch("float32", given.threads)
    checkpoint = given.out.with_suffix(".checkpoint")
    if not given.resume:
        checkpoint.unlink(missing_ok=True)
    states, space = _states(given)
    standardisation = Standardisation.of(states, space)
    channels = space.shape[0] if space.has_channels else 1
    architecture = {"name": given.architecture, "channels": channels}
    architecture |= {"width": given.width, "blocks": given.blocks}
    torch.manual_seed(given.seed)
    network = build(architecture)
    names = ("steps", "batch", "segment", "rate", "every", "seed")
    training = Training(**{name: getattr(given, name) for name in names})
    out = console()

    def tell(update: Callable[[int, int], None]) -> Callable[[dict[str, float]], None]:
        def report(entry: dict[str, float]) -> None:
            update(int(entry["step"]), given.steps)
            losses = f"loss {entry['loss']:.4f}, validation {entry['validation']:.4f}"
            out.print(f"step {entry['step']:.0f}: {losses}")

        return report

    given.out.parent.mkdir(parents=True, exist_ok=True)
    with progress("training") as update:
        standard = standardisation.forward(states)
        history = fit(network, standard, training, checkpoint, tell(update))
    recipe = {k: plain(v) for k, v in vars(given).items() if k not in ("out", "resume", "config")}
    provenance: dict[str, Any] = {"recipe": plain(recipe), "history": history}
    prior = TrajectoryPrior(architecture, network, space, standardisation, provenance=provenance)
    prior.save(given.out)
    checkpoint.unlink(missing_ok=True)
    out.print(f"prior: {given.out}")


def _states(given: Train) -> tuple[Float[Tensor, "series time ..."], StateSpace]:
    """Trajectories ``(series, time, *state)`` and their space."""
    from scorda import rng
    from scorda.cli.run import make_system, read_fields

    if given.data is not None:
        states, space = read_fields(given.data, given.variable)
        return states[None], space
    assert given.system is not None
    system = make_system(given.system, given.system_options)
    start, error = rng.spawn(rng.seeded(given.seed), 2)
    first = system.prior(given.series, start)
    return system.trajectory(first, given.length - 1, error), system.space
