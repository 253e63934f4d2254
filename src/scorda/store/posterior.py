"""A posterior that is stored on disk, and what belongs to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.problem import Analysis

if TYPE_CHECKING:
    import xarray

__all__ = ["Posterior", "info_path", "open_posterior", "space_from_json", "space_to_json"]

GROUPS = ("observations", "withheld", "truth")


def info_path(path: Path) -> Path:
    """File of timings, memory and versions that belongs to a store: ``run.zarr``, ``run.json``."""
    return path.with_suffix(".json")


@dataclass(frozen=True)
class Posterior:
    """A stored posterior; nothing is read before it is asked for.

    Arguments:
        path: Directory of the zarr store.

    Raises:
        ValueError: If there is no posterior at that path.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.exists():
            raise ValueError(
                f"There is no {self.path}: name the store of a run, such as run.zarr."
            )
        if "method" not in self._attributes:
            raise ValueError(
                f"{self.path} is no posterior of Scorda: name one that `scorda assimilate` wrote."
            )

    @property
    def complete(self) -> bool:
        """Whether the run came to its end; if not, continue it with `--resume`."""
        return bool(self._attributes["complete"])

    @property
    def stopped(self) -> str | None:
        """Why a filter came to an early end, if it did; its steps before that can be read."""
        stop = self._stop
        return None if stop is None else str(stop["reason"])

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self._attributes["method"])

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
        return space_from_json(self._attributes["space"])

    @property
    def info(self) -> dict[str, Any]:
        """Timings, memory, versions and what the method reported; empty while incomplete.

        Of a run that was stopped: ``stopped`` (error, reason, step, cycle, members, and the number
        of states that were made), and what was reported so far.
        """
        file = info_path(self.path)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @property
    def analysis(self) -> Analysis:
        """The ensemble as tensors, read in full."""
        dataset = self.to_xarray()
        weights = None
        if "weight" in dataset:
            weights = torch.from_numpy(dataset["weight"].values)
        states = self._states(dataset)
        return Analysis(states, self.space, weights, self.info.get("report", {}), self.method)

    @property
    def truth(self) -> Float[Tensor, "time ..."] | None:
        """True states ``(time, *state)``, or None where there is no truth."""
        dataset = self.group("truth")
        if dataset is None:
            return None
        return self._states(dataset if self._stop is None else _first(dataset, self._stop))

    @property
    def observations(self) -> xarray.Dataset:
        """Values that were assimilated, one row each: step, time, value, std, component, ..."""
        dataset = self.group("observations")
        assert dataset is not None
        return dataset

    def group(self, name: str) -> xarray.Dataset | None:
        """One of the groups "observations", "withheld", "truth", or None where it is absent."""
        import xarray

        if not (self.path / name).is_dir():
            return None
        return xarray.open_zarr(self.path, group=name, chunks=None, consolidated=False)

    def to_xarray(self) -> xarray.Dataset:
        """Dataset of the ensemble, read lazily: dims (ensemble, time, ...).

        Of a run that was stopped, the steps before.

        Raises:
            ValueError: If the run has not yet come to its end.
        """
        import xarray

        stop = self._stop
        if not self.complete and stop is None:
            raise ValueError(
                f"{self.path} is incomplete: continue the run with `scorda assimilate --resume`."
            )
        dataset = xarray.open_zarr(self.path, chunks=None, consolidated=False)
        return dataset if stop is None else _first(dataset, stop)

    def to_netcdf(self, path: str | Path) -> None:
        """Write ensemble, observations and truth to one NetCDF file, its groups likewise."""
        import xarray

        groups = {"/": self.to_xarray()}
        groups |= {f"/{n}": d for n in GROUPS if (d := self.group(n)) is not None}
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        xarray.DataTree.from_dict(groups).to_netcdf(partial, engine="h5netcdf")
        partial.replace(target)

    @property
    def _stop(self) -> dict[str, Any] | None:
        return None if self.complete else self.info.get("stopped")

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        metadata = self.path / "zarr.json"
        if not metadata.exists():
            return {}
        return json.loads(metadata.read_text(encoding="utf-8")).get("attributes", {})

    def _states(self, dataset: xarray.Dataset) -> Tensor:
        arrays = [dataset[name].values for name in self.space.variables]
        if not self.space.has_channels:
            return torch.from_numpy(arrays[0])
        channel = arrays[0].ndim - (len(self.space.shape) - 1)
        return torch.from_numpy(np.stack(arrays, channel))


def _first(dataset: xarray.Dataset, stop: dict[str, Any]) -> xarray.Dataset:
    """The steps that were made before a run was stopped."""
    return dataset.isel(time=slice(0, int(stop["states"])))


def open_posterior(path: str | Path) -> Posterior:
    """Open a stored posterior.

    Raises:
        ValueError: If there is none at that path.
    """
    return Posterior(Path(path))


def space_to_json(space: StateSpace) -> str:
    """Everything of a space, as JSON."""
    return json.dumps(
        {
            "shape": space.shape,
            "dt": space.dt,
            "variables": space.variables,
            "coordinates": {n: list(map(float, c)) for n, c in (space.coordinates or {}).items()},
            "period": dict(space.period),
            "units": dict(space.units),
        }
    )


def space_from_json(text: str) -> StateSpace:
    """Inverse of `space_to_json`."""
    content = json.loads(text)
    return StateSpace(
        tuple(content["shape"]),
        content["dt"],
        tuple(content["variables"]),
        {name: np.asarray(values) for name, values in content["coordinates"].items()},
        content["period"],
        content["units"],
    )
