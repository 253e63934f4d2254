"""The command ``scorda verify``: a stored forecast against what was observed later."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, table
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.store.posterior import Posterior

__all__ = ["Verify", "verify"]

# Lead times that the table on the screen shows of each curve; the file has all.
SHOWN = 8


@dataclass
class Verify:
    """Settings of a verification."""

    observations: list[str] = field(default_factory=list)
    """Tables (CSV or NetCDF), or fields with NaN (NetCDF or zarr); repeat the flag for several."""

    truth: str | None = None
    """NetCDF file of the truth, where there is one."""

    tolerance: float | None = None
    """Largest distance of an observation from its step in time (default: half a step)."""

    std: float | None = None
    """Error of observations that have none in their file."""

    variable: str | None = None
    """Variable that fields of observations hold, where the system has several."""

    units: list[str] = field(default_factory=list)
    """Unit of a variable in tables that do not say, as t2m=degC; repeat the flag for several."""

    missing: list[float] = field(default_factory=list)
    """Value that stands for a missing one, as -9999; repeat the flag for several."""

    nearest: float | None = None
    """Observe the nearest point of the grid to a position of a table, up to this distance (km on
    the globe), instead of interpolating."""

    out: Path = Path("verification.csv")
    """Table to write (CSV or NetCDF); the picture of the curves, verification.png, is beside."""

    overwrite: bool = False
    """Replace a table of the same columns at --out."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    def check(self, path: Path) -> None:
        """Refuse what makes no sense, before anything is read."""
        from scorda.cli.common import check_there, units_of
        from scorda.core.ownership import check_output

        if not self.observations and self.truth is None:
            raise UserError("Give --observations, what was observed later, or --truth.")
        if self.out.suffix.lower() not in (".csv", ".nc"):
            raise UserError(f"Got --out {self.out}: its name must end in .csv or .nc.")
        if self.out.exists() and not self.overwrite:
            raise UserError(f"{self.out} is already there: give --overwrite, or another name.")
        check_output(self.out.with_suffix(".png"), overwrite=True)
        units_of(self.units)
        check_there([path, *self.observations, *filter(None, [self.truth])])


def verify(path: Path, *, settings: Annotated[Verify | None, Parameter(name="*")] = None) -> None:
    """Score a stored forecast by its lead time: RMSE, spread and CRPS.

    Arguments:
        path: Store of a forecast, such as forecast.zarr.
    """
    import numpy as np

    from scorda.core.files import atomic, write_columns
    from scorda.core.lock import claimed
    from scorda.core.ownership import PICTURE
    from scorda.report.leads import lead_times
    from scorda.store.posterior import open_posterior
    from scorda.store.verification import COLUMNS, verify as verified

    given = settings or Verify()
    given.check(path)
    with claimed(given.out):
        forecast = open_posterior(path)
        rows = verified(forecast, *_later(given, forecast))
        if not rows:
            raise UserError("Nothing was observed at the times of the forecast: check both.")
        columns = {name: np.array([row[name] for row in rows]) for name in COLUMNS}
        write_columns(given.out, columns, given.overwrite)
        picture = given.out.with_suffix(".png")
        with atomic(picture) as partial:
            figure = lead_times(rows, forecast.space)
            figure.savefig(partial, format="png", metadata={"Comment": PICTURE})
    _tell(rows)
    console().print(f"table:   {given.out}\npicture: {picture}")


def _later(given: Verify, forecast: Posterior) -> tuple[list[Any], Any]:
    """Return the observations and the truth at the steps of a forecast."""
    from scorda.cli.common import read_observations, units_of
    from scorda.reading.fields import read_states

    first, last = forecast.times[0], forecast.states - 1
    start: Any = float(first) if forecast.times.dtype.kind in "fiu" else first
    how: dict[str, Any] = {"units": units_of(given.units), "missing": given.missing}
    how |= {"nearest": given.nearest}
    where = given.observations, forecast.space, start, given.tolerance, given.std, last
    observations = read_observations(*where, given.variable, **how)
    for instrument in observations:
        console().print(instrument.summary(), markup=False)
    if given.truth is None:
        return observations, None
    truth, notes = read_states(given.truth, forecast.space, last, start)
    for note in notes:
        console().print(f"truth: {note}")
    return observations, truth


def _tell(rows: list[dict[str, Any]]) -> None:
    """Print some lead times of each curve."""
    shown: list[list[str] | None] = []
    curves = dict.fromkeys((row["against"], row["variable"]) for row in rows)
    for against, variable in curves:
        own = [row for row in rows if (row["against"], row["variable"]) == (against, variable)]
        some = sorted({round(i * (len(own) - 1) / (SHOWN - 1)) for i in range(SHOWN)})
        if shown:
            shown.append(None)
        for at in some:
            row = own[at]
            scores = [f"{row[name]:.3g}" for name in ("rmse", "spread", "expected", "crps", "log")]
            shown.append([against, variable, f"{row['lead']:g}", str(row["values"]), *scores])
    head = ["against", "variable", "lead", "values", "RMSE", "spread", "expected", "CRPS", "log"]
    table(None, head, shown, left=2)
