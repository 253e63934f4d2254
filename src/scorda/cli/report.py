"""``scorda report``: one HTML page about stored posteriors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scorda.cli.console import console
from scorda.cli.settings import UserError

__all__ = ["Report", "report"]


@dataclass
class Report:
    """Settings of a report."""

    out: Path = Path("report.html")
    """File to write."""

    reference: list[Path] = field(default_factory=list)
    """Stores that are near exact, for W1: one of past data only, one of all data."""

    title: str | None = None
    """Title of the page (default: the system)."""

    spinup: int | None = None
    """Steps that do not count (default: those before the first observation)."""

    config: Path | None = None
    """TOML file with these settings; flags win."""


def report(*stores: Path, settings: Annotated[Report | None, Parameter(name="*")] = None) -> None:
    """Write one HTML page about stored posteriors.

    Arguments:
        stores: Stores of one problem, such as run.zarr.
    """
    from scorda.cli.common import open_all
    from scorda.report.html import write_report
    from scorda.store.posterior import open_posterior

    given = settings or Report()
    if not stores:
        raise UserError("Name at least one store, such as run.zarr.")
    references = [open_posterior(path) for path in given.reference]
    page = write_report(open_all(stores), given.out, references, given.title, given.spinup)
    console().print(f"report: {page}")
