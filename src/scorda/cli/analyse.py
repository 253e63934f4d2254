"""The command ``scorda analyse``: one analysis of an ensemble of another program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    import numpy as np

    from scorda.core.shapes import Float, Tensor
    from scorda.core.space import StateSpace
    from scorda.observations.laws import Law
    from scorda.observations.rows import Rows

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

    law: str = "gaussian"
    """Law of the values where a column `law` does not say, as `scorda assimilate --law`."""

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
        from scorda.core.ownership import check_output

        for name in ("ensemble", "predicted", "observations"):
            if getattr(self, name) is None:
                raise UserError(
                    f"Give --{name}: an analysis needs --ensemble, --predicted and --observations."
                )
        check_output(self.out, self.overwrite)
        check_there([f for f in (self.ensemble, self.predicted, self.observations) if f])
        use_torch("float64", self.threads)


def analyse(given: Analyse, made: Callable[[], Any], prior: str | None) -> None:
    """Condition the ensemble of another program on observations."""
    from scorda.assimilation.one_analysis import analyse as analysed
    from scorda.core import rng
    from scorda.core.files import write_netcdf
    from scorda.observations.law_names import law_named
    from scorda.reading.columns import read_columns
    from scorda.reading.ensembles import read_members, read_predicted

    method = made()
    given.check()
    assert given.ensemble and given.predicted and given.observations
    members, space, notes, labels = read_members(given.ensemble, given.variable, given.member_axis)
    for note in notes:
        console().print(f"ensemble: {note}")
    columns = read_columns(given.observations)
    needs_std = "law" not in columns and law_named(given.law).scaled and given.std is None
    if "value" not in columns or (needs_std and "std" not in columns):
        raise UserError(
            f"{given.observations} has the columns {sorted(columns)}: it needs value and std (or "
            "--std)."
        )
    predicted, unit = read_predicted(
        given.predicted, len(members), len(columns["value"]), given.member_axis, labels
    )
    absent = predicted.isnan().any(0).numpy()
    value, std, law, places = _observed(given, columns, space, unit, absent, len(members))
    where: dict[str, Any] = {
        "law": law,
        "space": space,
        "positions": places,
        "generator": rng.seeded(given.seed),
    }
    scaled = std if law.scaled else None
    found = analysed(method, members, predicted, value, scaled, **where)
    dataset = found.to_xarray().isel(time=0, drop=True)
    if labels is not None:
        dataset = dataset.assign_coords(ensemble=("ensemble", labels, dataset["ensemble"].attrs))
    write_netcdf(dataset, given.out, given.overwrite)
    console().print(f"analysis: {given.out}")


def _observed(
    given: Analyse,
    columns: Mapping[str, np.ndarray],
    space: StateSpace,
    unit: str,
    absent: np.ndarray,
    members: int,
) -> tuple[np.ndarray, np.ndarray, Law, Float[Tensor, "obs axes"] | None]:
    """Return value, std, law and position of each row, and say which rows are not used.

    A value that is not used is NaN; positions are None where their columns are absent.
    """
    import numpy as np
    import torch

    from scorda.observations.law_names import law_named
    from scorda.observations.laws import Several
    from scorda.observations.rows import How, Rows, position_columns, unused_rows
    from scorda.observations.tables import summary_of

    how = How(std=given.std, missing=given.missing, law={"": law_named(given.law)})
    rows = Rows(columns, space, how)
    which, laws = rows.law(np.zeros(len(columns["value"]), dtype=np.int64))
    with_std = np.array([one.scaled for one in laws])[which]
    value = rows.number("value", "value")
    std = np.where(with_std, rows.number("std", "std", given.std, with_std), 1.0)
    rows.refuse(~(std > 0), "std not positive")
    value, std = _in_unit(rows, value, std, unit)
    named = position_columns(columns, space)
    places = np.array([rows.number(name, "position") for name in named or ()])
    rows.refuse(absent, "missing prediction")
    used, unused = int(rows.usable.sum()), unused_rows(rows.reason)
    why = summary_of(unused)
    if not used:
        raise UserError(
            f"{given.observations} has {len(value)} rows of which none can be used ({why}): a row "
            "needs a value, a positive std, and a position if the others have one."
        )
    words = f"; {len(unused)} rows not used: {why}" if unused else ""
    console().print(f"{used} of {len(value)} observations, {members} members{words}")
    # A std of what is absent means nothing: 1 keeps it positive.
    value, std = np.where(rows.usable, value, np.nan), np.where(rows.usable, std, 1.0)
    law = laws[0] if len(laws) == 1 else Several(tuple(laws), torch.from_numpy(which))
    where = torch.from_numpy(places.T.copy()).nan_to_num() if named else None
    return value, std, law, where


def _in_unit(
    rows: Rows, value: np.ndarray, std: np.ndarray, wanted: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and errors in the unit of the predictions, where both say theirs."""
    import numpy as np

    from scorda.core.columns import distinct, numbers
    from scorda.reading.units import conversion

    if "units" not in rows.columns or not wanted:
        return value, std
    # An error that the caller gives is in the unit of the predictions already.
    own = "std" in rows.columns and ~np.isnan(numbers(rows.columns["std"])[0])
    code, units = distinct(rows.columns["units"])
    for k, entry in enumerate(units):
        unit = entry.strip() if isinstance(entry, str) else ""
        of = (code == k) & rows.usable
        if not unit or not of.any():
            continue
        try:
            factor, offset = conversion(unit, wanted)
        except ValueError:
            rows.refuse(of, f"unit {unit!r} that cannot be converted to {wanted}")
            continue
        if (factor, offset) != (1.0, 0.0):
            value = np.where(of, factor * value + offset, value)
            std = np.where(of & own, abs(factor) * std, std)
            note = f"{int(of.sum())} values converted from {unit} to {wanted}"
            console().print(note)
    return value, std
