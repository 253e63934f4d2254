"""What Scorda understands of a file, in words: `inspect` says it before any run does.

Nothing is refused here: what a run would refuse, or leave out, is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scorda.core.calendars import instants, iso
from scorda.core.columns import distinct, is_text, numbers
from scorda.reading.blocks import NUMBERS, time_blocks
from scorda.reading.climate import climate_of, sampled, suspicious
from scorda.reading.columns import is_text_table, read_columns
from scorda.reading.gridded import Gridded, gridded, grids
from scorda.reading.opening import Source, name_of, open_data, readable
from scorda.reading.records import regular_times
from scorda.reading.roles import role_of_name
from scorda.reading.stations import is_gridded

if TYPE_CHECKING:
    import xarray

__all__ = ["Inspection", "inspect"]

# Rows or values that a warning names.
SHOWN = 5


@dataclass(frozen=True)
class Inspection:
    """What was understood of a source.

    Arguments:
        name: Its name.
        kind: "fields" or "table".
        facts: What it holds, as pairs of a label and words.
        warnings: What a run would refuse, leave out or fill, each in a sentence.
        command: Command that fits.
    """

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        """Return one line per fact and warning, and the command."""
        width = max(len(label) for label, _ in self.facts)
        lines = [f"{self.name}: {self.kind}"]
        lines += [f"  {label:{width}}  {words}" for label, words in self.facts]
        lines += [f"  warning: {words}" for words in self.warnings]
        return "\n".join([*lines, f"  {self.command}"])


def inspect(source: Source) -> Inspection:
    """Say what Scorda understands of fields or of a table of observations.

    Arguments:
        source: A path, or an object, as for `read_fields` and `Observations.from_table`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds neither fields nor a table.

    Example:
        >>> _ = pd.DataFrame(
        ...     {"time": [0, 1], "variable": "x", "value": [1.5, 1.1], "std": 0.5}
        ... ).to_csv("table.csv", index=False)
        >>> print(sc.inspect("table.csv"))
        table.csv: table
          rows  2, columns time, variable, value, std
          x     2 values, 1.1 to 1.5 without a unit
          std   0.5 to 0.5
          time  0 to 1, numbers
          scorda assimilate --observations table.csv --system NAME or --prior FILE
    """
    import xarray

    is_path = isinstance(source, str | Path)
    labelled = isinstance(source, list | tuple | xarray.Dataset | xarray.DataArray)
    if not (is_path or labelled) or (is_path and is_text_table(source)):
        return _table(read_columns(source), source)
    dataset = open_data(source)
    has_points = _has_points(dataset, source)
    if is_gridded(dataset) or (has_points and "featureType" not in dataset.attrs):
        with readable(source, "fields"):
            return _fields(gridded(dataset, source), source, grids(dataset, source))
    names = tuple(str(n) for n in dataset.data_vars if role_of_name(str(n)) is None)
    columns = read_columns(source, names if "value" not in dataset.variables else ())
    return _table(columns, source, has_points)


def _has_points(dataset: xarray.Dataset, source: Source) -> bool:
    """Say whether data could be a record of points that have positions of their own."""
    try:
        with readable(source, "fields"):
            found = gridded(dataset, source)
    except ValueError:
        return False
    return bool(found.places) and found.timed


def _fields(found: Gridded, source: Source, groups: list[tuple[str, ...]]) -> Inspection:
    data, facts, warnings = found.data, list[tuple[str, str]](), list[str]()
    masks = [_never(values, found, facts, warnings) for values in data.data_vars.values()]
    for axis in found.axes:
        facts.append((axis, _axis(data[axis].values, axis, found)))
    for name in found.places:
        low, high = data[name].values.min(), data[name].values.max()
        each = " and ".join(map(str, data[name].dims))
        facts.append((name, f"{low:g} to {high:g}, of each point of {each}"))
    facts += _times(found, source, warnings)
    if "series" in data.dims:
        facts.append(("series", f"{data.sizes['series']}, independent of each other"))
    mask = np.all(masks, 0)
    if mask.any():
        facts.append(("land", f"{int(mask.sum())} of {mask.size} points are never there"))
    if found.places:
        facts.append(("as observations", "a row of a table for each value (--observations)"))
    facts += [("note", note) for note in found.notes]
    flags = "".join(f" --variable {name}" for name in data.data_vars)
    command = f"scorda train --data {name_of(source)}{flags}"
    if found.timed and len(groups) > 1:
        facts.append(("grids", "; ".join(", ".join(group) for group in groups)))
        every = "".join(f" --variable {name}" for group in groups for name in group)
        facts.append(("all grids", f"scorda train --data {name_of(source)}{every}"))
    if not found.timed:
        command = "no command takes fields without times"
    return Inspection(name_of(source), "fields", tuple(facts), tuple(warnings), command)


def _never(
    values: xarray.DataArray,
    found: Gridded,
    facts: list[tuple[str, str]],
    warnings: list[str],
) -> np.ndarray:
    """Say what a variable holds, and return which points never have a value.

    A block of the file is read at once: once for what is there, and again for what is suspicious.
    """
    name = str(values.name)
    over = tuple(i for i, d in enumerate(values.dims) if d in ("time", "series"))
    number, ends, kept = 0, [math.inf, -math.inf], list[np.ndarray]()

    def looked_at() -> Iterator[np.ndarray]:
        nonlocal number, ends
        for _, part in _parts(values):
            number += int((~np.isnan(part)).sum())
            kept[:] = [(~np.isnan(part)).any(over) | (kept[0] if kept else False)]
            ends = [min(ends[0], np.nanmin(part, initial=math.inf)),
                    max(ends[1], np.nanmax(part, initial=-math.inf))]  # fmt: skip
            yield part

    sample = sampled(looked_at(), values.size)
    unit = found.units.get(name, "without a unit")
    missing = 1 - number / max(values.size, 1)
    facts.append((name, f"{_range(np.append(sample, ends))} {unit}{_share(missing)}"))
    low, high = climate_of(sample)
    if ends[0] < low or ends[1] > high:
        count, fields, first = 0, list[int](), list[float]()
        for start, part in _parts(values):
            far = (part < low) | (part > high)
            count += int(far.sum())
            first += part[far][:1].tolist()
            if far.any():
                fields += [start + k + 1 for k in _first(far, values.dims.index("time"))]
        places = ", ".join(f"field {k}" for k in fields[:SHOWN])
        warnings.append(
            f"{count} values of {name} are far from all others, such as "
            f"{first[0]:g} in {places}: declare them with --missing"
        )
    never = ~kept[0]
    if number < int(kept[0].sum()) * values.size // max(never.size, 1):
        warnings.append(f"some values of {name} are missing at times: training fills them")
    return never


def _parts(values: xarray.DataArray) -> Iterator[tuple[int, np.ndarray]]:
    """Give a variable in blocks, each with its first time."""
    if "time" not in values.dims:
        yield 0, np.asarray(values.values, dtype=float)
        return
    for rows in time_blocks(values.to_dataset(name="values"), NUMBERS):
        yield rows.start, np.asarray(values.isel(time=rows).values, dtype=float)


def _axis(values: np.ndarray, axis: str, found: Gridded) -> str:
    role = found.roles.get(axis)
    words = f"{values.min():g} to {values.max():g}, {len(values)} positions"
    words += f", {found.units[axis]}" if axis in found.units else ", without a unit"
    if axis in found.period:
        words += ", around the globe"
    return words + (f" ({role})" if role not in (None, axis) else "")


def _times(found: Gridded, source: Source, warnings: list[str]) -> Iterator[tuple[str, str]]:
    if not found.timed:
        warnings.append("there are no times: a prior cannot be trained on it")
        return
    times = found.data["time"].values
    dated = times.dtype.kind in "MO"
    ends = (
        [iso(t, found.calendar) for t in instants(times[[0, -1]], found.calendar)]
        if dated
        else times[[0, -1]]
    )
    yield "time", f"{ends[0]} to {ends[1]}, {len(times)} times"
    if dated:
        yield "calendar", found.calendar
    try:
        places, step, unit = regular_times(times, found.calendar, source)
    except ValueError as error:
        warnings.append(str(error))
        return
    yield "step", f"{step:g} {unit or 'of model time'}"
    if places[-1] + 1 > len(places):
        warnings.append(f"{places[-1] + 1 - len(places)} times are missing: training fills them")


def _table(
    columns: Mapping[str, np.ndarray], source: Source, is_record: bool = False
) -> Inspection:
    import pandas

    facts, warnings = list[tuple[str, str]](), list[str]()
    if "value" not in columns or "time" not in columns:
        raise ValueError(
            f"{name_of(source)} has the columns {sorted(columns)}: a table of observations has "
            "time and value, so rename columns, or add them."
        )
    count = len(columns["value"])
    facts.append(("rows", f"{count}, columns {', '.join(columns)}"))
    code, names = _words(columns.get("variable", np.full(count, "value")))
    unit_code, units = _words(columns.get("units", np.full(count, "")))
    value, text = numbers(columns["value"])
    for index, name in enumerate(names):
        of = code == index
        unit = ", ".join(units[k] for k in pandas.unique(unit_code[of]) if units[k])
        unit = unit or "without a unit"
        facts.append(
            (name, f"{int(of.sum())} values, {_range(value[of])} {unit}{_absent(value[of])}")
        )
        far = np.flatnonzero(of)[suspicious(value[of])]
        if len(far):
            rows = ", ".join(f"{value[i]:g} (row {i + 1})" for i in far[:SHOWN])
            warnings.append(
                f"{len(far)} values of {name} are far from all others: {rows}; what stands for "
                "none is declared with --missing"
            )
    if text.any():
        warnings.append(
            f"{int(text.sum())} values are no numbers, the first in row {int(text.argmax()) + 1}"
        )
    for column in columns:
        if column in ("time", "value", "variable", "units"):
            continue
        entries, words = numbers(columns[column])
        if not words.all() and np.isfinite(entries).any():
            found = _words(columns.get(f"{column}_units", np.array([], dtype=object)))[1]
            unit = "".join(f" {word}" for word in found if word)
            facts.append((column, _range(entries) + unit + _absent(entries)))
    facts += _table_times(columns["time"], warnings)
    if is_record:
        facts.append(("as a record", "points with positions of their own (scorda train --data)"))
    command = f"scorda assimilate --observations {name_of(source)} --system NAME or --prior FILE"
    return Inspection(name_of(source), "table", tuple(facts), tuple(warnings), command)


def _words(column: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the index of each entry among the distinct words, without blanks, and these."""
    code, found = distinct(column)
    index: dict[str, int] = {}
    places = [index.setdefault(str(entry).strip(), len(index)) for entry in found]
    return np.array(places, dtype=np.int64)[code], list(index)


def _table_times(times: np.ndarray, warnings: list[str]) -> Iterator[tuple[str, str]]:
    elapsed, text = (
        numbers(times) if times.dtype.kind not in "Mm" else (np.full(len(times), np.nan), None)
    )
    if text is not None and not text.any():
        yield "time", f"{_range(elapsed)}, numbers{_absent(elapsed)}"
        return
    when = times.astype("m8[us]") if times.dtype.kind == "m" else _instants(times)
    known = when[~np.isnat(when)]
    if not len(known):
        warnings.append("no time is an ISO 8601 datetime or a number")
        return
    if times.dtype.kind == "m":
        yield "time", f"{known.min()} to {known.max()} since step 0"
    else:
        yield "time", f"{iso(known.min())} to {iso(known.max())}"
    if len(known) < len(when):
        warnings.append(f"{len(when) - len(known)} times are missing or no datetimes")


def _instants(times: np.ndarray) -> np.ndarray:
    if not is_text(times):
        return instants(times)
    code, found = distinct(times)
    return instants(found)[code]


def _range(values: np.ndarray) -> str:
    present = values[np.isfinite(values)]
    return f"{present.min():.6g} to {present.max():.6g}" if present.size else "no value"


def _absent(values: np.ndarray) -> str:
    return _share(float(np.isnan(values).mean()) if values.size else 0.0)


def _share(share: float) -> str:
    return f", {100 * share:.3g} % missing" if share else ""


def _first(where: np.ndarray, axis: int) -> list[int]:
    return np.unique(np.nonzero(where)[axis])[:SHOWN].tolist()
