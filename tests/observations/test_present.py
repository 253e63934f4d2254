"""The present values of an instrument, all at once, are those of its rows one by one."""

import numpy as np
import pytest
import torch

from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Linear, Select
from scorda.observations.present import present_values
from scorda.store import groups

PLANE = StateSpace((2, 3, 4), 0.5, ("t", "u"), {"y": np.arange(3.0), "x": np.arange(4.0)})
COV = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)
STD = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)


def moving():
    draw, rows = np.random.default_rng(0), (7, 5, 3, 6)
    step = np.repeat([0, 1, 3, 4], rows)
    columns = {"time": 0.5 * step, "y": draw.uniform(0, 2, 21), "x": draw.uniform(0, 3, 21)}
    columns["variable"] = np.array([("t", "u")[i % 2] for i in range(21)])
    columns |= {"value": draw.normal(size=21), "std": draw.uniform(0.2, 1.0, 21)}
    return Observations.from_table(columns, PLANE)


def instruments():
    """Each with gaps and a row that is absent altogether."""
    values = normal(5, (3,), seeded(0))
    values[0, 1] = values[2] = values[4, 2] = torch.nan
    picked = Select([20, 3, 7])
    weights = torch.zeros(3, 24)
    weights[0, 5], weights[1, 0], weights[1, 13], weights[2, 23] = 1.0, 0.5, 0.5, 1.0
    steps = [0, 2, 3, 7, 9]
    pairs = Function(lambda x: x.flatten(1)[:, :3] if x.ndim == 4 else x[:, -1].flatten(1)[:, :3])
    return {
        "std": Observations(ObservationModel(picked, std=0.7), steps, values),
        "std of each": Observations(ObservationModel(picked, std=STD), steps, values),
        "std of all": Observations(
            ObservationModel(picked, std=1.0), steps, values, normal(5, (3,), seeded(1)).exp()
        ),
        "cov": Observations(ObservationModel(picked, cov=COV), steps, values),
        "linear": Observations(ObservationModel(Linear(weights), std=STD), steps, values),
        "one number": Observations(
            ObservationModel(Function(lambda x: x.flatten(1).mean(1)), std=0.5),
            steps,
            values[:, 0],
        ),
        "several steps": Observations(
            ObservationModel(pairs, std=0.5), [(0, 1), 2, 3, (4, 7), 9], values
        ),
        "moving": moving(),
    }


def one_by_one(instrument):
    """Step, value, std, component, variable and position of each value, from its own row."""
    for k, entry in enumerate(instrument.steps):
        y, model = instrument.at(k)
        several = isinstance(entry, tuple)
        for i in range(len(y)):
            error = float(model.error_std(tuple(y.shape), y)[i])
            component, place, name = -1, [np.nan, np.nan], ""
            if not several:
                component = int(groups._components(model.operator, PLANE)[i])
                name = str(groups._variables(model.operator, PLANE, np.full(len(y), component))[i])
                try:
                    place = model.operator.coordinates(PLANE)[i].tolist()
                except ValueError:
                    pass
            yield entry[-1] if several else entry, float(y[i]), error, component, name, *place


@pytest.mark.parametrize("kind", instruments())
def test_the_table_of_observations_is_that_of_its_rows_one_by_one(kind):
    instrument = instruments()[kind]
    table = groups.observation_table([instrument], PLANE)
    rows = list(zip(*one_by_one(instrument), strict=True))
    for name, column in zip(
        ("step", "value", "std", "component", "variable", "y", "x"), rows, strict=True
    ):
        np.testing.assert_array_equal(table[name], np.array(column, dtype=table[name].dtype))
    np.testing.assert_array_equal(table["time"], 0.5 * table["step"])


def test_an_operator_is_called_once_for_all_rows():
    """Not once per row, of which a long record has a hundred thousand."""
    pieces = list(present_values(instruments()["std"]))
    assert len(pieces) == 1 and len(pieces[0].value) == 10
    assert len(list(present_values(moving()))) == 4
