"""Names of variables and axes that a store cannot hold are refused when the space is made."""

import numpy as np
import pytest
import xarray

from scorda import store
from scorda.core import rng
from scorda.core.names import COLUMNS, OWN
from scorda.core.space import LARGEST, StateSpace
from scorda.methods.particle import ParticleFilter
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.reading.ensembles import read_members
from scorda.reading.records import read_fields
from scorda.store import series
from scorda.systems.lorenz import Lorenz96

BAD = {
    "a/b": "slash",
    "../../etc/passwd": "slash",
    "a\\b": "slash",
    "a\x1b[31m": "control character",
    "a\n": "control character",
    "": "empty",
    " ": "empty",
    ".": "another meaning",
    "..": "another meaning",
    "__init__": "another meaning",
    "x" * 300: "longer than 200 bytes",
    "\ud800": "control character",
    **{name: "is one that a store has for itself" for name in sorted(OWN)},
}
GOOD = ("<script>", "[red]", "$x$", "os:system", "θ", "a b", "value", "std")


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=BAD[name]) as found:
        StateSpace((2, 3), variables=("t", name), coordinates={"site": np.arange(3.0)})
    assert "rename it" in str(found.value) and "variable" in str(found.value)
    with pytest.raises(ValueError, match=f"axis.*{BAD[name]}"):
        StateSpace((3,), coordinates={name: np.arange(3.0)})
    positions = {name: np.array([0.0, 2.0, 5.0])}
    with pytest.raises(ValueError, match=f"axis.*{BAD[name]}"):
        StateSpace((3,), coordinates={"site": np.arange(3.0)}, points=positions)
    part = StateSpace((3,), coordinates={"site": np.arange(3.0)})
    with pytest.raises(ValueError, match=f"axis.*{BAD[name]}"):
        StateSpace.of_parts({"a": part}, {"site": name})


@pytest.mark.parametrize("name", GOOD)
def test_any_other_text_is_a_name(name):
    assert StateSpace((3,), variables=(name,), coordinates={"site": np.arange(3.0)}).variables


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_positions_have_no_names_of_columns(name):
    with pytest.raises(ValueError, match="a table of observations"):
        StateSpace((3,), coordinates={name: np.arange(3.0)})


@pytest.mark.slow
def test_the_list_holds_every_name_that_a_store_has_beside_those_of_the_space(tmp_path):
    system = Lorenz96(6)
    model = ObservationModel(Select([0, 2]), std=1.0)
    truth, problem = twin_experiment(system, model, 4, 2, rng.seeded(0))
    held = problem.instruments
    store.run(ParticleFilter(), problem, 20, tmp_path / "a.zarr", truth=truth, withheld=held)
    folders = {p.name for p in (tmp_path / "a.zarr").iterdir()}
    assert folders - {"x", "site"} == OWN
    tables = {
        p.name for n in ("observations", "withheld") for p in (tmp_path / "a.zarr" / n).iterdir()
    }
    assert tables - {"site"} <= COLUMNS | OWN
    series.simulate_series(system, 2, 3, tmp_path / "s.zarr")
    assert {p.name for p in (tmp_path / "s.zarr").iterdir()} - {"site"} <= COLUMNS | OWN


@pytest.mark.parametrize("name", ["weight", "a\\b", "<b>/../x"])
def test_a_reader_names_the_file_and_the_variable(tmp_path, name):
    values = (("time", "series", "site"), np.random.default_rng(0).normal(size=(4, 3, 5)))
    labels = {"time": np.arange(4.0), "series": np.arange(3), "site": np.arange(5.0)}
    dataset = xarray.Dataset({name: values}, labels)
    source = dataset
    # Such names of folders are changed by zarr itself.
    if name == "weight":
        source = tmp_path / "their.zarr"
        dataset.to_zarr(source)
    words = r"(their.zarr|The Dataset): Got the variable"
    with pytest.raises(ValueError, match=words) as found:
        read_fields(source)
    assert repr(name) in str(found.value)
    with pytest.raises(ValueError, match=words):
        read_members(dataset.isel(time=0), (), "series")


def test_states_of_more_numbers_than_a_machine_holds_are_refused_before_they_are_made():
    for shape in ((LARGEST + 1,), (10**9,), (10**5, 10**5)):
        with pytest.raises(ValueError, match="give at most"):
            StateSpace(shape)
    with pytest.raises(ValueError, match="at most"):
        Lorenz96(10**9)
