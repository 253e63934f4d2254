"""The groups of a store beside the ensemble: observations, truth, and values kept back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import zarr

from scorda.core.calendars import Start
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.circular import predicted
from scorda.observations.observations import Observations
from scorda.observations.operators import Operator
from scorda.observations.present import present_values
from scorda.store.layout import array, chunks_of, write_array
from scorda.store.members import LARGEST

__all__ = [
    "CARRIED",
    "observation_columns",
    "observation_table",
    "read_carried",
    "read_states",
    "write_carried",
    "write_table",
    "write_truth",
    "write_withheld",
]

# Group of what a filter carries from its last analysis to a run that goes on from there.
CARRIED = "carried"


def write_truth(
    root: zarr.Group,
    truth: Float[Tensor, "time ..."],
    space: StateSpace,
    start: Start | None = None,
    steps: slice = slice(None),
) -> None:
    """Write the group ``truth`` at some steps, one array per variable, dims ``(time, ...)``."""
    group = root.create_group("truth", overwrite=True)
    dataset = Analysis(truth[None], space).to_xarray(start=start).isel(ensemble=0, drop=True)
    dataset = dataset.isel(time=steps)
    for name, variable in dataset.variables.items():
        dims = [str(d) for d in variable.dims]
        write_array(group, str(name), np.asarray(variable.values), dims, variable.attrs)


def write_table(root: zarr.Group, name: str, columns: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a group of columns along the dim ``observation`` (first ``ensemble`` if 2-D)."""
    group = root.create_group(name, overwrite=True)
    for column, values in columns:
        if values.dtype.kind == "O":
            # The text of zarr 3: the one of fixed length has no specification.
            values = values.astype(np.dtypes.StringDType())
        dims = ["observation"] if values.ndim == 1 else ["ensemble", "observation"]
        write_array(group, column, values, dims, {})


def write_withheld(
    root: zarr.Group, space: StateSpace, withheld: Sequence[Observations]
) -> list[str]:
    """Write the observations kept back, and what each member predicts of them without error.

    Returns:
        The names of the files of the group in the store.
    """
    predicted = [part for one in withheld for part in _predicted(root, space, one)]
    columns = observation_table(withheld, space)
    columns |= {"predicted": np.concatenate(predicted, 1)}
    write_table(root, "withheld", columns.items())
    names = ["withheld/zarr.json", *(f"withheld/{name}/zarr.json" for name in columns)]
    return names + [
        file for name in columns for file in chunks_of(array(root, f"withheld/{name}"), ())
    ]


def _predicted(
    root: zarr.Group, space: StateSpace, instrument: Observations
) -> Iterator[np.ndarray]:
    """Yield what each member predicts of the present values of each row, ``(ensemble, present)``.

    What is circular is on turns whose mean is nearest to the value that is observed. Steps that
    lie in the same chunks are read once for all their rows.
    """
    stored = array(root, space.variables[0])
    together = max(LARGEST // (stored.shape[0] * space.size), 1)
    together -= together % stored.chunks[1] if together > stored.chunks[1] else 0
    first, last, states = 0, 0, torch.empty(0)
    for k, entry in enumerate(instrument.steps):
        if not instrument.observed(k):
            continue
        steps = [entry] if isinstance(entry, int) else list(entry)
        if steps[0] < first or steps[-1] >= last:
            first = steps[0] - steps[0] % together
            last = min(max(first + together, steps[-1] + 1), stored.shape[1])
            states = read_states(root, space, list(range(first, last)))
        seen = states[:, [step - first for step in steps]]
        y, model = instrument.at(k)
        x = seen[:, 0] if isinstance(entry, int) else seen
        w = None
        if space.circular and "weight" in root and isinstance(entry, int):
            w = torch.from_numpy(np.asarray(array(root, "weight")[:, entry]))
        yield predicted(model.operator, x, space, y, w).flatten(1).numpy()


def read_states(root: zarr.Group, space: StateSpace, steps: int | list[int]) -> Tensor:
    """Read members at one step, ``(ensemble, *state)``, or some, ``(ensemble, len, *state)``.

    They are 0 outside of the mask of the space, as inside of methods.
    """
    listed = [steps] if isinstance(steps, int) else steps
    low, high = min(listed), max(listed) + 1
    offsets = [step - low for step in listed]
    fields = {n: np.asarray(array(root, n)[:, low:high])[:, offsets] for n in space.variables}
    states = space.joined(fields)
    return space.filled(torch.from_numpy(states[:, 0] if isinstance(steps, int) else states))


def write_carried(root: zarr.Group, carried: Mapping[str, Tensor]) -> list[str]:
    """Write what a filter carries, numbered: a name may have any letters. Returns the files."""
    group = root.create_group(CARRIED, overwrite=True)
    names = [f"{CARRIED}/zarr.json"]
    for number, (name, tensor) in enumerate(sorted(carried.items())):
        values, at = tensor.detach().cpu().numpy(), f"{number:04d}"
        write_array(group, at, values, [f"axis_{n}" for n in values.shape], {"name": name})
        names += [f"{CARRIED}/{at}/zarr.json", *chunks_of(array(group, at), ())]
    return names


def read_carried(root: zarr.Group) -> dict[str, Tensor] | None:
    """Read what a filter carries, None where it carries nothing."""
    if CARRIED not in root:
        return None
    group = root[CARRIED]
    assert isinstance(group, zarr.Group)
    arrays = [array(group, name) for name in sorted(group.array_keys())]
    return {str(a.attrs["name"]): torch.from_numpy(np.asarray(a[...])) for a in arrays}


def observation_table(
    observations: Sequence[Observations], space: StateSpace
) -> dict[str, np.ndarray]:
    """Return all present values as columns, as `observation_columns` makes them."""
    return dict(observation_columns(observations, space))


def observation_columns(
    observations: Sequence[Observations], space: StateSpace
) -> Iterator[tuple[str, np.ndarray]]:
    """Make columns of all present values, in the order of instruments and steps, one at a time.

    The columns are ``step``, ``time``, ``value``, ``std``, ``instrument``, ``variable`` ("" where
    the operator does not observe single variables), ``component`` (index into the flattened state
    where the operator picks one component, else -1) and one per column of a position (NaN
    where the operator does not know its positions). Where a law is not Gaussian, ``law`` is the
    text of each, and ``std`` its scale, or NaN where it has none.
    """
    laws = any(instrument.model.law is not None for instrument in observations)
    parts: dict[str, list[Callable[[], np.ndarray]]] = {}
    for number, instrument in enumerate(observations):
        for column, made in _columns(number, instrument, space, laws):
            parts.setdefault(column, []).append(made)
    for column, makes in parts.items():
        yield column, np.concatenate([made() for made in makes])


def _columns(
    number: int, instrument: Observations, space: StateSpace, laws: bool
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield the columns of an instrument by name, as functions that make a piece of each."""
    entries = instrument.steps
    several = np.array([isinstance(entry, tuple) for entry in entries])
    last = np.array([e[-1] if isinstance(e, tuple) else e for e in entries])
    for piece in present_values(instrument):
        joint = several[piece.row]
        # What is of several steps is told by the last entry, which is unknown.
        seen = _seen(piece.operator, space, instrument.flat.shape[1], not joint.all())
        place = np.where(joint, -1, piece.entry)
        yield "step", partial(_taken, last, piece.row)
        yield "time", partial(_taken, space.dt * last, piece.row)
        yield "value", partial(_in_double, piece.value)
        yield "std", partial(_in_double, piece.std)
        yield "instrument", partial(np.full, len(piece.row), number)
        for column, values in seen.items():
            yield column, partial(_taken, values, place)
        if laws:
            yield "law", partial(_taken, instrument.laws(), piece.entry)


def _taken(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return values[index]


def _in_double(values: Tensor) -> np.ndarray:
    return values.double().numpy()


def _seen(
    operator: Operator, space: StateSpace, values: int, known: bool
) -> dict[str, np.ndarray]:
    """Return columns that tell what an operator observes, with one unknown entry at their end."""
    positions = np.full((values + 1, len(space.position_names)), np.nan)
    component, variable = np.full(values + 1, -1), np.full(values + 1, "", dtype=object)
    if known:
        component[:-1] = _components(operator, space)
        variable[:-1] = _variables(operator, space, component[:-1])
        try:
            positions[:-1] = operator.coordinates(space).numpy()
        except ValueError:
            pass
    columns = {name: positions[:, i] for i, name in enumerate(space.position_names)}
    return {"variable": variable, "component": component, **columns}


def _variables(operator: Operator, space: StateSpace, component: np.ndarray) -> np.ndarray:
    """Return the name of the variable that each observation is of, or ""."""
    try:
        return np.array(operator.variables(space), dtype=object)
    except ValueError:
        names = np.array([*space.variables, ""], dtype=object)
        return names[np.where(component < 0, -1, space.variable_of(component))]


def _components(operator: Operator, space: StateSpace) -> np.ndarray:
    """Return the index of the state's component that each observation is, or -1.

    A linear observation with weights w is one component i exactly if the weights sum to 1 and
    the index has no variance under them (for w >= 0).
    """
    index = torch.arange(space.size, dtype=torch.float64)
    probes = torch.stack([torch.ones_like(index), index, index.square()])
    if not operator.linear:
        return np.full(len(operator(probes[:1].reshape(-1, *space.shape))[0].flatten()), -1)
    total, mean, square = operator(probes.reshape(-1, *space.shape)).flatten(1)
    single = (total == 1) & (mean == mean.round()) & (square == mean.square())
    return torch.where(single, mean, -1.0).long().numpy()
