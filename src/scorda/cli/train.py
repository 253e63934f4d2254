"""``scorda train``: a prior of trajectories, from a system or from a record of fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress
from scorda.cli.learned import Report, from_fields, from_system
from scorda.cli.settings import SystemOptions, UserError, plain, refuse, to_toml

if TYPE_CHECKING:
    import torch

    from scorda.cli.training_files import TrainingFiles
    from scorda.core.shapes import Tensor
    from scorda.priors.trajectory import TrainedTrajectory
    from scorda.systems.base import System

__all__ = ["Train", "train"]

# Settings of a run that do not decide what is learned.
RUN = ("resume", "overwrite", "trust_code", "config", "minutes")
# Settings that came later: a record of a training without them stays as it is.
ONLY_IF_GIVEN = ("clock", "distil", "start_from", "periodic", "static")
QUICK_STEPS, QUICK_SERIES, QUICK_LENGTH = 20, 16, 100


@dataclass
class Train:
    """Settings of a training; what is left out has the default of the library."""

    system: str | None = None
    """System to simulate and learn: a built-in one, or your own as module:object."""

    data: str | None = None
    """Store of `scorda simulate --series`, or fields on regular times (NetCDF, zarr), instead;
    several files are one record, as "parts/*.nc" in quotes."""

    variable: list[str] = field(default_factory=list)
    """Variables of --data (default: all on time); repeat the flag for several."""

    since: str | None = None
    """First datetime of --data to use."""

    until: str | None = None
    """Last datetime of --data to use; a date alone means the whole day."""

    series_axis: str | None = None
    """Axis of --data along which its series are independent (default: series, trajectory, member
    or number, if there is one)."""

    missing: list[float] = field(default_factory=list)
    """Value that stands for what is missing in --data; repeat the flag for several."""

    periodic: list[str] = field(default_factory=list)
    """Axis of --data that closes, of equal steps, as those of a model on a periodic square do; a
    circle of longitudes closes by itself. Repeat the flag for several."""

    static: list[str] = field(default_factory=list)
    """Variable of --data without a time, such as the height of the ground or a mask of land, which
    the network of --architecture sees beside the states. Repeat the flag for several."""

    no_fill: bool = False
    """Refuse missing values of --data, instead of filling them by its own Gaussian law."""

    modes: int | None = None
    """Spatial patterns to keep of --data."""

    corrected: int | None = None
    """Leading patterns of --data that the network corrects."""

    clock: int | None = None
    """Harmonics of the year that the network of --data sees beside each state, so that it may
    learn a spread that has seasons (default: none)."""

    series: int | None = None
    """Trajectories of --system to simulate."""

    length: int | None = None
    """States of each simulated trajectory."""

    architecture: str | None = None
    """Network for --system: temporal-conv, window-mlp, ring-conv (one periodic axis), or unet
    (fields on two periodic axes); default: ring-conv of states on one, else temporal-conv. For
    --data: ring-conv or unet, for many fields whose law is alike at all places; default: spatial
    patterns, for some hundred fields."""

    transition: bool = False
    """Learn steps from state to state, for --system emulator, in place of trajectories; not by
    window-mlp, nor by unet of --data."""

    start_from: str | None = None
    """Prior with the same network whose weights are the first, for --system or --architecture: a
    shipped one, or a file of this command."""

    distil: int | None = None
    """Train the network of --start-from through so many steps of a sampler without corrections,
    for as few evaluations (16); its sizes and noise levels stay. With --system or its store."""

    half_width: int | None = None
    """Half-width of the windows of window-mlp and unet."""

    width: int | None = None
    """Hidden channels of the network."""

    blocks: int | None = None
    """Residual blocks of the network; of unet per level and direction."""

    levels: int | None = None
    """Grids of unet, each half as fine as the one before."""

    training_steps: int | None = None
    """Number of optimiser steps."""

    batch: int | None = None
    """Segments per step."""

    segment: int | None = None
    """States per segment (default of window-mlp and unet: their windows; of ring-conv 33; of
    --transition 2)."""

    rate: float | None = None
    """Highest learning rate."""

    min_noise: float | None = None
    """Smallest noise level, in standard deviations of the data."""

    max_noise: float | None = None
    """Largest noise level."""

    average: float | None = None
    """Decay of the moving average of the weights."""

    every: int | None = None
    """Steps between validations."""

    precision: str | None = None
    """Type of products and convolutions: float32, or bfloat16 if the processor has it."""

    half: bool = False
    """Keep the weights of --out in 16 bits, 11 of them significant: half of the file."""

    device: str = "cpu"
    """cpu or cuda; under torchrun each process takes a GPU of its own."""

    minutes: float | None = None
    """Stop at the first validation after so long, to be continued with --resume."""

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

    overwrite: bool = False
    """Replace a prior that is there."""

    trust_code: bool = False
    """With --resume: do not compare the code of a system of your own."""

    parameter: list[str] = field(default_factory=list)
    """Unknown parameter of the system and its prior, as rho=uniform:20,35, lognormal:8,0.2 or
    normal:28,3: the prior
    is then one of states and parameters. Repeat the flag for several."""

    bounded: list[str] = field(default_factory=list)
    """Bounds of a variable of the system or of the record, which no draw of the prior leaves, as
    humidity=0,1 or rain=0, without upper bound. Repeat the flag for several."""

    system_options: SystemOptions = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def train(*, settings: Annotated[Train | None, Parameter(name="*")] = None) -> None:
    """Train a prior on trajectories; with torchrun, in several processes together."""
    from scorda.diffusion import parallel

    given = settings or Train()
    with parallel.joined(given.device) as device:
        _train(given, device)


def _train(given: Train, device: torch.device) -> None:
    from scorda.cli.training_files import TrainingFiles
    from scorda.core.lock import claimed
    from scorda.core.ownership import check_output
    from scorda.diffusion import parallel

    _check(given)
    # Before the data are read.
    check_output(given.out.with_suffix(".toml"), overwrite=True, make_parents=True)
    files = TrainingFiles(given.out, {}, given.resume, given.overwrite)
    files.check_free()
    first = parallel.rank() == 0
    with claimed(given.out, files.seem_complete) if first else nullcontext():
        _train_alone(given, device, first)


def _train_alone(given: Train, device: torch.device, first: bool) -> None:
    """Train while no other run has the output, which the first process has locked."""
    from scorda.cli.common import use_torch
    from scorda.cli.training_files import TrainingFiles
    from scorda.core.lock import locked
    from scorda.diffusion import parallel
    from scorda.priors.trajectory import load

    if given.quick:
        given.training_steps, given.every = QUICK_STEPS, QUICK_STEPS // 2
        if given.data is None:
            given.series, given.length = QUICK_SERIES, QUICK_LENGTH
    use_torch("float32", given.threads)
    system, states = _simulated_or_stored(given)
    initial = None if given.start_from is None else load(given.start_from)
    record = _record(given, system, initial)
    files = TrainingFiles(given.out, record, given.resume, given.overwrite, given.trust_code)
    if files.complete():
        _say(f"prior: {given.out} is complete")
        return
    # All processes have looked at what is there.
    parallel.wait()
    with locked(given.out) if first else nullcontext():
        if first and (given.overwrite or not given.resume):
            files.checkpoint.remove()
        parallel.wait()
        with progress("training") as update:
            report = _reporter(given.training_steps, update)
            if system is None:
                prior = from_fields(given, files.checkpoint, report, device, initial)
            else:
                prior = from_system(
                    given, system, states, files.checkpoint, report, device, initial
                )
        if first:
            _finish(given, files, prior)


def _finish(given: Train, files: TrainingFiles, prior: TrainedTrajectory) -> None:
    """Write the settings and the weights; the checkpoint stays where more steps are to come."""
    from scorda.core.files import atomic
    from scorda.core.ownership import check_output, toml_mark

    done = prior.provenance["history"][-1]["step"]
    steps = prior.provenance["training"]["training_steps"]
    stopped = given.minutes is not None and done < steps
    with atomic(check_output(given.out.with_suffix(".toml"), overwrite=True)) as partial:
        partial.write_text(toml_mark() + to_toml(_settings(given)), encoding="utf-8")
    prior.save(given.out, {**files.record, "complete": not stopped}, given.half)
    _say(f"prior: {given.out}")
    if stopped:
        _say(f"stopped after step {done} of {steps}: continue with --resume")
    else:
        files.checkpoint.remove()


def _say(text: str) -> None:
    """Print a line, once for all processes."""
    from scorda.diffusion import parallel

    if parallel.rank() == 0:
        console().print(text)


def _check(given: Train) -> None:
    from scorda.store.series import holds_series

    # A store of trajectories may be of a system of one's own, which --system confirms.
    stored = given.data is not None and holds_series(given.data)
    if not stored and (given.system is None) == (given.data is None):
        raise UserError("Give either --system, to simulate, or --data, a file of fields.")
    if given.minutes is not None and not given.minutes >= 0:
        raise UserError(f"Got --minutes {given.minutes}: it must not be negative.")
    if given.out.suffix != ".safetensors":
        raise UserError(f"Got --out {given.out}: its name must end in .safetensors.")


def _reporter(steps: int | None, update: Callable[[int, int], None]) -> Report:
    """Print the losses of a validation, and move the bar of progress where its end is known."""

    def report(entry: dict[str, float]) -> None:
        if steps is not None:
            update(int(entry["step"]), steps)
        losses = f"loss {entry['loss']:.4f}, validation {entry['validation']:.4f}"
        console().print(f"step {entry['step']:.0f}: {losses}")
        if not math.isfinite(entry["validation"]):
            raise FloatingPointError("The training has diverged: lower --rate.")

    return report


def _settings(given: Train) -> dict[str, Any]:
    """The settings that decide the prior, which train it again as a TOML file."""
    from scorda.cli.common import options_of

    named = {
        k: plain(v)
        for k, v in vars(given).items()
        if k not in (*RUN, "system_options", "parameter", "bounded", *ONLY_IF_GIVEN)
    }
    named |= {k: getattr(given, k) for k in ONLY_IF_GIVEN if getattr(given, k)}
    if given.system is None and given.bounded:
        named["bounded"] = given.bounded
    if given.system is not None:
        named["system"] = {"name": given.system, **options_of(given)}
    return named


def _record(
    given: Train, system: System | None, initial: TrainedTrajectory | None
) -> dict[str, Any]:
    """All that decides the prior: settings, bytes of the data, code, version, threads."""
    import torch

    from scorda.cli.common import fingerprints
    from scorda.diffusion import parallel
    from scorda.store import records
    from scorda.store.identity import identity

    record = identity(system=system, initial=initial)
    if given.data is not None:
        record["sha256"] |= fingerprints([given.data])
    settings = {k: v for k, v in _settings(given).items() if k != "out"}
    # JSON has no NaN.
    settings["missing"] = [str(value) for value in given.missing]
    counts = {"threads": torch.get_num_threads(), "processes": parallel.count()}
    return records.plain(settings | counts | record)


def _simulated_or_stored(given: Train) -> tuple[System | None, Tensor | None]:
    """The system, and its stored trajectories if there are any; none of fields."""
    from scorda.cli.common import make_system, options_of
    from scorda.cli.trajectories import stored_trajectories
    from scorda.store.series import holds_series

    if given.data is None:
        return make_system(str(given.system), options_of(given)), None
    if not holds_series(given.data):
        return None, None
    refuse(given, ("series", "length"), "goes with --system only")
    own = "is not for stored trajectories, which have their own"
    refuse(given, ("parameter", "bounded"), own)
    return stored_trajectories(given.data, given.system, given.system_options)
