"""The command ``scorda assimilate`` makes a stored posterior of a file of observations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress, score_rows, table
from scorda.cli.continuing import check_continued, ending_of
from scorda.cli.keep import KeepFlags, keep_of
from scorda.cli.pose import pose, suited
from scorda.cli.posed import Posed
from scorda.cli.settings import plain

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from scorda.assimilation.base import Assimilator
    from scorda.store.posterior import Posterior

__all__ = ["Assimilate", "assimilate", "resolved"]

# Settings that say where and how, not what: they leave the posterior as it is.
PLACE = (
    "out", "resume", "overwrite", "trust_code", "config", "system_options", "parameter",
    "bounded", "circular", "netcdf",
)  # fmt: skip
WORKERS = ("executor", "shard", "members_per_task", "on_failure", "member_timeout")


@dataclass
class Assimilate(Posed):
    """Settings of a run."""

    continued: Annotated[str | None, Parameter(name="--continue")] = None
    """Store of a run of a filter to go on from: its last members, weights and what the method
    carries are those of step 0. System, method, seed and what was said of the observations are
    those of that run."""

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

    desroziers: bool | None = None
    """Also estimate the errors of each instrument, and of the forecast, from the innovations of a
    filter (Desroziers et al. 2005); the report draws them."""

    def check(self) -> None:
        """Refuse what makes no sense, and set up torch, before any code of a user is imported."""
        from scorda.cli.common import check_there
        from scorda.cli.workers import check_workers, launched
        from scorda.core.ownership import check_output

        if self.shard is None and (ranks := launched()) is not None:
            self.shard = f"{ranks[0]}/{ranks[1]}"
        check_continued(self)
        keep_of(self.keep)
        if self.netcdf is not None:
            check_output(self.netcdf, overwrite=True)
        check_workers(self)
        super().check()
        check_there([self.continued] if self.continued else [])


def assimilate(given: Assimilate, made: Callable[[], Any], prior: str | None) -> None:
    """Assimilate observations and store the posterior."""
    from scorda.cli.workers import engine, launched, tell_dropped
    from scorda.core.lock import claimed

    alone = given.shard is None and launched() is None
    begun = given.out.with_name(f".{given.out.name}.progress").exists()
    whole = given.resume and given.out.exists() and not begun
    with claimed(given.out, whole) if alone else nullcontext():
        method = made()
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
    from scorda.store.units import MemberSampler

    after = ending_of(given)
    posed = pose(given, method, None if after is None else len(after.ensemble))
    problem, truth, withheld, members = posed
    steps = problem.steps
    method = suited(given, method, steps)
    system = over_workers(given, problem.system, method, executor)
    problem = replace(problem, system=system)
    configuration = resolved(given, method, steps, members, prior)
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
                withheld=withheld,
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
                desroziers=bool(given.desroziers),
            )
        except RunError:
            if given.out.exists():
                common.write_settings(settings, written)
            raise
    if posterior.complete:
        common.write_settings(settings, written)
    return posterior


def resolved(
    given: Assimilate, method: Assimilator, steps: int, members: int, prior: str | None
) -> dict[str, Any]:
    """Return all settings that determine the posterior, defaults included."""
    import torch

    from scorda.cli.common import fingerprints, options_of
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
    record["system"] = {"name": given.system, **options_of(given)} if given.system else None
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
    from scorda.assimilation.innovations import sentences
    from scorda.store.consistency import errors_of
    from scorda.store.corrections import corrections_of
    from scorda.store.scores import score_table

    if given.netcdf is not None:
        posterior.to_netcdf(given.netcdf)
    scores = score_table({posterior.method: posterior})
    uses = "all data" if posterior.smoother else "past data only"
    table(None, *score_rows({uses: scores}), left=2)
    said = sentences(errors_of(posterior)) if given.desroziers else []
    for sentence in said + corrections_of(posterior):
        console().print(sentence)
    console().print(f"posterior: {given.out}\nreport:    scorda report {given.out}")
