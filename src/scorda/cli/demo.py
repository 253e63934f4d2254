"""``scorda demo``: the shipped observations of Lorenz-63, several methods, one table, one page."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scorda.cli.console import console, progress, score_rows, table
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["Demo", "demo"]


@dataclass
class Demo:
    """Settings of the demo."""

    out: Path = Path("demo")
    """Folder for the posteriors and report.html."""

    members: int = 256
    """Members of each ensemble."""

    seed: int = 0
    """Seed of all methods."""

    quick: bool = False
    """Fewer members and particles: a look in seconds."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    resume: bool = False
    """Keep the posteriors that an earlier call has finished."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def demo(*, settings: Annotated[Demo | None, Parameter(name="*")] = None) -> None:
    """Assimilate the shipped observations of Lorenz-63 with several methods."""
    from importlib.resources import as_file, files

    from scorda import store
    from scorda.cli.common import read_observations, use_torch
    from scorda.core.ownership import check_output
    from scorda.core.threads import one_thread
    from scorda.observations.problem import Problem
    from scorda.reading.fields import read_states
    from scorda.report.html import write_report
    from scorda.store.scores import score_table
    from scorda.systems.lorenz import Lorenz63

    given = settings or Demo()
    if given.members < 1:
        raise UserError(f"Got --members {given.members}: give at least 1.")
    check_output(given.out / "report.html", overwrite=True, make_parents=True)
    threads = use_torch("float32", given.threads)
    out, system = console(), Lorenz63()
    with as_file(files("scorda").joinpath("data", "lorenz63")) as folder:
        observations = read_observations([str(folder / "observations.csv")], system.space)
        steps = int(observations[0].steps[-1])  # type: ignore[arg-type]
        truth, _ = read_states(folder / "truth.nc", system.space, steps)
    out.print(f"Lorenz-63, {steps} steps of {system.dt:g}: {observations[0].summary()}")
    problem = Problem(system, observations, steps)
    posteriors = {}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, (method, members) in _methods(given).items():
        path = given.out / f"{name.lower().replace(' ', '-')}.zarr"
        # Two threads on one small network would mostly wait for each other.
        alone = isinstance(method, store.MemberSampler)
        cores = ThreadPoolExecutor(threads) if alone and threads > 1 else None
        with progress(name) as report, cores or nullcontext(), one_thread():
            posteriors[name] = store.run(
                method,
                problem,
                members,
                path,
                given.seed,
                truth=truth,
                configuration={"command": "demo", "quick": given.quick},
                resume=given.resume,
                overwrite=not given.resume,
                progress=report,
                executor=cores,
            )
    references = [posteriors["Particle filter"], posteriors["Particle smoother"]]
    scores = score_table(posteriors, references)
    groups = {
        title: {n: scores[n] for n, p in posteriors.items() if p.smoother == smoother}
        for smoother, title in ((False, "past data only"), (True, "all data"))
    }
    table(None, *score_rows(groups), left=2)
    out.print("W1: distance to the particle filter (past data only) or smoother (all data);")
    out.print("in their own rows between two of their draws, the floor.")
    file = given.out / "report.html"
    page = write_report(posteriors, file, references, "Lorenz-63", scores=scores)
    out.print(f"report: {page}")


def _methods(given: Demo) -> dict[str, tuple[Assimilator, int]]:
    """Each method with its number of members; the particle methods serve as references."""
    from scorda.methods.enkf import EnKF
    from scorda.methods.enks import EnKS
    from scorda.methods.particle import ParticleFilter, ParticleSmoother
    from scorda.methods.sda import SDA
    from scorda.priors.trajectory import load

    members = min(given.members, 64) if given.quick else given.members
    prior = load("lorenz63")
    particles = 2**11 if given.quick else 2**14
    return {
        "EnKF": (EnKF(inflation=1.02), members),
        # Equal weights at every step, and twice the members: a reference of two draws.
        "Particle filter": (ParticleFilter(resample=1.0), 16 * members),
        "EnKS": (EnKS(inflation=1.02), members),
        "SDA": (SDA(prior), members),
        "Particle smoother": (ParticleSmoother(particles), 2 * members),
    }
