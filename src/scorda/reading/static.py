"""Fields that do not change with time, such as the height of the ground, beside a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.reading.fields import aligned
from scorda.reading.labels import with_plain_times
from scorda.reading.opening import Source, name_of, open_data, readable

if TYPE_CHECKING:
    import xarray

__all__ = ["on_grid", "static_fields"]


def static_fields(
    source: Source, variables: Sequence[str], missing: Sequence[float] = ()
) -> dict[str, xarray.DataArray]:
    """Load variables that do not change with time, without an axis of time.

    A variable on the time whose values are the same at all times is one of them.

    Arguments:
        source: What `opening.open_data` takes.
        variables: Their names.
        missing: Values that stand for what is missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a variable is missing, holds no numbers, or changes with time.
    """
    dataset = with_plain_times(open_data(source), [])
    found: dict[str, xarray.DataArray] = {}
    for name in variables:
        if name not in dataset.data_vars:
            raise ValueError(
                f"{name_of(source)} has the variables {sorted(map(str, dataset.data_vars))}: it "
                f"needs {name!r}, as a static field."
            )
        if dataset[name].dtype.kind not in "fiub":
            raise ValueError(
                f"{name_of(source)} has {name!r} as {dataset[name].dtype}: a static field needs "
                "real numbers."
            )
        with readable(source, "fields"):
            values = dataset[name].astype(float).load()
        for code in missing:
            values = values.where(~np.isclose(values, code, rtol=1e-6, atol=0.0))
        if "time" in values.dims:
            first = values.isel(time=0, drop=True)
            if not bool(((values == first) | (values.isnull() & first.isnull())).all()):
                raise ValueError(
                    f"{name_of(source)} has {name!r} on the time, with which it changes: a static "
                    "field does not, so name another."
                )
            values = first
        found[name] = values
    return found


def on_grid(
    static: Mapping[str, xarray.DataArray], space: StateSpace
) -> dict[str, Float[Tensor, "..."]]:
    """Return static fields on the grid of a space, NaN where one has no value.

    Raises:
        ValueError: If the space has several grids, or an axis or a position is missing.
    """
    if space.parts is not None:
        raise ValueError(
            f"Got the static fields {', '.join(static)} of a record on several grids: choose "
            "variables of one grid."
        )
    found: dict[str, Tensor] = {}
    for name, values in static.items():
        try:
            data, _ = aligned(values.to_dataset(name=name), space, [name])
        except ValueError as error:
            raise ValueError(f"The static field {name} is of another grid: {error}") from error
        found[name] = torch.from_numpy(np.array(data[name].values, dtype=float))
    return found
