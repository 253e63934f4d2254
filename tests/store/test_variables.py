"""Two variables of different units: stored, scored and drawn each by itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scorda import metrics, store
from scorda.cli.console import score_rows
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear
from scorda.observations.problem import Problem
from scorda.report.html import write_report
from scorda.report.maps import fields
from scorda.store import groups, scores, withheld as withheld_scores
from scorda.store.members import InMemory
from scorda.store.sums import as_members, scales, state_sums
from scorda.systems.function import FunctionSystem

SPACE = StateSpace(
    (2, 5, 6),
    1.0,
    ("t2m", "wind"),
    {"latitude": np.linspace(40.0, 48.0, 5), "longitude": np.linspace(0.0, 10.0, 6)},
    units={"time": "hours", "t2m": "K", "wind": "m s-1"},
)
CLIMATE = {"t2m": (280.0, 5.0, 0.5), "wind": (6.0, 2.0, 0.3)}


def table(seed, rows=12):
    """Reports of both variables at the same places, between the grid points."""
    draw = np.random.default_rng(seed)
    columns = {name: [] for name in ("time", "variable", "latitude", "longitude", "value", "std")}
    for step in (1, 2, 3):
        places = draw.uniform([40, 0], [48, 10], (rows, 2))
        for name, (mean, std, error) in CLIMATE.items():
            for lat, lon in places:
                row = (step, name, lat, lon, draw.normal(mean, std), error)
                for column, entry in zip(columns.values(), row, strict=True):
                    column.append(entry)
    return {name: np.array(column) for name, column in columns.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    draw = np.random.default_rng(2)
    states = np.stack([draw.normal(m, s, (40, 5, 6)) for m, s, _ in CLIMATE.values()], 1)
    system = FunctionSystem(lambda x: x, states, SPACE)
    observations = Observations.from_table(table(0), SPACE)
    problem = Problem(system, observations, 3)
    held = Observations.from_table(table(1, 5), SPACE)
    path = tmp_path_factory.mktemp("two") / "a.zarr"
    truth = torch.from_numpy(states[:1]).expand(4, -1, -1, -1).clone()
    return store.run(EnKF(), problem, 24, path, withheld=(held,), truth=truth)


def test_stored_observations_carry_their_variable(run):
    seen = run.observations
    names = seen["variable"].values
    assert sorted(set(names)) == ["t2m", "wind"]
    assert (seen["value"].values[names == "t2m"] > 200).all()
    assert (seen["value"].values[names == "wind"] < 50).all()
    assert set(run.group("withheld")["variable"].values) == {"t2m", "wind"}


def test_an_operator_of_no_single_variable_has_none_and_one_of_a_component_has_its_own():
    weights = torch.zeros(2, SPACE.size)
    weights[0, SPACE.size - 1], weights[1, 0], weights[1, -1] = 1.0, 0.5, 0.5
    model = ObservationModel(Linear(weights), std=1.0)
    made = groups.observation_table([Observations(model, [0], torch.ones(1, 2))], SPACE)
    assert made["variable"].tolist() == ["wind", ""]


@pytest.mark.parametrize("name", ["t2m", "wind"])
def test_a_map_shows_the_values_of_its_own_variable(run, name):
    """Also where both variables were observed at the same places between grid points."""
    seen = run.observations
    drawn = fields(run.analysis, 2, observations=seen, variable=name)
    panel = next(a for a in drawn.axes if a.get_title(loc="left") == "Observations")
    here = (seen["step"].values == 2) & (seen["variable"].values == name)
    shown = np.sort(np.asarray(panel.collections[0].get_array()))
    np.testing.assert_allclose(shown, np.sort(seen["value"].values[here]))


def test_scores_are_those_of_each_variable_alone_and_pooled_in_standard_deviations(run):
    held, found = run.group("withheld"), scores.scores(run)
    mean, errors = held["predicted"].values.astype(float).mean(0), held["std"].values
    residual, names = mean - held["value"].values, held["variable"].values
    for name in CLIMATE:
        alone = np.sqrt(np.mean(residual[names == name] ** 2))
        assert found[f"observation_rmse[{name}]"] == pytest.approx(alone, rel=1e-9)
    pooled = np.sqrt(np.mean((residual / errors) ** 2))
    assert found["observation_rmse[error std]"] == pytest.approx(pooled, rel=1e-9)
    assert "observation_rmse" not in found and "rmse" not in found
    truth, states = run.truth[1:].double(), run.analysis.states[:, 1:].double()
    spread = truth.movedim(1, 0).flatten(1).std(1, correction=0)
    # Scores are means over the steps.
    error = (states.mean(0) - truth).square().flatten(2).mean(2)
    wind, pooled = error[:, 1].sqrt().mean(), (error / spread**2).mean(1).sqrt().mean()
    assert found["rmse[wind]"] == pytest.approx(float(wind), rel=1e-9)
    assert found["rmse[std]"] == pytest.approx(float(pooled), rel=1e-9)


def test_pooled_scores_do_not_depend_on_the_units(run):
    held = run.group("withheld").load()
    unit = np.where(held["variable"].values == "wind", 3.6, 1.0)
    other = held.assign({name: held[name] * unit for name in ("value", "std", "predicted")})
    one, two = (
        withheld_scores.observations_by_variable(held),
        withheld_scores.observations_by_variable(other),
    )
    for name in one:
        factor = 3.6 if name in ("observation_rmse[wind]", "observation_crps[wind]") else 1.0
        assert two[name] == pytest.approx(factor * one[name], rel=1e-9)


def test_variables_of_one_unit_are_scored_together(run):
    states, truth = run.analysis.states, run.truth
    bare = StateSpace(SPACE.shape, 1.0, SPACE.variables, SPACE.coordinates)
    members = InMemory(Analysis(states, bare))
    true = as_members(truth, members.space)
    assert scales(true) is None
    found = scores.states_by_variable(state_sums(members, true), None)
    for name in ("rmse", "spread", "spread_skill", "crps", "coverage"):
        whole = getattr(metrics, name)(states.double(), truth.double())
        assert found[name] == pytest.approx(float(whole), rel=1e-12)


def test_two_instruments_of_one_variable_are_scored_apart(run):
    held = run.group("withheld").load()
    wind = held.isel(observation=held["variable"].values == "wind")
    number = np.arange(wind.sizes["observation"]) % 2
    found = withheld_scores.observations_by_variable(
        wind.assign(instrument=("observation", number))
    )
    assert {"observation_rmse[wind, instrument 1]", "observation_rmse[error std]"} <= set(found)


@pytest.mark.slow
def test_tables_and_pages_name_the_variable_of_a_score(run, tmp_path):
    found = scores.scores(run)
    head, rows = score_rows({"past": {"EnKF": found}})
    assert head[:4] == ["uses", "method", "variable", "RMSE"]
    assert [row[2] for row in rows] == ["t2m", "wind", "std", "error std"]
    assert rows[1][3] == f"{found['rmse[wind]']:.3f}"
    page = write_report({"EnKF": run}, tmp_path / "a.html").read_text()
    for text in ("<td>wind</td>", "<td>error std</td>", "of t2m, EnKF.", "of wind, EnKF."):
        assert text in page
    assert "t2m std 0.5 K, wind std 0.3 m s-1" in page


@pytest.mark.slow
def test_a_netcdf_file_has_the_same_bytes_in_every_process(run, tmp_path):
    files, source = [], str(Path(store.__file__).parents[2])
    for seed in ("1", "2", "3"):
        files.append(tmp_path / f"{seed}.nc")
        write = f"open_posterior({str(run.path)!r}).to_netcdf({str(files[-1])!r})"
        code = f"from scorda.store import open_posterior; {write}"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    one, two, three = (file.read_bytes() for file in files)
    assert one == two == three


def test_a_run_on_a_grid_without_names_is_stored(tmp_path):
    """The default names of a plane and of its variable do not collide."""
    draw = np.random.default_rng(0)
    system = FunctionSystem(lambda x: x, draw.normal(size=(20, 8, 8)), StateSpace((8, 8)))
    model = ObservationModel(Linear(torch.eye(64)[:1]), std=1.0)
    observations = Observations(model, [1], torch.zeros(1, 1))
    made = store.run(EnKF(), Problem(system, observations, 2), 20, tmp_path / "a.zarr")
    assert made.to_xarray()["field"].dims == ("ensemble", "time", "y", "x")
