"""The command ``scorda inspect`` says what Scorda understands of files."""

from __future__ import annotations

from scorda.cli.console import console
from scorda.cli.settings import UserError

__all__ = ["inspect"]


def inspect(files: list[str], /) -> None:
    """Say what is understood of files: variables, units, axes, times, and what is suspicious.

    Arguments:
        files: Fields (NetCDF, zarr), tables (CSV, NetCDF, Parquet), or trained priors
            (safetensors).
    """
    from scorda.reading.inspection import inspect as understood

    out, failed = console(), 0
    for file in files:
        try:
            is_prior = file.endswith(".safetensors")
            told = _prior(file) if is_prior else str(understood(file))
            out.print(told, soft_wrap=True)
        except (ValueError, OSError) as error:
            failed += 1
            out.print(f"{file}: {' '.join(str(error).split())}", soft_wrap=True)
    if failed:
        raise UserError(f"{failed} of {len(files)} files cannot be read.")


def _prior(file: str) -> str:
    """Return a line for each thing that is known of a trained prior."""
    from scorda.priors.shown import prior_facts
    from scorda.priors.trajectory import load

    prior = load(file)
    space = prior.space
    facts = prior_facts(prior) | {
        "variables": ", ".join(space.variables),
        "axes": ", ".join(f"{n} ({len(x)})" for n, x in (space.coordinates or {}).items()),
    }
    told = {name: value for name, value in facts.items() if value not in (None, "")}
    width = max(map(len, told))
    lines = [f"  {name:{width}}  {value}" for name, value in told.items()]
    where = f"--prior {file} --method sda"
    if prior.diurnal_mean is not None:
        where += " --start DATETIME"
    if prior.start is not None:
        where = f"--system emulator --system.file {file}"
    command = f"  scorda assimilate {where} --observations FILE"
    return "\n".join([f"{file}: prior", *lines, command])
