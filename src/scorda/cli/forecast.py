"""The command ``scorda forecast``: the last members of a stored run, moved on without data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from cyclopts import Parameter

from scorda.cli.console import console, progress
from scorda.cli.keep import KeepFlags, keep_of
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from scorda.store.posterior import Posterior

__all__ = ["Forecast", "forecast"]


@dataclass
class Forecast:
    """Settings of a forecast."""

    steps: int | None = None
    """Number of steps of the system, or of the prior that the run was made with."""

    system: str | None = None
    """System of the run, to be named again where it is your own, as module:object."""

    device: str = "cpu"
    """Device of the computation, such as cuda."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    unit: int | None = None
    """Steps, or members of a prior, per unit of work (default: from their size)."""

    keep: Annotated[KeepFlags | None, Parameter(name="--keep")] = None

    out: Path = Path("forecast.zarr")
    """Store to write, as that of `scorda assimilate`."""

    netcdf: Path | None = None
    """Also write the forecast to this NetCDF file."""

    resume: bool = False
    """Continue a forecast that was interrupted; mend what is damaged of one that is complete."""

    trust_code: bool = False
    """With --resume: go on although your own code has changed, or its file is unknown."""

    overwrite: bool = False
    """Replace the store at --out, if Scorda wrote it."""

    executor: str | None = None
    """Workers that advance the members, as of `scorda assimilate`."""

    members_per_task: int = 1
    """Members that a worker advances at once."""

    on_failure: str | None = None
    """If the model of a member fails: stop, retry:3 or drop (default: stop)."""

    member_timeout: float | None = None
    """Seconds that the model may take for one member and step; then it has failed."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    shard: ClassVar[None] = None

    def check(self, run: Path) -> None:
        """Refuse what makes no sense, before any code of a user is imported."""
        from scorda.cli.common import check_device, check_there
        from scorda.cli.workers import check_workers
        from scorda.core.ownership import check_output, real_path

        if self.steps is None or self.steps < 1:
            raise UserError("Give --steps, the number of steps of the forecast, at least 1.")
        check_there([run])
        if real_path(self.out) == real_path(run):
            raise UserError(f"Got --out {self.out}, which is the run to go on from: name another.")
        if self.netcdf is not None:
            check_output(self.netcdf, overwrite=True)
        keep_of(self.keep)
        check_workers(cast(Any, self))
        check_device(self.device)


def forecast(
    run: Path, *, settings: Annotated[Forecast | None, Parameter(name="*")] = None
) -> None:
    """Advance the last members of a stored run by its system, and store them.

    Arguments:
        run: Store of a run, such as run.zarr.
    """
    from scorda.cli.workers import engine, tell_dropped
    from scorda.core.lock import claimed

    given = settings or Forecast()
    given.check(run)
    with claimed(given.out), engine(given.executor) as executor:
        found = _forecast(given, run, executor)
    tell_dropped(found)
    if given.netcdf is not None:
        found.to_netcdf(given.netcdf)
    console().print(f"forecast: {given.out}")


def _forecast(given: Forecast, path: Path, executor: Executor | None) -> Posterior:
    import torch

    from scorda import store
    from scorda.assimilation.free import Forecast as Free
    from scorda.cli import common
    from scorda.cli.workers import over_workers
    from scorda.priors.trajectory import load
    from scorda.store.forecasting import forecast as made

    before = store.open_posterior(path)
    configuration = before.configuration
    common.use_torch(str(configuration.get("dtype", "float32")), given.threads)
    prior = (configuration.get("method") or {}).get("prior")
    named: dict[str, Any] = {}
    if given.system is None and not configuration.get("system") and isinstance(prior, str):
        system: Any = load(prior)
    else:
        named = common.system_of(path, configuration, given.system)
        options = {k: v for k, v in named.items() if k != "name"}
        system = common.make_system(str(named["name"]), options)
        system = over_workers(cast(Any, given), system, Free(), executor)
    keep = keep_of(given.keep)
    record = {
        "run": str(path),
        "steps": given.steps,
        "unit": given.unit,
        "threads": torch.get_num_threads(),
        "device": given.device,
        "keep": None if keep is None else asdict(keep),
    }
    settings = common.settings_file(given.out)
    with progress(f"forecast, {given.steps} steps") as report:
        found = made(
            before,
            system,
            cast(int, given.steps),
            given.out,
            configuration={**record, "system": named or None},
            resume=given.resume,
            overwrite=given.overwrite,
            trust_code=given.trust_code,
            block=given.unit,
            progress=report,
            executor=executor,
            keep=keep,
            device=given.device,
        )
    common.write_settings(settings, record | ({"system": given.system} if given.system else {}))
    return found
