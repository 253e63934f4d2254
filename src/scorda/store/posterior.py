"""A posterior that is stored on disk, and its space and attributes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.files import write_netcdf
from scorda.core.headers import parsed
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.reading.opening import readable
from scorda.store.damage import check_files, check_hashes, read_record, telling
from scorda.store.headers import (
    check_kept,
    check_posterior,
    check_states,
    check_table,
    shape_of,
    space_from_json,
    store_attributes,
)
from scorda.store.keep import LAST, TIME, Kept
from scorda.store.members import Stored
from scorda.store.reports import dropped

if TYPE_CHECKING:
    import xarray

    from scorda.store.sums import Sums

__all__ = ["Posterior", "open_posterior"]

KEPT_GROUPS = (LAST, "scores")
GROUPS = ("observations", "withheld", "truth", *KEPT_GROUPS)


@dataclass(frozen=True)
class Posterior:
    """A stored posterior; nothing is read before it is asked for.

    Arguments:
        path: Directory of the zarr store.

    Raises:
        ValueError: If there is no posterior at that path, or a file of it is missing or damaged.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.exists():
            raise ValueError(
                f"There is no {self.path}: name the store of a run, such as run.zarr."
            )
        record = read_record(self.path)
        if "parts" in record:
            check_files(self.path, record)
        if "method" not in self._attributes:
            raise ValueError(
                f"{self.path} is no posterior of Scorda: name one that `scorda assimilate` wrote."
            )
        check_posterior(self.path, self._attributes)
        if "parts" not in record and (self.complete or "stopped" in record):
            check_files(self.path, record)

    def check(self) -> None:
        """Check all bytes of the store against its checksums.

        Raises:
            ValueError: If a file is damaged; the sentence names it and the unit of work.
        """
        check_hashes(self.path)

    @property
    def complete(self) -> bool:
        """Whether the run came to its end; if not, continue it with ``--resume``."""
        return bool(self._attributes["complete"])

    @property
    def stopped(self) -> str | None:
        """Reason why a filter came to an early end, if it did; its steps before can be read."""
        return None if self._stop is None else str(self._stop["reason"])

    @property
    def dropped(self) -> dict[int, int]:
        """First step without each member whose model failed, by its number (see `info`)."""
        return dropped(self.info)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self._attributes["method"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self._attributes["seed"])

    @property
    def first_step(self) -> int:
        """Number of step 0 in the runs that this one goes on from; 0 of one that goes on alone."""
        return int(self._attributes.get("first_step", 0))

    @property
    def smoother(self) -> bool:
        """Whether each state is conditioned on all observations, not on past ones only."""
        return self._attributes["conditioned_on"] == "all data"

    @property
    def configuration(self) -> dict[str, Any]:
        """Resolved configuration of the run."""
        return json.loads(self._attributes.get("configuration", "{}"))

    @cached_property
    def space(self) -> StateSpace:
        """Space of the states."""
        return space_from_json(self._attributes["space"], self.path)

    @cached_property
    def kept(self) -> Kept | None:
        """What the store keeps of the ensemble, None where it has all of it.

        Raises:
            ValueError: If it says that it keeps what there cannot be.
        """
        if "keep" not in self._attributes:
            return None
        where = f"keep of {self.path}"
        kept = Kept.from_json(parsed(self._attributes["keep"], where), where)
        if not set(kept.variables) <= set(self.space.variables):
            raise ValueError(f"{where} names variables that the state has not: make it anew.")
        return kept

    @property
    def holds_all(self) -> bool:
        """Whether all members of all variables are stored, at every step."""
        members = int(self._attributes["members"])
        return self.kept is None or self.kept.whole(members, self.space.variables)

    @property
    def states(self) -> int:
        """Number of states of the run; if it was stopped, of those before."""
        if (stop := self._stop) is not None:
            return int(stop["states"])
        return shape_of(self.path / "time")[0] if self.kept is None else self.kept.states

    @property
    def info(self) -> dict[str, Any]:
        """Timings, memory, versions, seals and the report of the method; empty while incomplete.

        They are in ``run.zarr.json`` beside ``run.zarr``, and empty where that has been removed.

        A run that was stopped has ``stopped`` (error, reason, step, cycle, members, and the number
        of states that were made) and the report so far. One that went on without members has
        ``dropped``: for the number of each the first step without it, and the reason.
        """
        return read_record(self.path)

    @property
    def analysis(self) -> Analysis:
        """The ensemble as tensors, read in full.

        Raises:
            ValueError: If the store does not keep all of it.
        """
        self._check_whole()
        states, weights = self._states(self.to_xarray()), self.members.weights(slice(None))
        info, times = self.info.get("report", {}), self.times
        start = None if times.dtype.kind in "fiu" else times[0]
        return Analysis(states, self.space, weights, info, self.method, self.dropped, start)

    @property
    def members(self) -> Stored:
        """The members, which are read block by block (see `scorda.store.members`).

        Raises:
            ValueError: If the store does not keep all of them.
        """
        self._check_whole()
        return Stored(self.to_xarray(), self.space, self.path, self.dropped)

    @property
    def true_member(self) -> Stored | None:
        """The truth as a single member, or None where there is no truth."""
        dataset = self.group("truth")
        return None if dataset is None else Stored(dataset, self.space, self.path)

    @cached_property
    def sums(self) -> Sums | None:
        """Sums of each step from which scores follow, made once; None where there is no truth.

        A store that keeps part of the ensemble has them of all of it.
        """
        from scorda.store.sums import SUMMED, state_sums

        truth, names = self.true_member, self.space.variables
        if truth is None or self.kept is None:
            return None if truth is None else state_sums(self.members, truth)
        found = zip(names, self._summed("states", (len(names), len(SUMMED))), strict=True)
        return {name: dict(zip(SUMMED, own, strict=True)) for name, own in found}

    @property
    def truth(self) -> Float[Tensor, "time ..."] | None:
        """True states ``(time, *state)``, or None where there is no truth.

        A store that keeps some steps has those of these.
        """
        dataset = self.group("truth")
        return None if dataset is None else self._states(dataset)

    def scales(self, first: int = 0) -> dict[str, float] | None:
        """Return the standard deviation of the truth by variable, from a step on.

        It is None where the units of all variables agree, or where there is no truth.
        """
        from scorda.store.sums import scales, scales_of

        truth, sums = self.true_member, self.sums
        if truth is None or sums is None:
            return None
        return scales(truth, first) if self.kept is None else scales_of(sums, self.space, first)

    @cached_property
    def times(self) -> np.ndarray:
        """Times of all states of the run, also of those that are not kept."""
        if self.kept is None or not (self.path / "scores").is_dir():
            return np.asarray(self.to_xarray()["time"].values)
        return np.asarray(self._scores[TIME].values)

    def observation_sums(self, kinds: int) -> Float[Tensor, "quantities kinds"]:
        """Return sums over the values kept back, of a store that keeps part of the ensemble."""
        from scorda.store.withheld import QUANTITIES

        return self._summed("observations", (len(QUANTITIES), kinds)).sum(2)

    @property
    def observations(self) -> xarray.Dataset:
        """Values that were assimilated, a row each with step, time, value, std, component, ..."""
        dataset = self.group("observations")
        assert dataset is not None
        return dataset

    def group(self, name: str) -> xarray.Dataset | None:
        """Open a group; None where it is absent.

        Each store has "observations", and "truth" and "withheld" where there are such. One that
        keeps part of the ensemble has "last" (of a run that came to its end) and "scores". Of a
        run that was stopped they have the steps before.

        Raises:
            ValueError: If observations do not say their variables.
        """
        import xarray

        # Elsewhere a variable may have these names; a run that was stopped has no last step.
        absent = name in KEPT_GROUPS and (self.kept is None or (name == LAST and self._stop))
        if absent or not (self.path / name).is_dir():
            return None
        if self.kept is not None:
            check_kept(self.path, self.space, self.kept, int(self._attributes["members"]))
        if name == "truth":
            check_states(self.path, self.space, shape_of(self.path / name / "time"), name)
        elif (self.path / name / "value").is_dir():
            check_table(self.path / name, int(self._attributes["members"]))
        with telling(self.path), readable(self.path, f"a posterior with {name}"):
            dataset = xarray.open_zarr(self.path, group=name, chunks=None, consolidated=False)
        if name == "observations" and not dataset.data_vars:
            return _no_observations(self.space)
        if name in ("observations", "withheld") and "variable" not in dataset:
            raise ValueError(
                f"The {name} of {self.path} do not say their variables, as a version of Scorda "
                "before wrote them: make the store anew."
            )
        dataset = _ordered(dataset, self.space.variables)
        if name == "scores":
            return dataset.isel(step=slice(0, self.states))
        return self._made(dataset) if name == "truth" else dataset

    def to_xarray(self) -> xarray.Dataset:
        """Open what is stored as a dataset that is read lazily, with dims (ensemble, time, ...).

        A run that was stopped has the steps before. A store that keeps part of the ensemble has
        this part, and the statistics under names such as ``x_mean``, with dims (time, ...).

        Raises:
            ValueError: If the run has not yet come to its end.
        """
        import xarray

        if not self.complete and self._stop is None:
            raise ValueError(
                f"{self.path} is incomplete: continue the run with `scorda assimilate --resume`."
            )
        members = int(self._attributes["members"])
        if self.kept is not None:
            check_kept(self.path, self.space, self.kept, members)
        else:
            check_states(self.path, self.space, (members, *shape_of(self.path / "time")))
        with telling(self.path), readable(self.path, "a posterior"):
            dataset = xarray.open_zarr(self.path, chunks=None, consolidated=False)
        return self._made(_ordered(dataset, self.space.variables))

    def to_netcdf(self, path: str | Path) -> None:
        """Write the ensemble and the groups to one NetCDF file, always the same bytes.

        Raises:
            ValueError: If the run has not yet come to its end, or a file is there that Scorda did
                not write.
        """
        import xarray

        groups = {"/": self.to_xarray()}
        groups |= {f"/{n}": d for n in GROUPS if (d := self.group(n)) is not None}
        with telling(self.path):
            write_netcdf(xarray.DataTree.from_dict(groups), path)

    @property
    def _stop(self) -> dict[str, Any] | None:
        return None if self.complete else self.info.get("stopped")

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return store_attributes(self.path)

    @property
    def _scores(self) -> xarray.Dataset:
        dataset = self.group("scores")
        assert dataset is not None
        with telling(self.path), readable(self.path, "a posterior with scores"):
            return dataset.load()

    def _summed(self, name: str, leading: tuple[int, int]) -> Tensor:
        """Read the sums of an array of scores, with a row for each step of the run."""
        found = self._scores
        if name not in found or found[name].shape[:2] != leading:
            raise ValueError(
                f"{self.path / 'scores'} has no {name} of shape {leading} at each step: make the "
                "store anew with --overwrite."
            )
        return torch.from_numpy(found[name].values)

    def _check_whole(self) -> None:
        if self.kept is not None and not self.holds_all:
            raise ValueError(
                f"{self.path} keeps {self.kept.words}: this needs all members of all variables at "
                "each step, which a run without --keep stores."
            )

    def _made(self, dataset: xarray.Dataset) -> xarray.Dataset:
        """Return the steps that were made before a run was stopped; all if it was not."""
        if self._stop is None:
            return dataset
        made = self.states if self.kept is None else self.kept.before(self.states)
        return dataset.isel(time=slice(0, made))

    def _states(self, dataset: xarray.Dataset) -> Tensor:
        with telling(self.path), readable(self.path, "a posterior"):
            fields = {name: dataset[name].values for name in self.space.variables}
        return torch.from_numpy(self.space.joined(fields))


def _no_observations(space: StateSpace) -> xarray.Dataset:
    """Return the table of observations of a run without any, whose group holds no columns."""
    import xarray

    columns = {"step": int, "time": float, "value": float, "std": float, "instrument": int}
    columns |= {"variable": str, "component": int} | dict.fromkeys(space.position_names, float)
    return xarray.Dataset({n: ("observation", np.zeros(0, kind)) for n, kind in columns.items()})


def _ordered(dataset: xarray.Dataset, first: Sequence[str]) -> xarray.Dataset:
    """Return a dataset with some variables first and all others by name.

    A folder on disk has no order of its own.
    """
    import xarray

    names = [n for n in first if n in dataset.data_vars]
    names += sorted(str(n) for n in dataset.data_vars if n not in first)
    variables = {name: dataset[name].variable for name in names}
    coordinates = {name: dataset[name].variable for name in sorted(map(str, dataset.coords))}
    return xarray.Dataset(variables, coordinates, dict(sorted(dataset.attrs.items())))


def open_posterior(path: str | Path) -> Posterior:
    """Open a stored posterior.

    Raises:
        ValueError: If there is none at that path.

    Example:
        A run is stored and opened again:

        >>> from scorda import store
        >>> made = store.run(sc.EnKF(), problem, 20, "run.zarr", seed=0)
        >>> posterior = sc.open_posterior("run.zarr")
        >>> posterior.method, posterior.states, posterior.complete
        ('EnKF', 17, True)
    """
    return Posterior(Path(path))
