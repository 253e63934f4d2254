"""Ranges of values that a file declares: what lies outside is missing.

The attributes `valid_min`, `valid_max` and `valid_range` of the NetCDF conventions are in the unit
of the packed numbers where they have their type, else in that of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorda.reading.blocks import in_blocks

if TYPE_CHECKING:
    import xarray

__all__ = ["declared_range", "within_range"]

NAMES = ("valid_min", "valid_max", "valid_range")
# Share of the range by which a bound is wider, since values in single precision are rounded.
SLACK = 1e-6


def within_range(dataset: xarray.Dataset) -> xarray.Dataset:
    """Return a data set whose values outside of the range that they declare are NaN.

    Afterwards `valid_range` is in the unit of the values. Nothing is read.
    """
    found = {
        str(n): r for n, v in dataset.data_vars.items() if (r := declared_range(v)) is not None
    }
    if not found:
        return dataset
    data = dataset.assign(in_blocks(dataset[list(found)]).data_vars)
    for name, (low, high) in found.items():
        values, given = data[name], dataset[name]
        attributes = {k: v for k, v in given.attrs.items() if k not in NAMES}
        slack = SLACK * max((abs(x) for x in (low, high) if np.isfinite(x)), default=0.0)
        kept = values.where((values >= low - slack) & (values <= high + slack))
        data[name] = kept.assign_attrs(attributes | {"valid_range": np.array([low, high])})
        data[name].encoding = dict(given.encoding)
    return data


def declared_range(values: xarray.DataArray) -> tuple[float, float] | None:
    """Return the range of the values of a variable, None where it declares none that is one."""
    if values.dtype.kind not in "fiu" or not any(name in values.attrs for name in NAMES):
        return None
    both = values.attrs.get("valid_range", (np.nan, np.nan))
    given = (values.attrs.get("valid_min", np.nan), values.attrs.get("valid_max", np.nan))
    try:
        pairs = np.array([both, given], dtype=float)
    except (TypeError, ValueError):
        return None
    kinds = {np.asarray(values.attrs[name]).dtype.kind for name in NAMES if name in values.attrs}
    packed = np.dtype(values.encoding.get("dtype", float)).kind in "iu"
    if packed and kinds <= set("iu"):
        scale = float(values.encoding.get("scale_factor", 1.0))
        pairs = scale * pairs + float(values.encoding.get("add_offset", 0.0))
        pairs = pairs if scale > 0 else pairs[:, ::-1]
    low, high = np.fmax(*pairs)[0], np.fmin(*pairs)[1]
    low, high = (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high)
    return (float(low), float(high)) if low < high else None
