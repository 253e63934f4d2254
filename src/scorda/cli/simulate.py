"""``scorda simulate``: a truth and observations of it, or many trajectories, as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress, reached
from scorda.cli.settings import SystemOptions, UserError, check_keys, plain, refuse, to_toml

if TYPE_CHECKING:
    from scorda.systems.base import System

__all__ = ["Simulate", "simulate"]

LENGTH = 64
# Settings that leave the files as they are.
UNWRITTEN = (
    "config", "system_options", "parameter", "bounded", "circular", "resume", "overwrite",
    "trust_code", "executor",
)  # fmt: skip


@dataclass
class Simulate:
    """Settings of a simulation."""

    series: int | None = None
    """Store this many trajectories for `scorda train --data` instead, at --out NAME.zarr."""

    length: int | None = None
    """States of each of --series (default: 64)."""

    resume: bool = False
    """Continue --series that were interrupted; mend what is damaged of complete ones."""

    trust_code: bool = False
    """With --resume: go on although your own code has changed, or its file is unknown."""

    overwrite: bool = False
    """Replace what is at --out."""

    steps: int = 128
    """Number of model steps."""

    every: int = 8
    """Steps between observations."""

    std: float = 1.0
    """Standard deviation of the error of observation."""

    law: str = "gaussian"
    """Law of the observed values, as `scorda assimilate --law` takes it; --std is its scale."""

    observe: list[str] = field(default_factory=list)
    """Variables to observe (default: all but parameters); repeat the flag for several."""

    stride: int = 1
    """Observe every n-th grid point along each axis."""

    stations: int | None = None
    """Observe this many random grid points instead."""

    start: str | None = None
    """Datetime of step 0 (ISO 8601), for tables with datetimes."""

    seed: int = 0
    """Seed of truth and errors."""

    dtype: str = "float32"
    """Precision: float32 or float64."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    executor: str | None = None
    """Workers for --series instead of threads: processes:4, threads:4, dask:tcp://host:8786,
    dask:cluster.toml, or your own as module:callable."""

    out: Path = Path("simulation")
    """Folder for truth.nc, observations.csv and simulate.toml; store of --series."""

    parameter: list[str] = field(default_factory=list)
    """Unknown parameter of the system and its prior, of which the truth has a draw, as
    rho=uniform:20,35, lognormal:8,0.2 or normal:28,3; or its value, as rho=28. ~0.01 behind it
    lets it walk at random, by that share of the prior's spread per step. Repeat the flag for
    several."""

    bounded: list[str] = field(default_factory=list)
    """Bounds of a variable of the system, which its states never leave, as humidity=0,1 or rain=0,
    without upper bound; model error is then of its logit, or log. Repeat the flag for several."""

    circular: list[str] = field(default_factory=list)
    """Circular variable of the system and its period, as direction=360, or both ends of a turn, as
    phase=-180,180. Repeat the flag for several."""

    system_options: SystemOptions = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def simulate(
    system: str = "lorenz63", *, settings: Annotated[Simulate | None, Parameter(name="*")] = None
) -> None:
    """Simulate a truth and observations of it, or trajectories to learn from.

    Arguments:
        system: Built-in system, or your own as module:object.
    """
    from scorda.cli.common import make_system, options_of, use_torch
    from scorda.core.engines import check_engine
    from scorda.core.lock import claimed

    given = settings or Simulate()
    threads = use_torch(given.dtype, given.threads)
    if given.executor is not None:
        check_engine(given.executor)
    model = make_system(system, options_of(given), values=given.series is None)
    named = {"name": system, **options_of(given)}
    if given.series is None:
        refuse(given, ("length", "resume", "trust_code", "executor"), "goes with --series only")
        reached().resumable = False
        with claimed(given.out):
            _simulate_twin(given, model, named)
        return
    unused = ("steps", "every", "std", "law", "observe", "stride", "stations", "start")
    refuse(given, unused, "--series has no use for: leave it out")
    _simulate_series(given, model, named, threads)


def _simulate_twin(given: Simulate, system: System, named: dict[str, Any]) -> None:
    """Write a truth, observations of it, and the settings that make them again."""
    import torch

    from scorda.cli.common import write_states
    from scorda.core import rng
    from scorda.core.files import atomic
    from scorda.core.lock import locked
    from scorda.core.ownership import check_output, toml_mark
    from scorda.observations.law_names import law_named
    from scorda.observations.model import ObservationModel
    from scorda.observations.operators import Select
    from scorda.observations.problem import twin_experiment

    states, table = given.out / "truth.nc", given.out / "observations.csv"
    settings = given.out / "simulate.toml"
    for file in (settings, states, table):
        check_output(file, given.overwrite, make_parents=True)
    twin, places = rng.spawn(rng.seeded(given.seed), 2)
    check_keys(given.observe, system.space.variables, "variable")
    check_start = getattr(system, "check_start", None)
    if given.start is not None and check_start is not None:
        check_start(given.start)
    if given.stride < 1:
        raise UserError(f"Got --stride {given.stride}: give at least 1.")
    operator = Select.stations(system.space, given.stations, places, given.observe, given.stride)
    law = law_named(given.law)
    model = ObservationModel(operator, torch.tensor(given.std) if law.scaled else None, law=law)
    truth, problem = twin_experiment(system, model, given.steps, given.every, twin)
    (observations,) = problem.instruments
    resolved = {key: plain(value) for key, value in vars(given).items() if key not in UNWRITTEN}
    text = toml_mark([states.name, table.name]) + to_toml(resolved | {"system": named})
    with locked(given.out):
        given.out.mkdir(parents=True, exist_ok=True)
        # First, since it says that the table, which has no place for a mark, is ours.
        with atomic(check_output(settings, given.overwrite)) as partial:
            partial.write_text(text, encoding="utf-8")
        write_states(states, truth, system.space, given.start)
        observations.to_table(table, system.space, given.start)
    values = observations.values.numel()
    console().print(
        f"{states}: {given.steps + 1} states of {named['name']}\n"
        f"{table}: {values} observations at {len(observations)} steps"
    )


def _simulate_series(given: Simulate, system: System, named: dict[str, Any], threads: int) -> None:
    from scorda.cli.workers import engine
    from scorda.store.series import simulate_series

    length = LENGTH if given.length is None else given.length
    assert given.series is not None
    with progress("simulating", "series") as update, engine(given.executor) as executor:
        simulate_series(
            system,
            given.series,
            length,
            given.out,
            given.seed,
            configuration={"system": named},
            resume=given.resume,
            overwrite=given.overwrite,
            trust_code=given.trust_code,
            threads=threads,
            progress=update,
            executor=executor,
        )
    console().print(f"{given.out}: {given.series} series of {length} states of {named['name']}")
