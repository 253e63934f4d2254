"""Observations: the values of an instrument and the steps that they belong to.

An `Operator` is what is observed, an `ObservationModel` adds the error, and `Observations` adds
steps and values. Where an entry of ``steps`` is a tuple of steps, the operator gets
``(ensemble, len, *state)``. None of them knows of diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.calendars import Start
from scorda.core.errors import ShapeError
from scorda.core.files import write_columns
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import dates_after
from scorda.observations import tables
from scorda.observations.combined import Present
from scorda.observations.model import ObservationModel, as_std, check_std
from scorda.observations.moving import MovingInterpolate
from scorda.observations.operators import Operator, Select
from scorda.observations.periods import POINT, Period
from scorda.observations.present import present_values
from scorda.observations.rows import How, UnusedRow
from scorda.observations.shown import observations_html
from scorda.observations.spatial import Interpolate
from scorda.reading.opening import Source

__all__ = ["Observations"]


@dataclass(frozen=True, eq=False)
class Observations:
    """Values observed at given steps by one instrument.

    Arguments:
        model: Operator and error.
        steps: Step of each row of `values`, strictly increasing, any spacing; a row may instead
            have a tuple of steps, and the operator then gets ``(ensemble, len, *state)``.
        values: Array of shape ``(cycle, *obs)``; what is NaN or masked is absent.
        std: Standard deviation of the error, broadcastable to `values` (for one per row give shape
            ``(cycle, 1)``), instead of the model's.
        unused: Rows of a table that could not be used, with the reasons.
        notes: What was converted or put together when they were read, in phrases.
        start: Datetime of step 0, where the times were datetimes; axes of figures then have dates.

    Raises:
        ValueError: If steps and values do not fit, steps are out of order, or a value is infinite.

    Example:
        >>> seen = sc.ObservationModel(sc.Select([0, 2]), std=0.5)
        >>> sc.Observations(seen, steps=[4, 10], values=[[1.2, 20.0], [float("nan"), 23.5]])
        <Observations: 3 values of 2 observed quantities at 2 steps (4 to 10); 0 rows not used.>
    """

    model: ObservationModel
    steps: Sequence[int | tuple[int, ...]]
    values: Float[Tensor, "cycle ..."] | ArrayLike
    std: float | Float[Tensor, "..."] | ArrayLike | None = None
    unused: tuple[UnusedRow, ...] = ()
    notes: tuple[str, ...] = ()
    # What is observed does not depend on the name of its days.
    start: Start | None = field(default=None, metadata={"decides": False})

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Iterable):
            raise TypeError(f"Got steps = {self.steps!r}: give a list, with one entry per row.")
        steps = tuple(_entry(s) for s in self.steps)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", as_tensor(self.values, "values"))
        if self.values.ndim < 1 or len(self.values) != len(steps):
            raise ValueError(
                f"Got values of shape {tuple(self.values.shape)} for {len(steps)} steps: "
                "`values` needs one row per entry of `steps`."
            )
        _check_order(steps)
        if torch.isinf(self.values).any():
            raise ValueError("Got infinite observations: use NaN for what is absent.")
        if self.std is not None:
            object.__setattr__(self, "std", as_std(self.std))
            _check_errors(torch.as_tensor(self.std), self.values)
        law = self.model.law
        if law is not None:
            if self.std is not None and not law.scaled:
                raise ValueError(
                    f"Got `std` for observations of {type(law).__name__}, which has none: leave "
                    "it out."
                )
            law.check(self.flat)

    @classmethod
    def from_table(
        cls,
        table: Source,
        space: StateSpace,
        start: Start | None = None,
        tolerance: float | None = None,
        std: float | None = None,
        steps: int | None = None,
        **how: Any,
    ) -> Observations:
        r"""Make observations from a table: columns ``time, variable, value, std``, position.

        The position is given by columns named as the space's coordinates, or as the CF conventions
        name latitude, longitude and level; or by ``point``, the flat index of the grid point.
        Where every position is a grid point (within a thousandth of the spacing) the operator is
        `Select`, else `Interpolate`; each distinct variable and position is one column of
        `values`. A column ``units`` gives the unit of value and std, which are converted, and a
        column ``law`` the law of the values, as ``student:4`` (`law_names`); it is Gaussian where
        there is none. A count has no std, and one that is given for it is not used.

        A report that is there twice, with the same time, place and numbers, counts once. Other
        rows of the same step, variable and position become one value,
        :math:`\sum_i v_i \sigma_i^{-2} / \sum_i \sigma_i^{-2}` with the std
        :math:`(\sum_i \sigma_i^{-2})^{-1/2}`. Rows that cannot be used are listed with their
        reasons in `unused`, and counted in `summary`.

        Arguments:
            table: Path of a table (CSV, also with tabs, semicolons or compressed; Parquet; NetCDF
                or zarr, also with stations of the CF conventions), a pandas or polars data frame,
                an xarray Dataset, or a mapping of column names to arrays.
            space: Space of the states.
            start: Datetime of step 0, needed where times are datetimes; UTC unless it says.
            tolerance: Largest distance of a time from its step, in the unit of ``space.dt``.
                Default: half of ``space.dt``, so that every time has its nearest step.
            std: Standard deviation of the error where the table has none.
            steps: Last step to use. Default: no limit.
            how: `units`, `missing`, `climate`, `gross_error_check`, `nearest` and `law` of
                ``rows.How``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a column is missing, no row can be used, a unit cannot be converted, or
                datetimes lack `start` or ``space.units["time"]``.
        """
        found = cls.by_period(table, space, start, tolerance, std, steps, **how)
        if len(found) > 1:
            raise ValueError(
                "Got a table of single values and means over periods, or periods of several "
                "lengths: `Observations.by_period` makes an instrument of each."
            )
        return found[0]

    @classmethod
    def by_period(
        cls,
        table: Source,
        space: StateSpace,
        start: Start | None = None,
        tolerance: float | None = None,
        std: float | None = None,
        steps: int | None = None,
        **how: Any,
    ) -> list[Observations]:
        """Make an instrument of the single values of a table, and one of each kind of period.

        A row with a time in the column ``since`` is the mean of the states of the steps after it,
        up to ``time``, or their sum where ``cell_methods`` is ``time: sum``. Filters remember the
        states that they need for that. Arguments and errors are those of `from_table`.
        """
        reading = How(start, tolerance, std, steps, **how)
        rows = tables.usable_rows(table, space, reading)
        return [cls._arranged(part, space, start, period=period) for period, part in rows.split()]

    @classmethod
    def from_array(
        cls,
        array: Source,
        space: StateSpace,
        std: float,
        variable: str | None = None,
        times: np.ndarray | None = None,
        start: Start | None = None,
        tolerance: float | None = None,
        steps: int | None = None,
        **how: Any,
    ) -> Observations:
        """Make observations from fields with NaN where nothing was observed.

        Each grid point that is ever observed is one column of `values`. Fields of a file are
        aligned with the space by their labels, and converted to its units.

        Arguments:
            array: ``(time, *grid)``, or a file, store or xarray object with that variable on the
                time and the space's coordinates, or on some of their positions.
            space: Space of the states.
            std: Standard deviation of the error.
            variable: Variable that is observed; may be left out where the space has one.
            times: Times of an array: model times or datetimes. Default: row k is step k.
            start: As in `from_table`, like the next three.
            tolerance: Largest distance of a time from its step.
            steps: Last step to use.
            how: `missing`, `climate`, `gross_error_check` and `law` of ``rows.How``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the fields do not fit the space, or nothing can be used.
        """
        reading = How(start, tolerance, std, steps, **how)
        rows = tables.usable_fields(array, space, std, variable, times, reading)
        return cls._arranged(rows, space, start)

    @classmethod
    def _arranged(
        cls,
        rows: tables.UsableRows,
        space: StateSpace,
        start: Start | None,
        period: Period = POINT,
    ) -> Observations:
        places, ends, values, std, averaged, law = tables.arrange(rows, space)
        operator: Operator
        if places.ndim == 3:
            if period != POINT:
                raise ValueError(
                    "Got means over periods at positions that change from step to step: give "
                    "those of stations alone."
                )
            operator = MovingInterpolate(ends, places[..., 1:], places[..., 0].astype(int), space)
        elif places.shape[1] == 1:
            operator = Select(places[:, 0].astype(int).tolist())
        else:
            names = tuple(space.variables[int(i)] for i in places[:, 0])
            operator = Interpolate(torch.from_numpy(places[:, 1:]), space, names)
        dtype = torch.get_default_dtype()
        usual = np.nanmean(std, 0) if places.ndim == 2 else np.nanmean(std, keepdims=True)[0]
        nominal = torch.from_numpy(usual).to(dtype)
        scaled = law is None or law.scaled
        steps: list[Any] = ends
        if period.steps > 1:
            operator = period.operator(operator)
            steps = [tuple(range(end - period.steps + 1, end + 1)) for end in ends]
        return cls(
            ObservationModel(operator, std=nominal if scaled else None, law=law),
            steps,
            torch.from_numpy(values).to(dtype),
            torch.from_numpy(std).to(dtype) if scaled else None,
            rows.unused,
            rows.notes
            + ((f"{averaged} reports of one place and step averaged",) if averaged else ()),
            start,
        )

    def to_table(
        self,
        path: str | Path,
        space: StateSpace,
        start: Start | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the present values as a table, CSV (``*.csv``) or NetCDF (``*.nc``), atomically.

        Times are datetimes if `start` is given, else model time. `from_table` reads it.

        Arguments:
            path: File to write.
            space: Space of the states.
            start: Datetime of step 0.
            overwrite: Replace a CSV of the same columns, which has no place for Scorda's mark.

        Raises:
            ValueError: If a file is there that may not be replaced, or a table cannot hold the
                observations: it takes values of single variables at single steps, with
                independent errors.
        """
        if self.model.cov is not None and self.std is None:
            raise ValueError(
                "Got correlated errors (`cov`), which a table cannot hold: give `std`."
            )
        if any(isinstance(step, tuple) for step in self.steps):
            raise ValueError("Got observations of several steps at once: a table has one per row.")
        if not any(self._any):
            raise ValueError(
                "Got observations without a present value: there is nothing to write."
            )
        pieces = list(present_values(self))
        names = [np.array(p.operator.variables(space), dtype=object)[p.entry] for p in pieces]
        places = torch.cat([p.operator.coordinates(space)[p.entry] for p in pieces])
        values, std = torch.cat([p.value for p in pieces]), torch.cat([p.std for p in pieces])
        rows = np.concatenate([p.row for p in pieces])
        elapsed = np.array(self.steps, dtype=float)[rows] * space.dt
        # Fifteen digits: 0.05 * 3 is written as 0.15.
        plain = np.array([float(f"{t:.15g}") for t in elapsed])
        columns = {
            "time": plain if start is None else dates_after(start, elapsed, space),
            "variable": np.concatenate(names),
            **dict(zip(space.position_names, places.numpy(force=True).T, strict=True)),
            "value": values.numpy(force=True),
            "std": std.numpy(force=True),
        }
        if self.model.law is not None:
            columns["law"] = np.concatenate([self.laws()[p.entry] for p in pieces])
        write_columns(path, columns, overwrite)

    def summary(self) -> str:
        """Say in a sentence how many values there are, and which rows are not used and why."""
        ends = [step[-1] if isinstance(step, tuple) else step for step in self.steps]
        first, last = (ends[0], ends[-1]) if ends else ("-", "-")
        of = f"of {self.values[:1].numel()} observed quantities"
        if isinstance(self.model.operator, MovingInterpolate):
            of = "of moving platforms"
        lengths = {len(step) for step in self.steps if isinstance(step, tuple)}
        over = f"over {min(lengths)} steps " if len(lengths) == 1 else ""
        text = (
            f"{int((~self.values.isnan()).sum())} values {of} "
            f"{over}at {len(self)} steps ({first} to {last}); "
            f"{len(self.unused)} rows not used"
        )
        text += f": {tables.summary_of(self.unused)}" if self.unused else ""
        if self.model.law is not None:
            text += f"; law {', '.join(dict.fromkeys(self.laws()))}"
        return "; ".join((text, *self.notes)) + "."

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"<Observations: {self.summary()}>"

    def _repr_html_(self) -> str:
        return observations_html(self)

    def at(self, k: int) -> tuple[Float[Tensor, "present"], ObservationModel]:
        """Return observation and model of row k, flattened, without absent entries."""
        y, model = self.flat[k], self._whole
        if isinstance(self.model.operator, MovingInterpolate):
            model = replace(model, operator=Present(self.operator(k)))
        if self.std is not None:
            model = model.like(model.operator, self._stds[k])
        if self._complete[k]:
            return y.clone(), model
        present = ~y.isnan()
        return y[present], model.only(present, y)

    def operator(self, k: int) -> Operator:
        """Return the operator of row k, of all its entries."""
        whole, step = self.model.operator, self.steps[k]
        if not isinstance(whole, MovingInterpolate):
            return whole
        return whole.at_step(step[-1] if isinstance(step, tuple) else step)

    def laws(self) -> np.ndarray:
        """Return the law of each entry of a flattened row as text, as ``gaussian``."""
        size = self.flat.shape[1]
        if self.model.law is None:
            return np.full(size, "gaussian", dtype=object)
        return np.array(self.model.law.texts(size), dtype=object)

    def check_gaussian(self, what: str) -> None:
        """Check that the errors are Gaussian.

        Arguments:
            what: What needs it, such as "scores".

        Raises:
            ValueError: If they are of another law.
        """
        if self.model.law is not None:
            laws = ", ".join(dict.fromkeys(self.laws()))
            raise ValueError(
                f"Got observations of another law than the Gaussian ({laws}), for which there are "
                f"no {what}: leave them out."
            )

    def observed(self, k: int) -> bool:
        """Say whether row k has any present value."""
        return self._any[k]

    def predict(
        self, trajectory: Float[Tensor, "ensemble time ..."]
    ) -> Float[Tensor, "ensemble cycle ..."]:
        """Observe trajectories ``(ensemble, steps + 1, *state)`` without error.

        All rows whose entry of `steps` is alike go through the operator in one call.
        """
        last = self.steps[-1][-1] if isinstance(self.steps[-1], tuple) else self.steps[-1]
        if last >= trajectory.shape[1]:
            raise ValueError(
                f"Got an observation at step {last} for trajectories of {trajectory.shape[1]} "
                "states: they must reach the last observation."
            )
        lengths = {len(s) if isinstance(s, tuple) else 0 for s in self.steps}
        moving = isinstance(self.model.operator, MovingInterpolate)
        if len(lengths) == 1 and not moving:
            index = torch.tensor(self.steps, device=trajectory.device)
            states = trajectory[:, index]
            predicted = self.model.operator(states.flatten(0, 1))
            self._check_shape(tuple(predicted.shape[1:]))
            return predicted.unflatten(0, states.shape[:2])
        rows = [
            self.operator(k)(trajectory[:, list(s) if isinstance(s, tuple) else s])
            for k, s in enumerate(self.steps)
        ]
        for row in rows:
            self._check_shape(tuple(row.shape[1:]))
        return torch.stack(rows, 1)

    def _check_shape(self, made: tuple[int, ...]) -> None:
        if made != tuple(self.values.shape[1:]):
            raise ShapeError(
                f"Got observations of shape {tuple(self.values.shape)} for an operator that "
                f"makes {made} of each state: `values` must be (cycle, *{made})."
            )

    def log_likelihood(
        self, trajectory: Float[Tensor, "ensemble time ..."]
    ) -> Float[Tensor, "ensemble"]:
        """Return the log density of all values given trajectories, as `predict` takes them."""
        total = trajectory.new_zeros(len(trajectory))
        if self.model.law is not None or (self.std is None and self.model.cov is not None):
            for k, step in enumerate(self.steps):
                y, model = self.at(k)
                states = trajectory[:, list(step) if isinstance(step, tuple) else step]
                total = total + model.log_likelihood(y.to(states), states)
            return total
        if not self.steps:
            return total
        y = self.flat.to(trajectory)
        std = self.flat_std.to(y)
        present = ~y.isnan()
        predicted = self.predict(trajectory).reshape(len(trajectory), *y.shape)
        residual = (y.nan_to_num() - predicted) / std
        squares = residual.square().masked_fill(~present, 0.0).sum((1, 2))
        log_norm = (std.log() + 0.5 * math.log(2 * math.pi))[present].sum()
        return -0.5 * squares - log_norm

    @cached_property
    def flat(self) -> Float[Tensor, "cycle obs"]:
        """Return the values with each row flattened, NaN where absent."""
        return self.values.flatten(1) if self.values.ndim > 1 else self.values[:, None]

    @property
    def flat_std(self) -> Float[Tensor, "cycle obs"]:
        """Return std or scale of the error of each value of `flat`; NaN where its law has none."""
        if self.std is not None:
            scale = self._stds
        else:
            scale = self.model.scale(tuple(self.values.shape[1:]), self.values)
        if self.model.law is not None:
            without = ~self.model.law.with_std(scale.shape[-1]).to(scale.device)
            scale = scale.masked_fill(without, math.nan)
        return scale.expand(self.flat.shape)

    @cached_property
    def _stds(self) -> Tensor:
        # Where a value is absent its std means nothing: 1 keeps the arithmetic finite.
        std = torch.as_tensor(self.std).to(self.values).expand(self.values.shape)
        return std.reshape(self.flat.shape).masked_fill(self.flat.isnan(), 1.0)

    @cached_property
    def _complete(self) -> list[bool]:
        return (~self.flat.isnan()).all(1).tolist()

    @cached_property
    def _any(self) -> list[bool]:
        return (~self.flat.isnan()).any(1).tolist()

    @cached_property
    def _whole(self) -> ObservationModel:
        """Return the model of a complete flattened observation."""
        operator = Present(self.model.operator, size=self.flat.shape[1])
        if self.model.cov is not None:
            return ObservationModel(operator, cov=self.model.cov)
        scale = self.model.scale(tuple(self.values.shape[1:]), self.values)
        return self.model.like(operator, scale)


def _check_order(steps: tuple[int | tuple[int, ...], ...]) -> None:
    """Check that steps are at least 0 and increase, within an entry and from one to the next."""
    last = [s[-1] if isinstance(s, tuple) else s for s in steps]
    ordered = all(b > a for a, b in pairwise(last))
    ordered &= all(b > a for s in steps if isinstance(s, tuple) for a, b in pairwise(s))
    if not ordered or any((s[0] if isinstance(s, tuple) else s) < 0 for s in steps):
        raise ValueError(
            f"Got steps {steps[:8]}{'...' if len(steps) > 8 else ''}: they must be >= 0 and "
            "strictly increasing; sort them and merge rows of the same step."
        )


def _check_errors(std: Tensor, values: Tensor) -> None:
    """Check that errors have the shape of the values, and are positive where there is one."""
    try:
        std = std.expand(values.shape)
    except RuntimeError as error:
        raise ValueError(
            f"Got an observation error std of shape {tuple(std.shape)} for values of shape "
            f"{tuple(values.shape)}: it must be one number or broadcast to that shape; for one "
            "per row give shape (cycle, 1)."
        ) from error
    check_std(std[~values.isnan()])


def _entry(step: Any) -> int | tuple[int, ...]:
    """Return an entry of `steps` as an integer or a tuple of them."""
    try:
        if isinstance(step, bool):
            raise TypeError
        if isinstance(step, Sequence):
            if not step:
                raise TypeError
            return tuple(index(i) for i in step)
        return index(step)
    except TypeError:
        raise ValueError(
            f"Got the step {step!r}: give whole numbers, or a tuple of them for one row."
        ) from None
