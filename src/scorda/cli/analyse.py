"""The command ``scorda analyse``: one analysis of an ensemble of another program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    import numpy as np

    from scorda.core.shapes import Float, Tensor
    from scorda.core.space import StateSpace

__all__ = ["Analyse", "analyse"]


@dataclass
class Analyse:
    """Settings of an analysis."""

    ensemble: str | None = None
    """Members before the analysis: fields with an axis of members (NetCDF or zarr)."""

    predicted: str | None = None
    """What each member predicts of the observations, without error: a variable on the members and
    the observations (NetCDF or zarr), or a table with a row for each observation and a column for
    each member."""

    observations: str | None = None
    """Table of the observations in the same order: value, std, and the position where the method
    localizes."""

    method: str = "etkf"
    """Filter that `scorda methods` lists. Its settings are flags too."""

    member_axis: str | None = None
    """Axis of the members, where its name does not say."""

    variable: list[str] = field(default_factory=list)
    """Variable of the ensemble to analyse (default: all); repeat the flag for several."""

    std: float | None = None
    """Error of observations that have none in their table."""

    missing: list[float] = field(default_factory=list)
    """Value that stands for a missing one, as -9999; repeat the flag for several."""

    seed: int = 0
    """Seed of the analysis."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    out: Path = Path("analysis.nc")
    """NetCDF file to write."""

    overwrite: bool = False
    """Replace what is at --out."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    def check(self) -> None:
        """Refuse what makes no sense, before any code of a user is imported."""
        from scorda.cli.common import check_there, use_torch

        for name in ("ensemble", "predicted", "observations"):
            if getattr(self, name) is None:
                raise UserError(
                    f"Give --{name}: an analysis needs --ensemble, --predicted and --observations."
                )
            check_there([getattr(self, name)])
        if self.out.exists() and not self.overwrite:
            raise UserError(f"{self.out} is already there: give another --out, or --overwrite.")
        use_torch("float64", self.threads)


def analyse(given: Analyse, method: Any, prior: str | None) -> None:
    """Condition the ensemble of another program on observations."""
    import numpy as np

    from scorda.assimilation.one_analysis import analyse as analysed
    from scorda.core import rng
    from scorda.core.files import atomic
    from scorda.reading.columns import read_columns
    from scorda.reading.ensembles import read_members, read_predicted

    given.check()
    assert given.ensemble and given.predicted and given.observations
    members, space, notes, labels = read_members(given.ensemble, given.variable, given.member_axis)
    for note in notes:
        console().print(f"ensemble: {note}")
    columns = read_columns(given.observations)
    value, std, places = _observed(given, columns, space)
    predicted, unit = read_predicted(
        given.predicted, len(members), len(value), given.member_axis, labels
    )
    value, std = _in_unit(value, std, columns.get("units"), unit)
    left = np.isnan(value) | predicted.isnan().any(0).numpy()
    value[left] = np.nan
    used = len(value) - int(left.sum())
    console().print(f"{used} of {len(value)} observations, {len(members)} members")
    where: dict[str, Any] = {
        "space": space,
        "positions": places,
        "generator": rng.seeded(given.seed),
    }
    found = analysed(method, members, predicted, value, std, **where)
    dataset = found.to_xarray().isel(time=0, drop=True)
    if labels is not None:
        dataset = dataset.assign_coords(ensemble=("ensemble", labels, dataset["ensemble"].attrs))
    with atomic(given.out) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
    console().print(f"analysis: {given.out}")


def _observed(
    given: Analyse, columns: Mapping[str, np.ndarray], space: StateSpace
) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "obs axes"] | None]:
    """Return value, std and position of each row; a position is None where columns are absent."""
    import numpy as np
    import torch

    from scorda.core.columns import numbers
    from scorda.observations.rows import How, position_columns

    def column(name: str) -> np.ndarray:
        values, text = numbers(columns[name])
        if text.any():
            row = int(text.argmax()) + 1
            raise UserError(
                f"{given.observations} has text in row {row} of the column {name}: give numbers."
            )
        return np.where(How(missing=given.missing).is_missing(values), np.nan, values)

    if "value" not in columns or (given.std is None and "std" not in columns):
        raise UserError(
            f"{given.observations} has the columns {sorted(columns)}: it needs value and std (or "
            "--std)."
        )
    value = column("value")
    std = column("std") if "std" in columns else np.full(len(value), np.nan)
    if given.std is not None:
        std = np.where(np.isnan(std), given.std, std)
    if wrong := [i + 1 for i in np.flatnonzero(~(std > 0) & ~np.isnan(value))]:
        raise UserError(f"{given.observations} has no positive std in row {wrong[0]}: give one.")
    std[np.isnan(value)] = 1.0
    named = position_columns(columns, space)
    if not named:
        return value, std, None
    places: Any = torch.from_numpy(np.stack([column(name) for name in named], -1))
    absent = places.isnan().any(1).numpy()
    value[absent] = np.nan
    return value, std, places.nan_to_num()


def _in_unit(
    value: np.ndarray, std: np.ndarray, units: np.ndarray | None, wanted: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and errors in the unit of the predictions, where both say theirs."""
    import numpy as np

    from scorda.reading.units import conversion

    if units is None or not wanted:
        return value, std
    told = np.array([str(unit).strip() for unit in units])
    for unit in sorted(set(told.tolist()) - {""}):
        factor, offset = conversion(unit, wanted)
        rows = told == unit
        value = np.where(rows, factor * value + offset, value)
        std = np.where(rows, abs(factor) * std, std)
        if (factor, offset) != (1.0, 0.0):
            console().print(f"{int(rows.sum())} values converted from {unit} to {wanted}")
    return value, std
