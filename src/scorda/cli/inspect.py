"""The command ``scorda inspect`` says what Scorda understands of files."""

from __future__ import annotations

from pathlib import Path

from scorda.cli.console import console

__all__ = ["inspect"]


def inspect(files: list[Path], /) -> None:
    """Say what is understood of files: variables, units, axes, times, and what is suspicious.

    Arguments:
        files: Fields (NetCDF, zarr) or tables (CSV, NetCDF, Parquet).
    """
    from scorda.reading.inspection import inspect as understood

    out = console()
    for file in files:
        out.print(str(understood(file)), markup=False, soft_wrap=True)
