"""Functions that several commands use: they read systems, states, observations, posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any, cast

import torch

from scorda.cli.bounds import bounds_of, circles_of
from scorda.cli.endings import is_meant
from scorda.cli.parameters import with_parameters
from scorda.cli.settings import UserError, to_toml
from scorda.core import rng
from scorda.core.calendars import Start
from scorda.core.files import atomic, write_netcdf
from scorda.core.fingerprint import fingerprint
from scorda.core.ownership import made_by_scorda, real_path, toml_mark
from scorda.core.plugins import is_code
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.observations import Observations
from scorda.observations.repeated import without_repeated
from scorda.observations.rows import How
from scorda.priors.trajectory import Prior
from scorda.reading.columns import is_text_table
from scorda.reading.fields import present_variables
from scorda.systems.base import System
from scorda.systems.load import check_known, load_system

__all__ = [
    "check_device",
    "check_system",
    "check_there",
    "climate_of",
    "fingerprints",
    "make_system",
    "open_all",
    "options_of",
    "read_observations",
    "settings_file",
    "system_of",
    "units_of",
    "use_torch",
    "write_settings",
    "write_states",
]


# Flags that give variables a transform.
TRANSFORMS = {"bounded": bounds_of, "circular": circles_of}


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


def fingerprints(names: Sequence[str]) -> dict[str, str]:
    """Return the fingerprint of each file and folder of names as they are read, with ``*``."""
    paths = [path for name in names for path in (sorted(glob(name)) if "*" in name else [name])]
    return {path: fingerprint(path) for path in paths if Path(path).exists()}


def options_of(given: Any) -> dict[str, Any]:
    """Return the options of the system of a command's settings, and what it knows of variables."""
    lists = {name: getattr(given, name, []) for name in ("parameter", *TRANSFORMS)}
    return {**given.system_options, **{name: texts for name, texts in lists.items() if texts}}


def make_system(name: str, options: Mapping[str, Any], values: bool = False) -> System:
    """Return the system of that name with options given as text, with parameters and bounds.

    Arguments:
        name: Name of the system.
        options: Its options; a list ``parameter`` has its parameters (`with_parameters`), a list
            ``bounded`` the bounds of variables (`bounds_of`), a list ``circular`` those that have
            a period (`circles_of`).
        values: Whether a parameter may have a value in place of a prior, as a truth may.

    Raises:
        UserError: If an option is no number where its default is one, or makes no system, or a
            parameter or bounds do not fit.
    """
    options = dict(options)
    if isinstance(options.get("parameter"), list):
        parameters = options.pop("parameter")
        return with_parameters(make_system(name, options), parameters, values)
    for flag, transforms_of in TRANSFORMS.items():
        if isinstance(options.get(flag), list):
            transforms = transforms_of(options.pop(flag))
            system = make_system(name, options)
            if flag == "bounded" and (both := transforms.keys() & system.space.circular.keys()):
                raise UserError(
                    f"Got --bounded and --circular of {', '.join(sorted(both))}: a circular "
                    "variable has no bounds, so leave one of them out."
                )
            try:
                return system.with_transforms(transforms)
            except ValueError as error:
                raise UserError(f"--{flag}: {error}") from error
    given = {k.replace("-", "_"): _value(v) for k, v in options.items()}
    try:
        system = load_system(name, **given)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        if is_meant(error) or ":" in name:
            raise
        raise UserError(f"The options {given} make no {name} ({error}): change them.") from error
    usual: dict[str, Any] = {}
    if is_dataclass(system):
        usual = {field.name: field.default for field in fields(system)}
    for key, value in given.items():
        number = isinstance(usual.get(key), int | float) and not isinstance(usual[key], bool)
        if number and (not isinstance(value, int | float) or value != value):
            raise UserError(f"Got --system.{key} {value}: give a number.")
    changed, made = _as_floats(given, usual), cast(Any, system)
    return replace(made, **changed) if changed else system


def _as_floats(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, float]:
    """Return the whole numbers that stand for others: some are too large for a tensor."""
    whole = {key: value for key, value in given.items() if type(value) is int}
    try:
        return {key: float(v) for key, v in whole.items() if type(usual.get(key)) is float}
    except OverflowError as error:
        raise UserError(f"Got {whole}: give numbers below 1e308.") from error


def settings_file(out: Path) -> Path:
    """Return the file of the settings beside the store, ``run.zarr.toml`` of ``run.zarr``.

    Raises:
        UserError: If there is one that Scorda did not write.
    """
    real = real_path(out)
    file = real.with_name(f"{real.name}.toml")
    if file.exists() and not made_by_scorda(file):
        raise UserError(
            f"{file} is to hold the settings of the run, but is none of Scorda's or has lost its "
            "mark: move it away."
        )
    return file


def write_settings(file: Path, configuration: Mapping[str, Any]) -> None:
    """Write the settings as a file that makes the run again; one that says so already stays."""
    shown = {k: v for k, v in configuration.items() if k != "sha256"}
    text = toml_mark() + to_toml(shown)
    if file.exists() and file.read_bytes() == text.encode():
        return
    with atomic(file) as partial:
        partial.write_text(text, encoding="utf-8")


def check_device(device: str) -> None:
    """Check that this machine has a device."""
    if device != "cpu" and not device.startswith("cuda"):
        raise UserError(f"Got --device {device}: choose cpu or cuda.")
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"Got --device {device}: this machine has no CUDA device.")


def check_system(name: str | None) -> None:
    """Check that there is a system of that name; code is not imported yet."""
    if name is not None:
        check_known(name)


def check_there(paths: Sequence[str | Path]) -> None:
    """Check that files are there, as far as their names say which they are."""
    for path in map(str, paths):
        if "://" not in path and "*" not in path and not Path(path).exists():
            raise UserError(f"There is no file or store {path}: check the path.")


def system_of(path: str | Path, record: Mapping[str, Any], given: str | None) -> dict[str, Any]:
    """Return name and options of the system that a store names.

    Arguments:
        path: The store.
        record: Its configuration.
        given: System that the caller names. A store may come from somebody else: what it names
            is built in or announced, and code is imported only where the caller names it.

    Raises:
        UserError: If the store names no system, or code, or another system than the caller.
    """
    named = record.get("system") or {}
    if not isinstance(named, Mapping):
        raise UserError(f"{path} has no name and options of a system, but {named!r}.")
    name = named.get("name", given)
    if name is None:
        raise UserError(f"{path} does not name its system: give --system.")
    if given is not None and given != name:
        raise UserError(f"Got --system {given}, but {path} is of {name}.")
    if not isinstance(name, str):
        raise UserError(f"{path} names its system {name!r}, which is no text.")
    if is_code(name) and given is None:
        raise UserError(f"{path} names code, {name}: give --system {name} if it is yours.")
    check_known(name)
    return {**named, "name": name}


def read_observations(
    paths: Sequence[str],
    space: StateSpace,
    start: str | None = None,
    tolerance: float | None = None,
    std: float | None = None,
    steps: int | None = None,
    variable: str | None = None,
    **how: Any,
) -> list[Observations]:
    """Read one instrument per file and variable: a table, or fields with NaN (NetCDF, zarr).

    Of fields, all variables of the space are read that a file holds, unless one is asked for. A
    report that two files have counts once.
    """
    found = []
    for path in paths:
        names = [] if is_text_table(path) else present_variables(path, space)
        if not names:
            found += Observations.by_period(path, space, start, tolerance, std, steps, **how)
            continue
        fields = {k: v for k, v in how.items() if k != "units"}
        for name in [variable] if variable else names:
            if std is None and How(law=how.get("law")).law_of(name).scaled:
                raise UserError(f"{path} holds fields: give --std, the error of their values.")
            found.append(
                Observations.from_array(
                    path, space, std or 1.0, name, None, start, tolerance, steps, **fields
                )
            )
    return without_repeated(found, space) if len(paths) > 1 else found


def climate_of(system: Any, members: int = 64) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of each variable, of a trained prior or first states.

    Those of a trained prior are of its record. Those of a system are of draws of its first state,
    over all points. There are none of circular variables.
    """
    if isinstance(system, Prior):
        scaled, mean = system.standardisation, system.diurnal_mean
        mean = scaled.mean if mean is None else mean
        shape = (-1, *system.space.shape)
        means = mean.expand(torch.broadcast_shapes(mean.shape, system.space.shape)).reshape(shape)
        stds = scaled.std.expand(system.space.shape)
        if system.annual is not None:
            # A wave has half of its square as variance.
            stds = (stds.square() + system.annual.square().sum(0) / 2).sqrt()
        stds = stds.reshape(shape)
    else:
        means = system.prior(members, rng.seeded(0))
        stds = torch.zeros_like(means[:1])
    found = {}
    for name in (n for n in system.space.variables if n not in system.space.circular):
        values, spread = (system.space.field(x, name).double() for x in (means, stds))
        var = values.var(correction=0) + spread.square().mean()
        found[name] = float(values.mean()), float(var.sqrt())
        if isinstance(system, Prior) and name in system.space.transforms:
            # The prior has it in its coordinate without bounds.
            low, middle, high = system.space.transforms[name].inverse(
                values.mean() + var.sqrt() * torch.tensor([-1.0, 0.0, 1.0]).double()
            )
            found[name] = float(middle), float(high - low) / 2
    return found


def units_of(given: Sequence[str]) -> dict[str, str]:
    """Return the units that are given, by variable.

    Raises:
        UserError: If one is no variable and unit, as t2m=degC.
    """
    pairs = [entry.partition("=") for entry in given]
    if wrong := [entry for entry, pair in zip(given, pairs, strict=True) if not all(pair)]:
        raise UserError(f"Got --units {wrong[0]}: give a variable and its unit, as t2m=degC.")
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def write_states(
    path: Path, states: Float[Tensor, "time ..."], space: StateSpace, start: Start | None = None
) -> None:
    """Write states ``(time, *state)`` as a NetCDF file with CF attributes.

    Raises:
        ValueError: If a file is there that Scorda did not write.
    """
    dataset = Analysis(states[None], space).to_xarray(start=start)
    dataset = dataset.isel(ensemble=0, drop=True)
    dataset.attrs.pop("method", None)
    write_netcdf(dataset, path)


def open_all(paths: Sequence[Path]) -> dict[str, Any]:
    """Open posteriors, named by their method, or by their file where methods are repeated."""
    from scorda.store.posterior import open_posterior

    posteriors = [open_posterior(path) for path in paths]
    for posterior in posteriors:
        posterior.check()
    methods = [p.method for p in posteriors]
    names = [
        p.method if methods.count(p.method) == 1 else f"{p.method} ({p.path.stem})"
        for p in posteriors
    ]
    if len(set(names)) < len(names):
        names = [str(p.path) for p in posteriors]
    return dict(zip(names, posteriors, strict=True))


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
