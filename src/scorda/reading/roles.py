"""What each axis of a data set stands for: time, latitude, longitude, level, member or series.

The attributes of the CF conventions decide (`standard_name`, `axis`, `units`, read by cf-xarray).
Where an axis has none, its name does, and for latitude and longitude its range too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.reading.units import convertible

if TYPE_CHECKING:
    import xarray

__all__ = ["role_of_name", "roles", "same_kind"]

# Names of axes whose attributes say nothing, in lower case.
NAMES = {
    "time": ("time", "valid_time", "datetime", "date", "t"),
    "latitude": ("latitude", "lat", "lats", "nav_lat"),
    "longitude": ("longitude", "lon", "lons", "long", "nav_lon"),
    "level": ("level", "lev", "plev", "pressure_level", "isobaricinhpa", "depth", "height"),
    "member": ("member", "number", "ensemble", "ens", "realization", "realisation", "member_id"),
    "series": ("series", "trajectory"),
}
ROLE = {name: role for role, names in NAMES.items() for name in names}
# Keys of cf-xarray for each role, the more certain first.
CF_KEYS = {"time": ("time", "T"), "latitude": ("latitude",), "longitude": ("longitude",)}
CF_KEYS["level"] = ("vertical", "Z")
# Kinds of levels by their names and by the units of their positions.
KINDS = {"depth": "depth", "height": "height", "plev": "pressure", "pressure_level": "pressure"}
KINDS |= {"isobaricinhpa": "pressure"}
UNITS = {"pressure": "Pa", "length": "m"}
STANDARD_NAMES = {"realization": "member"}


def role_of_name(name: str) -> str | None:
    """Return what an axis or a column of that name stands for, if it is one of `NAMES`."""
    return ROLE.get(name.lower())


def same_kind(name: str, axis: str, unit: str = "") -> bool:
    """Say whether a column or an axis may count the same as an axis of a space with a unit.

    Heights, depths and pressures are levels of different kinds; ``level`` may be any.
    """
    kinds = [KINDS.get(name.lower(), "any"), KINDS.get(axis.lower(), "any")]
    if kinds[1] == "any":
        kinds[1] = next((k for k, of in UNITS.items() if unit and convertible(unit, of)), "any")
    if "any" in kinds or kinds[0] == kinds[1]:
        return True
    return "length" in kinds and "pressure" not in kinds


def roles(dataset: xarray.Dataset) -> dict[str, str]:
    """Return ``{role: name}`` of the coordinates and dimensions that a role is known of.

    A role that two names claim with equal right belongs to neither, unless one is a dimension.
    """
    found: dict[str, str] = {}
    for role in NAMES:
        for names in (_by_attributes(dataset, role), _by_name(dataset, role)):
            single = [n for n in names if n in dataset.dims] or names
            if len(single) == 1:
                found[role] = single[0]
                break
    return found


def _by_attributes(dataset: xarray.Dataset, role: str) -> list[str]:
    import cf_xarray  # noqa: F401

    known = dataset.cf.coordinates | dataset.cf.axes
    for key in CF_KEYS.get(role, ()):
        if names := [str(name) for name in known.get(key, ())]:
            return names
    return [
        str(name)
        for name, values in dataset.coords.items()
        if STANDARD_NAMES.get(str(values.attrs.get("standard_name"))) == role
        or (role == "time" and values.ndim == 1 and _dated(values.dtype, values))
    ]


def _dated(dtype: np.dtype, values: xarray.DataArray) -> bool:
    """Say whether values are datetimes, of NumPy or of cftime."""
    if dtype.kind == "M":
        return True
    return dtype.kind == "O" and values.size > 0 and hasattr(values.values.flat[0], "calendar")


def _by_name(dataset: xarray.Dataset, role: str) -> list[str]:
    names = [str(n) for n in (*dataset.dims, *dataset.coords) if role_of_name(str(n)) == role]
    names = list(dict.fromkeys(names))
    return [n for n in names if role not in ("latitude", "longitude") or _in_range(dataset, n)]


def _in_range(dataset: xarray.Dataset, name: str) -> bool:
    """Say whether positions could be degrees of latitude or longitude, as their name says."""
    if name not in dataset.coords or dataset[name].dtype.kind not in "fiu":
        return False
    unit = str(dataset[name].attrs.get("units", "")).lower()
    if unit and not unit.startswith("deg") and unit != "1":
        return False
    low, high = float(dataset[name].min()), float(dataset[name].max())
    if role_of_name(name) == "latitude":
        return -90.0 <= low and high <= 90.0
    return -360.0 <= low and high <= 720.0 and high - low < 360.0 + 1e-6
