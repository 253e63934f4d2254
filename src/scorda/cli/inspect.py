"""The command ``scorda inspect`` says what Scorda understands of files."""

from __future__ import annotations

from scorda.cli.console import console
from scorda.cli.settings import UserError

__all__ = ["inspect"]


def inspect(files: list[str], /) -> None:
    """Say what is understood of files: variables, units, axes, times, and what is suspicious.

    Arguments:
        files: Fields (NetCDF, zarr) or tables (CSV, NetCDF, Parquet).
    """
    from scorda.reading.inspection import inspect as understood

    out, failed = console(), 0
    for file in files:
        try:
            out.print(str(understood(file)), soft_wrap=True)
        except (ValueError, OSError) as error:
            failed += 1
            out.print(f"{file}: {' '.join(str(error).split())}", soft_wrap=True)
    if failed:
        raise UserError(f"{failed} of {len(files)} files cannot be read.")
