"""``scorda assimilate``: from a file of observations to a stored posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator
    from scorda.store.posterior import Posterior

__all__ = ["TAKES_OPTIONS", "Assimilate", "assimilate"]

# Flags that are no settings below are options of the method.
TAKES_OPTIONS = True

# Settings that say where and how, not what: they leave the posterior as it is.
PLACE = ("out", "resume", "overwrite", "config", "system_options", "netcdf")
QUICK_MEMBERS = 16
# Steps from --start to the first observation that are likely a mistake, if the data span a tenth.
LATE = 100


@dataclass
class Assimilate:
    """Settings of a run."""

    observations: list[Path] = field(default_factory=list)
    """Tables (CSV or NetCDF), or fields with NaN (NetCDF or zarr); repeat the flag for several."""

    system: str | None = None
    """Built-in system, or your own as module:object; a trained prior needs none."""

    prior: str | None = None
    """Trained prior: a file of weights, or the name of a shipped one; for filters that make a
    prior of their ensemble, which one: `gaussian:localization=4`, or with parts in
    parentheses `"network-prior:axis=(y,x),local=(local-gaussian:localization=0.4,block=2)"`."""

    method: str = "enkf"
    """Method; `scorda methods` lists them, and `scorda methods NAME` its own options."""

    members: int = 40
    """Number of members."""

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

    truth: Path | None = None
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

    quick: bool = False
    """Try the settings: at most 16 members and the first tenth of the observed steps."""

    out: Path = Path("run.zarr")
    """Store to write; timings go to run.json beside it, these settings to run.toml."""

    netcdf: Path | None = None
    """Also write the posterior to this NetCDF file."""

    resume: bool = False
    """Continue a run that was interrupted."""

    overwrite: bool = False
    """Replace what is at --out."""

    system_options: dict[str, str] = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def assimilate(
    *,
    settings: Annotated[Assimilate | None, Parameter(name="*")] = None,
    **options: Annotated[str, Parameter(help="Any other flag is an option of the method.")],
) -> None:
    """Assimilate observations and store the posterior."""
    given = settings or Assimilate()
    options = {key.replace("_", "-").removeprefix("method."): v for key, v in options.items()}
    method = _method(given, options)
    posterior = _run(given, method)
    _tell(given, posterior)


def _method(given: Assimilate, options: Mapping[str, str]) -> Assimilator:
    """The method, once all settings are known to make sense."""
    from scorda.cli.catalogue import find_method, make_method, options_of
    from scorda.cli.common import use_torch
    from scorda.cli.settings import UserError, check_keys
    from scorda.priors.trajectory import Prior

    known = dict.fromkeys([*vars(given), *options_of(find_method(given.method))])
    flags = [name.replace("_", "-") for name in known]
    check_keys(options, flags, f"flag or option of {given.method}")
    if not given.observations:
        raise UserError("Give --observations, a file of observations.")
    if given.system is None and given.prior is None:
        raise UserError("Give --system, the model, or --prior, a trained prior.")
    if given.members < 1:
        raise UserError(f"Got --members {given.members}: give at least 1.")
    use_torch(given.dtype, given.threads)
    method = make_method(given.method, options, given.prior)
    if given.system is None and not isinstance(getattr(method, "prior", None), Prior):
        raise UserError(f"Give --system, the model: the method {given.method!r} needs one.")
    return method


def _run(given: Assimilate, method: Assimilator) -> Posterior:
    import torch

    from scorda import store
    from scorda.cli import common as run
    from scorda.cli.console import console, progress
    from scorda.cli.settings import UserError
    from scorda.core import rng
    from scorda.core.errors import RunError
    from scorda.observations.problem import Problem
    from scorda.priors.trajectory import Prior

    system: Any = getattr(method, "prior", None)
    if given.system is not None:
        system = run.make_system(given.system, given.system_options)
    observations = run.read_observations(
        given.observations,
        system.space,
        given.start,
        given.tolerance,
        given.std,
        given.steps,
        given.variable,
    )
    for instrument in observations:
        console().print(instrument.summary())
    steps, members = given.steps, given.members
    if steps is None:
        steps = max(int(o.steps[-1]) for o in observations)  # type: ignore[arg-type]
        first = min(int(o.steps[0]) for o in observations)  # type: ignore[arg-type]
        if given.start is not None and first > max(LATE, 10 * (steps - first)):
            raise UserError(
                f"The first observation is {first} steps after --start {given.start}: check it, "
                f"or give --steps {steps} if the run is to begin there."
            )
    if given.quick:
        observed = sorted({int(s) for o in observations for s in o.steps})  # type: ignore[arg-type]
        steps = min(steps, observed[max(len(observed) // 10, 1) - 1])
        members = min(members, QUICK_MEMBERS)
        observations = run.read_observations(
            given.observations,
            system.space,
            given.start,
            given.tolerance,
            given.std,
            steps,
            given.variable,
        )
    withheld: list[Any] = []
    if given.withhold is not None:
        observations, withheld = run.withhold(observations, given.withhold, given.withhold_seed)
    truth = None if given.truth is None else run.read_states(given.truth, system.space, steps)
    if given.start is not None and isinstance(getattr(method, "prior", None), Prior):
        # A prior with a daily cycle needs to know when the window begins.
        prior = method.prior.starting(given.start, steps + 1)  # type: ignore[attr-defined]
        method = replace(method, prior=prior)  # type: ignore[type-var]
    prior = getattr(method, "prior", None)
    if isinstance(prior, Prior) and prior.diurnal_mean is None:
        for instrument in observations:
            run.check_scale(instrument, prior)
    initial = None
    if given.device != "cpu":
        if not given.device.startswith("cuda"):
            raise UserError(f"Got --device {given.device}: choose cpu or cuda.")
        if not torch.cuda.is_available():
            raise UserError(f"Got --device {given.device}: this machine has no CUDA device.")
        initial = system.prior(members, rng.seeded(given.seed)).to(given.device)
    problem = Problem(system, observations, steps, initial)
    configuration = _resolved(given, method, steps, members)
    with progress(f"{given.method}, {members} members") as report:
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
                start=given.start,
                block=given.unit,
                progress=report,
            )
        except RunError:
            if given.out.exists():
                _write_settings(given.out, configuration)
            raise
    _write_settings(given.out, configuration)
    return posterior


def _write_settings(out: Path, configuration: Mapping[str, Any]) -> None:
    """Write the settings beside the store, as a file that makes the run again."""
    from scorda.cli.settings import to_toml
    from scorda.core.files import atomic

    with atomic(out.with_suffix(".toml")) as partial:
        shown = {k: v for k, v in configuration.items() if k != "sha256"}
        partial.write_text(to_toml(shown), encoding="utf-8")


def _resolved(given: Assimilate, method: Assimilator, steps: int, members: int) -> dict[str, Any]:
    """All settings that determine the posterior, defaults included."""
    import hashlib

    import torch

    from scorda.cli.settings import plain
    from scorda.priors.trajectory import Prior
    from scorda.store.units import settings_of

    record = {key: plain(value) for key, value in vars(given).items() if key not in PLACE}
    record |= {"steps": steps, "members": members, "threads": torch.get_num_threads()}
    record["system"] = {"name": given.system, **given.system_options} if given.system else None
    trained = isinstance(getattr(method, "prior", None), Prior)
    options = {k: v for k, v in settings_of(method).items() if not (trained and k == "prior")}
    record["method"] = {"name": given.method, **options}
    if not trained:
        # Among the settings of the method, where the default stands too.
        record["prior"] = None
    files = [*given.observations, *([given.truth] if given.truth else [])]
    files += [Path(given.prior)] if given.prior and trained else []
    record["sha256"] = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }
    return plain(record)


def _tell(given: Assimilate, posterior: Posterior) -> None:
    from scorda.cli.console import console, score_rows, table
    from scorda.store.scores import score_table

    if given.netcdf is not None:
        posterior.to_netcdf(given.netcdf)
    scores = score_table({posterior.method: posterior})
    uses = "all data" if posterior.smoother else "past data only"
    table(None, *score_rows({uses: scores}), left=2)
    console().print(f"posterior: {posterior.path}\nreport:    scorda report {posterior.path}")
