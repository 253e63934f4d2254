"""Headers of weights, stores and series with random damage: data, or one sentence, and no more.

Each case changes one entry of the JSON of a good file: to another type, to a number that is zero,
negative or huge, to something nested deeply, or it removes the entry. By hand, thousands:
``python tests/malformed/headers.py SEED COUNT``.
"""

from __future__ import annotations

import copy
import json
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from scorda import store
from scorda.core import rng
from scorda.core.files import read_tensors, write_tensors
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.guidance import DPS, InflatedLikelihood, SwitchedGuidance
from scorda.diffusion.samplers import Ancestral, Multistep
from scorda.methods.particle import ParticleFilter
from scorda.nn import build
from scorda.nn.residual import FEATURES, correction
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.priors.network import AmortisedNetwork, NetworkTraining
from scorda.priors.network.denoiser import Climate
from scorda.priors.network.prior import CONTEXT
from scorda.priors.trajectory import Standardisation, TrainedTrajectory, load
from scorda.store.series import read_series, simulate_series
from scorda.systems.lorenz import Lorenz96

ARCHITECTURES = [
    {"name": "temporal-conv", "channels": 6, "width": 8, "blocks": 1, "dilation": 1},
    {"name": "window-mlp", "channels": 6, "k": 1, "width": 8, "depth": 1},
    {"name": "modes", "size": 6, "modes": 4, "corrected": 2, "width": 8, "blocks": 1},
    {"name": "ring-conv", "channels": 1, "grid": [6], "width": 8, "blocks": 1},
    {"name": "unet", "channels": 2, "grid": [4, 4], "k": 1, "width": 8, "levels": 1, "blocks": 1},
]
NESTED = json.loads("[" * 200 + "]" * 200)
VALUES = [
    None, True, False, "text", "os:system", "../../etc/passwd", "", 0, 0.0, -1, -1.5, 1, 7, 10**6,
    10**9, 10**18, 10**400, 1e300, [], {}, [1], ["a"], [[]], {"name": "os:system"}, {"a": 1},
    [0] * 10**5, ["x"] * 1000, NESTED, "x" * 1000, "[1]", "{}",
]  # fmt: skip
# Bytes and seconds that a case may take.
MEMORY, SECONDS = 2 * 2**30, 60


def whole(folder: Path) -> None:
    """Write one good file of each kind."""
    warnings.simplefilter("ignore")
    line = StateSpace((6,), 0.5, ("t",), {"x": np.arange(6.0)}, {"x": 6.0}, {"t": "K"})
    axis = np.arange(4.0)
    land = np.arange(16).reshape(4, 4) != 5
    plane = StateSpace((2, 4, 4), 0.5, ("u", "v"), {"y": axis, "x": axis}, mask=land)
    guidance = SwitchedGuidance(DPS(), InflatedLikelihood(), 1.0)
    samplers = [Ancestral(), Multistep(), Ancestral(), Multistep(), Ancestral()]
    for sampler, architecture in zip(samplers, ARCHITECTURES, strict=True):
        space = plane if architecture["name"] == "unet" else line
        one = Standardisation(torch.zeros(space.shape), torch.ones(space.shape))
        prior = TrainedTrajectory(
            architecture, build(architecture), space, one, sampler=sampler,
            provenance={"system": {"name": "lorenz96"}, "history": []},
            limit=3.0, guidance=guidance,
        )  # fmt: skip
        prior.save(folder / f"{architecture['name']}.safetensors")
    training = NetworkTraining(width=8, blocks=1)
    weights = correction(6, (), 8, 1, FEATURES + CONTEXT).state_dict()
    climate = Climate(torch.zeros(1, 6), torch.ones(1, 6))
    AmortisedNetwork(
        None, Gaussian(GaspariCohn(2.0)), training, weights=weights, climate=climate,
        shape=(6,), axes=("x",),
    ).save(folder / "amortised.safetensors")  # fmt: skip
    system = Lorenz96(6, noise_std=0.5, spinup=0.5)
    truth, problem = twin_experiment(
        system, ObservationModel(Select([0, 2]), std=1.0), 4, 2, rng.seeded(0)
    )
    held = problem.instruments
    made = {"system": {"name": "lorenz96", "dim": "6"}}
    how = {"truth": truth, "withheld": held, "configuration": made}
    store.run(ParticleFilter(), problem, 30, folder / "run.zarr", **how)
    simulate_series(system, 3, 4, folder / "series.zarr", configuration=made)


def entries(content: object, at: tuple = ()) -> list[tuple]:
    """Return the place of every entry of JSON, also inside of texts that are JSON themselves."""
    inner = opened(content)
    if isinstance(inner, dict):
        below = inner.items()
    elif isinstance(inner, list):
        # All entries of a long list are alike.
        below = list(enumerate(inner))[:3]
    else:
        return [at]
    return [at, *(place for key, value in below for place in entries(value, (*at, key)))]


def opened(content: object) -> object:
    """Return what a text says that is JSON itself."""
    if isinstance(content, str) and content[:1] in ("{", "["):
        return json.loads(content)
    return content


def changed(content: object, at: tuple, value: object, remove: bool) -> object:
    """Return JSON with another value at a place, or without the place."""
    if not at:
        return value
    inner = copy.copy(opened(content))
    if remove and len(at) == 1:
        del inner[at[0]]
    else:
        inner[at[0]] = changed(inner[at[0]], at[1:], value, remove)
    return json.dumps(inner) if isinstance(content, str) else inner


def mutated(content: object, generator: np.random.Generator) -> tuple[object, str]:
    """Return JSON with one change, and what the change is."""
    places = [place for place in entries(content) if place]
    at = places[int(generator.integers(len(places)))]
    value, remove = VALUES[int(generator.integers(len(VALUES)))], not generator.integers(6)
    return changed(content, at, value, remove), f"{at}: {'gone' if remove else str(value)[:40]}"


def damaged_weights(source: Path, target: Path, generator: np.random.Generator) -> str:
    """Write weights with a change of the header, or of one of the tensors."""
    tensors, header = read_tensors(source)
    kind = generator.integers(5)
    name = sorted(tensors)[int(generator.integers(len(tensors)))]
    if kind:
        header, what = mutated(header, generator)
    elif generator.integers(2):
        what = f"{name} gone"
        del tensors[name]
    else:
        what = f"{name} of another shape or type"
        odd = [tensors[name][None], tensors[name].long(), tensors[name].flatten()[:1]]
        tensors[name] = odd[int(generator.integers(3))]
    write_tensors(target, tensors, header)
    return what


def damaged_store(source: Path, target: Path, generator: np.random.Generator) -> str:
    """Copy a store with a change of the metadata of one of its arrays or groups."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = sorted(target.rglob("zarr.json"))
    # Half of the cases are about the root, which has most to say.
    at = 0 if generator.integers(2) else int(generator.integers(len(files)))
    chosen = sorted(files, key=lambda p: len(p.parts))[at]
    content = json.loads(chosen.read_text())
    # Consolidated metadata are not read.
    content.pop("consolidated_metadata", None)
    content, what = mutated(content, generator)
    chosen.write_text(json.dumps(content))
    return f"{chosen.relative_to(target)} {what}"


def read_weights(path: Path) -> None:
    """Read weights as a run does."""
    if path.name.startswith("amortised"):
        AmortisedNetwork.load(path)
        return
    prior = load(path)
    assert prior.name
    states = torch.zeros(1, 2 * prior.half_width + 1, *prior.space.shape)
    prior.denoiser(states.shape[1]).denoise(states, torch.ones(()))


def read_store(path: Path) -> None:
    """Read all of a posterior, or of a store of series."""
    if path.name.startswith("series"):
        read_series(path)
        return
    posterior = store.open_posterior(path)
    made = [posterior.analysis, posterior.truth, posterior.configuration, posterior.smoother]
    for name in ("observations", "withheld"):
        table = posterior.group(name)
        made.append(None if table is None else table.load())


def run(folder: Path, first: int, last: int, seconds: float = 1e9) -> tuple[int, int, list[str]]:
    """Try the seeds first to last - 1; return how many, how many are refused, and failures."""
    good = folder / "good"
    if not good.exists():
        good.mkdir()
        whole(good)
    kinds = sorted(p for p in good.iterdir() if p.suffix in (".safetensors", ".zarr"))
    begin, tried, refused, failures = time.monotonic(), 0, 0, []
    for seed in range(first, last):
        if time.monotonic() - begin > seconds:
            break
        source, generator = kinds[seed % len(kinds)], np.random.default_rng(seed)
        damaged = damaged_weights if source.suffix == ".safetensors" else damaged_store
        what = damaged(source, folder / source.name, generator)
        before, start = peak(), time.monotonic()
        found, sentence = tell(folder / source.name)
        refused += sentence
        if peak() - before > MEMORY or time.monotonic() - start > SECONDS:
            found = f"{found} {peak() - before} bytes, {time.monotonic() - start:.0f} s"
        if found:
            failures.append(f"seed {seed}, {source.name}, {what}: {found}")
        tried += 1
    return tried, refused, failures


def tell(path: Path) -> tuple[str, bool]:
    """Read a file; return what is wrong with how that ended, and whether it was refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (read_weights if path.suffix == ".safetensors" else read_store)(path)
    except Exception as error:
        told = str(error)
        fine = type(error) in (ValueError, FileNotFoundError) and path.name in told
        short = "\n" not in told and len(told) < 900
        return "" if fine and short else f"{type(error).__name__}: {told[:300]}", True
    return "", False


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        begin, count = int(sys.argv[1]), int(sys.argv[2])
        *counts, failures = run(Path(made), begin, begin + count)
        print(*counts, *failures, sep="\n")
