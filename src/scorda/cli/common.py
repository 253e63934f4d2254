"""Functions that several commands use: they read systems, states, observations, posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorda.cli.settings import UserError
from scorda.core import rng
from scorda.core.files import atomic
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import Start, parse_start, time_unit
from scorda.observations.analysis import Analysis
from scorda.observations.observations import Observations
from scorda.priors.trajectory import Prior
from scorda.systems.base import System
from scorda.systems.load import load_system

__all__ = [
    "check_scale",
    "make_system",
    "open_all",
    "read_observations",
    "read_states",
    "system_of",
    "use_torch",
    "withhold",
    "write_states",
]

# Standard deviations of a prior from its mean at which data are in other units.
FAR = 10.0


def use_torch(dtype: str, threads: int | None) -> int:
    """Set precision and number of threads of torch; returns the number of threads."""
    if dtype not in ("float32", "float64"):
        raise UserError(f"Got --dtype {dtype}: choose float32 or float64.")
    torch.set_default_dtype(getattr(torch, dtype))
    if threads is not None:
        if threads < 1:
            raise UserError(f"Got --threads {threads}: give at least 1.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def make_system(name: str, options: Mapping[str, Any]) -> System:
    """Return the system of that name with options given as text."""
    return load_system(name, **{k.replace("-", "_"): _value(v) for k, v in options.items()})


def system_of(path: Path, record: Mapping[str, Any], given: str | None) -> dict[str, Any]:
    """Return name and options of the system that a store names.

    Arguments:
        path: The store.
        record: Its configuration.
        given: System that the caller names. A store may come from somebody else: code of one's
            own is imported only where the caller names it too.

    Raises:
        UserError: If the store names no system, or code, or another system than the caller.
    """
    named = dict(record.get("system") or {})
    name = named.get("name", given)
    if name is None:
        raise UserError(f"{path} does not name its system: give --system.")
    if given is not None and given != name:
        raise UserError(f"Got --system {given}, but {path} is of {name}.")
    if ":" in name and given is None:
        raise UserError(f"{path} names code, {name}: give --system {name} if it is yours.")
    return named | {"name": name}


def read_observations(
    paths: Sequence[Path],
    space: StateSpace,
    start: str | None = None,
    tolerance: float | None = None,
    std: float | None = None,
    steps: int | None = None,
    variable: str | None = None,
) -> list[Observations]:
    """Read one instrument per file: a table (CSV, NetCDF), or fields with NaN (NetCDF, zarr)."""
    found = []
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no {path}: check the name after --observations.")
        if _holds_fields(path, space):
            if std is None:
                raise UserError(f"{path} holds fields: give --std, the error of their values.")
            found.append(
                Observations.from_array(
                    path, space, std, variable, start=start, tolerance=tolerance, steps=steps
                )
            )
        else:
            found.append(
                Observations.from_table(path, space, start, tolerance, std=std, steps=steps)
            )
    return found


def read_states(path: Path, space: StateSpace, steps: int) -> Float[Tensor, "time *state"]:
    """Read true states at steps 0 to `steps` from a NetCDF file with the space's variables."""
    import xarray

    if not path.is_file():
        raise UserError(f"There is no {path}: check the name after --truth.")
    try:
        opened = xarray.open_dataset(path, decode_timedelta=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no NetCDF file, which --truth has to be.") from error
    with opened as dataset:
        missing = [name for name in space.variables if name not in dataset]
        if missing:
            raise UserError(f"{path} has no {missing}: it needs {list(space.variables)}.")
        dims = ("time", *space.axes)
        arrays = [dataset[n].transpose(*dims).values[: steps + 1] for n in space.variables]
    states = np.stack(arrays, 1) if space.has_channels else arrays[0]
    if states.shape != (steps + 1, *space.shape):
        raise UserError(
            f"{path} has states of shape {states.shape}: {steps} steps of this system need "
            f"{(steps + 1, *space.shape)}."
        )
    return torch.from_numpy(states)


def write_states(
    path: Path, states: Float[Tensor, "time ..."], space: StateSpace, start: Start | None = None
) -> None:
    """Write states ``(time, *state)`` as a NetCDF file with CF attributes."""
    dataset = Analysis(states[None], space).to_xarray().isel(ensemble=0, drop=True)
    dataset.attrs.pop("method", None)
    if start is not None:
        since = np.datetime_as_string(parse_start(start), unit="s")
        dataset["time"].attrs = {
            "standard_name": "time",
            "units": f"{time_unit(space)} since {since}",
        }
    with atomic(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")


def withhold(
    observations: Sequence[Observations], share: float, seed: int
) -> tuple[list[Observations], list[Observations]]:
    """Split the present values at random into those to assimilate and those to score with."""
    if not 0 < share < 1:
        raise UserError(f"Got --withhold {share}: give a share between 0 and 1.")
    generator = rng.seeded(seed)
    kept, held = [], []
    for instrument in observations:
        draw = torch.rand(instrument.values.shape, generator=generator) < share
        nothing = torch.full_like(instrument.values, float("nan"))
        kept.append(replace(instrument, values=torch.where(draw, nothing, instrument.values)))
        held.append(replace(instrument, values=torch.where(draw, instrument.values, nothing)))
    if all(bool(o.values.isnan().all()) for o in held):
        raise UserError(f"--withhold {share} keeps back nothing of so few values: raise it.")
    return kept, held


def check_scale(observations: Observations, prior: Prior) -> None:
    """Refuse observations that are far from anything the prior has seen, as in other units."""
    last = max(int(s) for s in observations.steps)  # type: ignore[arg-type]
    scaled, space = prior.standardisation, prior.space
    if scaled.mean.ndim > len(space.shape):
        last = len(scaled.mean) - 1
    shape = (1, last + 1, *space.shape)
    mean = observations.predict(scaled.mean.expand(shape).to(observations.values))[0]
    std = observations.predict(scaled.std.expand(shape).to(observations.values))[0].abs()
    values = observations.values
    if ((values - mean).abs() / std).nanmedian() > FAR:
        given, usual = float(values.nanmedian()), float(mean.median())
        units = ", ".join(f"{n} in {space.units.get(n, 'its unit')}" for n in space.variables)
        raise UserError(
            f"The observed values, in the median {given:.4g}, are far from those of the prior, "
            f"in the median {usual:.4g}: give {units}, or a prior of such data."
        )


def open_all(paths: Sequence[Path]) -> dict[str, Any]:
    """Open posteriors, named by their method, or by their file where methods are repeated."""
    from scorda.store.posterior import open_posterior

    posteriors = [open_posterior(path) for path in paths]
    methods = [p.method for p in posteriors]
    names = [
        p.method if methods.count(p.method) == 1 else f"{p.method} ({p.path.stem})"
        for p in posteriors
    ]
    if len(set(names)) < len(names):
        names = [str(p.path) for p in posteriors]
    return dict(zip(names, posteriors, strict=True))


def _holds_fields(path: Path, space: StateSpace) -> bool:
    if path.is_dir():
        return True
    if path.suffix.lower() in (".csv", ".txt"):
        return False
    import xarray

    with xarray.open_dataset(path, decode_timedelta=False) as dataset:
        return any(
            name in dataset and dataset[name].ndim == 1 + len(space.axes) > 1
            for name in space.variables
        )


def _value(text: Any) -> Any:
    """Return the number, boolean or text that a string stands for."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
