"""The command ``scorda assimilate`` makes a stored posterior of a file of observations."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress, score_rows, table
from scorda.cli.continuing import check_continued, ending_of
from scorda.cli.keep import KeepFlags, keep_of
from scorda.cli.observed import limit_of, observed
from scorda.cli.settings import SystemOptions, UserError, plain

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from scorda.assimilation.base import Assimilator
    from scorda.core.shapes import Tensor
    from scorda.observations.observations import Observations
    from scorda.store.posterior import Posterior

__all__ = ["Assimilate", "assimilate"]

# Settings that say where and how, not what: they leave the posterior as it is.
PLACE = ("out", "resume", "overwrite", "trust_code", "config", "system_options", "netcdf")
WORKERS = ("executor", "shard", "members_per_task", "on_failure", "member_timeout")
MEMBERS, QUICK_MEMBERS = 40, 16


@dataclass
class Assimilate:
    """Settings of a run."""

    observations: list[str] = field(default_factory=list)
    """Tables (CSV or NetCDF), or fields with NaN (NetCDF or zarr); repeat the flag for several."""

    system: str | None = None
    """Built-in system, or your own as module:object; a trained prior needs none."""

    method: str = "enkf"
    """Method: one that `scorda methods` lists, or your own as module:Class. Its settings, which
    `scorda methods NAME` explains, are flags too."""

    members: int | None = None
    """Number of members (default: those of --initial, or 40)."""

    initial: str | None = None
    """Members at step 0 instead of draws of the system: fields with an axis of members (NetCDF or
    zarr), also a posterior, at the datetime of --start or at step 0."""

    continued: Annotated[str | None, Parameter(name="--continue")] = None
    """Store of a run of a filter to go on from: its last members, weights and what the method
    carries are those of step 0. System, method, seed and what was said of the observations are
    those of that run."""

    steps: int | None = None
    """Number of model steps (default: up to the last observation)."""

    start: str | None = None
    """Datetime of step 0 (ISO 8601), where the observations have datetimes."""

    tolerance: float | None = None
    """Largest distance of an observation from its step in time (default: half a step)."""

    std: float | None = None
    """Error of observations that have none in their file."""

    variable: str | None = None
    """Variable that fields of observations hold, where the system has several."""

    units: list[str] = field(default_factory=list)
    """Unit of a variable in tables that do not say, as t2m=degC; repeat the flag for several."""

    missing: list[float] = field(default_factory=list)
    """Value that stands for a missing one, as -9999; repeat the flag for several."""

    nearest: float | None = None
    """Observe the nearest point of the grid to a position of a table, up to this distance (km on
    the globe), instead of interpolating."""

    gross_error_check: str = "10"
    """Standard deviations of its variable's climate beyond which a value is left out, or "off";
    the climate is that of the prior, or of first states. A filter's own check of innovations is
    --method.gross-error-check."""

    truth: str | None = None
    """NetCDF file of the truth, where there is one, for scores."""

    withhold: float | None = None
    """Share of the observations to keep back, and to score with."""

    withhold_seed: int = 0
    """Seed of which observations are kept back."""

    seed: int = 0
    """Seed of the run."""

    dtype: str = "float32"
    """Precision: float32 or float64."""

    device: str = "cpu"
    """Device of the computation, such as cuda."""

    threads: int | None = None
    """Number of threads (default: all cores); part of what determines the last bits."""

    unit: int | None = None
    """Steps (filters) or members (smoothers) per unit of work (default: from their size)."""

    keep: Annotated[KeepFlags | None, Parameter(name="--keep")] = None

    quick: bool = False
    """Try the settings: at most 16 members and the first tenth of the observed steps."""

    out: Path = Path("run.zarr")
    """Store to write; timings and checksums go to run.zarr.json beside it, these settings to
    run.zarr.toml."""

    netcdf: Path | None = None
    """Also write the posterior to this NetCDF file."""

    resume: bool = False
    """Continue a run that was interrupted; mend what is damaged of one that is complete."""

    trust_code: bool = False
    """With --resume: go on although your own code has changed, or its file is unknown."""

    overwrite: bool = False
    """Replace the store at --out, if Scorda wrote it."""

    executor: str | None = None
    """Workers: processes:4, threads:4, dask:tcp://host:8786, dask:cluster.toml, or your own as
    module:callable. They do units of a smoother, or the forecasts of the members of a filter."""

    shard: str | None = None
    """Do units of --out beside other processes: 0/8 to 7/8 for eight that are started with the
    same settings. For smoothers whose members are independent (sda)."""

    members_per_task: int = 1
    """Members that a worker advances at once, in the forecasts of --executor."""

    on_failure: str | None = None
    """If the model of a member fails: stop; retry:3, so many times; or drop, which leaves the
    member out from then on (default: stop)."""

    member_timeout: float | None = None
    """Seconds that the model may take for one member and step; then it has failed."""

    system_options: SystemOptions = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    def check(self) -> None:
        """Refuse what makes no sense, and set up torch, before any code of a user is imported."""
        from scorda.cli.common import check_device, check_system, check_there, units_of, use_torch
        from scorda.cli.workers import check_workers, launched
        from scorda.core.ownership import check_output

        if self.shard is None and (ranks := launched()) is not None:
            self.shard = f"{ranks[0]}/{ranks[1]}"
        if not self.observations:
            raise UserError("Give --observations, a file of observations.")
        if self.members is not None and self.members < 1:
            raise UserError(f"Got --members {self.members}: give at least 1.")
        if self.withhold is not None and not 0 < self.withhold < 1:
            raise UserError(f"Got --withhold {self.withhold}: give a share between 0 and 1.")
        check_continued(self)
        keep_of(self.keep)
        if self.netcdf is not None:
            check_output(self.netcdf, overwrite=True)
        check_workers(self)
        use_torch(self.dtype, self.threads)
        units_of(self.units)
        limit_of(self)
        check_device(self.device)
        check_system(self.system)
        more = [self.truth, self.initial, self.continued]
        check_there([*self.observations, *filter(None, more)])


def assimilate(given: Assimilate, method: Any, prior: str | None) -> None:
    """Assimilate observations and store the posterior."""
    from scorda.cli.workers import engine, launched, tell_dropped
    from scorda.core.lock import claimed

    alone = given.shard is None and launched() is None
    with claimed(given.out) if alone else nullcontext():
        given.check()
        with engine(given.executor) as executor:
            posterior = _run(given, method, prior, executor)
    if posterior.complete:
        tell_dropped(posterior)
        _tell(given, posterior)
    else:
        console().print(f"{given.out}: other processes are at work on the units that are left.")


def _run(
    given: Assimilate, method: Assimilator, prior: str | None, executor: Executor | None
) -> Posterior:
    """Run the method on what the files say, and write the settings beside the store."""
    from scorda import store
    from scorda.cli import common
    from scorda.cli.workers import over_workers, shard_of
    from scorda.core.errors import RunError
    from scorda.observations.problem import Problem
    from scorda.store.units import MemberSampler
    from scorda.systems.base import System

    system, after = _system(given, method), ending_of(given)
    observations, steps = observed(given, system)
    withheld: list[Observations] = []
    if given.withhold is not None:
        observations, withheld = common.withhold(observations, given.withhold, given.withhold_seed)
    truth = _truth(given, system, steps)
    if truth is not None and isinstance(system, System):
        system = system.apart_from(truth[0])
    method = _suited(given, method, steps)
    initial, members = _initial(given, system) if after is None else (None, len(after.ensemble))
    system = over_workers(given, system, method, executor)
    problem = Problem(system, observations, steps, initial)
    configuration = _resolved(given, method, steps, members, prior)
    settings, written = common.settings_file(given.out), configuration | _workers(given)
    unit = "member" if isinstance(method, MemberSampler) else "step"
    with progress(f"{given.method}, {members} members", unit) as report:
        try:
            posterior = store.run(
                method,
                problem,
                members,
                given.out,
                given.seed,
                truth=truth,
                withheld=tuple(withheld),
                configuration=configuration,
                resume=given.resume,
                overwrite=given.overwrite,
                trust_code=given.trust_code,
                start=given.start,
                block=given.unit,
                progress=report,
                executor=executor,
                shard=None if given.shard is None else shard_of(given.shard),
                keep=keep_of(given.keep),
                after=after,
            )
        except RunError:
            if given.out.exists():
                common.write_settings(settings, written)
            raise
    if posterior.complete:
        common.write_settings(settings, written)
    return posterior


def _truth(given: Assimilate, system: Any, steps: int) -> Tensor | None:
    """Return the true states, aligned by their labels, where there are some."""
    from scorda.reading.fields import read_states

    if given.truth is None:
        return None
    truth, notes = read_states(given.truth, system.space, steps, given.start)
    for note in notes:
        console().print(f"truth: {note}")
    limit = limit_of(given)
    if limit is not None and given.system is None:
        _check_truth(truth, system, given.truth, limit)
    return truth


def _check_truth(truth: Tensor, system: Any, path: str, limit: float) -> None:
    """Refuse a truth of which a variable is, in the median, far from the climate of the prior."""
    from scorda.cli.common import climate_of

    for name, (mean, std) in climate_of(system).items():
        median = float(system.space.field(truth, name).nanmedian())
        if abs(median - mean) > limit * std:
            raise UserError(
                f"{path} has {name} of {median:.4g} in the median, far from {mean:.4g} of the "
                f"prior: give it in {system.space.units.get(name, 'its unit')}, and say so."
            )


def _system(given: Assimilate, method: Assimilator) -> Any:
    """Return the system, or the trained prior in its place."""
    from scorda.cli.common import make_system
    from scorda.priors.trajectory import Prior

    if given.system is not None:
        return make_system(given.system, given.system_options)
    prior = getattr(method, "prior", None)
    if not isinstance(prior, Prior):
        raise UserError(f"Give --system, the model: the method {given.method!r} needs one.")
    return prior


def _suited(given: Assimilate, method: Assimilator, steps: int) -> Assimilator:
    """Give a trained prior its device and its dates: of a daily cycle it has to know the begin."""
    from scorda.cli.workers import device_of
    from scorda.priors.trajectory import Prior

    prior = getattr(method, "prior", None)
    if not isinstance(prior, Prior):
        return method
    prior = prior.to(device_of(given.device))
    if given.start is not None:
        prior = prior.starting(given.start, steps + 1)
    return replace(method, prior=prior)  # type: ignore[type-var]


def _initial(given: Assimilate, system: Any) -> tuple[Tensor | None, int]:
    """Return the members at step 0, None where the system draws them, and their number.

    They are on the device that is given, where the run then stays.
    """
    import torch

    from scorda.cli.workers import device_of
    from scorda.core import rng
    from scorda.reading.ensembles import read_initial

    initial, found = None, MEMBERS
    if given.initial is not None:
        if given.system is None:
            raise UserError(
                "Got --initial for a trained prior, which draws the first state itself."
            )
        initial, notes = read_initial(given.initial, system.space, given.start)
        initial, found = initial.to(torch.get_default_dtype()), len(initial)
        for note in (*notes, f"{found} members"):
            console().print(f"initial: {note}")
    members = found if given.members is None else given.members
    if given.quick:
        members = min(members, QUICK_MEMBERS)
        initial = None if initial is None else initial[:members]
    if initial is None and given.system is not None and given.device != "cpu":
        initial = system.prior(members, rng.seeded(given.seed))
    return None if initial is None else initial.to(device_of(given.device)), members


def _resolved(
    given: Assimilate, method: Assimilator, steps: int, members: int, prior: str | None
) -> dict[str, Any]:
    """Return all settings that determine the posterior, defaults included."""
    import torch

    from scorda.cli.common import fingerprints
    from scorda.priors.network.amortised import AmortisedNetwork
    from scorda.priors.trajectory import Prior
    from scorda.store.records import settings_of

    record = {
        key: plain(value) for key, value in vars(given).items() if key not in PLACE + WORKERS
    }
    record |= {"steps": steps, "members": members, "threads": torch.get_num_threads()}
    keep = keep_of(given.keep)
    if (before := record.pop("continued")) is not None:
        record |= {"continue": before, "start": None}
    record["keep"] = None if keep is None else asdict(keep)
    record["system"] = {"name": given.system, **given.system_options} if given.system else None
    options = settings_of(method)
    files = [*given.observations, *filter(None, (given.truth, given.initial))]
    trained = isinstance(getattr(method, "prior", None), Prior | AmortisedNetwork)
    if prior is not None and trained:
        # By its name: its weights are no settings.
        options["prior"] = prior
        files.append(prior)
    record["method"] = {"name": given.method, **options}
    record["sha256"] = fingerprints(files)
    return plain(record)


def _workers(given: Assimilate) -> dict[str, Any]:
    """Return the settings of workers that are given, but for the shard, of which each has its own.

    They are not part of the store: they decide nothing unless a model fails.
    """
    usual = Assimilate()
    return {
        n: v for n in WORKERS if n != "shard" and (v := getattr(given, n)) != getattr(usual, n)
    }


def _tell(given: Assimilate, posterior: Posterior) -> None:
    from scorda.store.scores import score_table

    if given.netcdf is not None:
        posterior.to_netcdf(given.netcdf)
    scores = score_table({posterior.method: posterior})
    uses = "all data" if posterior.smoother else "past data only"
    table(None, *score_rows({uses: scores}), left=2)
    console().print(f"posterior: {given.out}\nreport:    scorda report {given.out}")
