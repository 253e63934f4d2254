"""The pages of tables, stores and weights name all that the code reads and writes, and no more."""

import doctest
import json
import re
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import scorda as sc
from scorda.core import described
from scorda.core.files import read_tensors
from scorda.core.headers import RANGES
from scorda.nn import ARCHITECTURES
from scorda.observations import law_names, periods, rows, tables
from scorda.observations.laws import Law
from scorda.priors import kept, trajectory
from scorda.reading.roles import NAMES
from scorda.store import headers, keep
from scorda.store.ending import Ending
from scorda.store.series import simulate_series

PAGES = Path(__file__).parents[2] / "docs" / "reference"
Table = dict[str, dict[str, str]]


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def table_of(name: str, heading: str, number: int = 0) -> Table:
    """Return the rows of a table below a heading, by each name of their first column."""
    section = re.split(r"^## ", page(name), flags=re.M)
    (text,) = [part for part in section if part.startswith(f"{heading}\n")]
    found = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)[number]
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()
    ]
    return {
        own: dict(zip(map(str.strip, head), line, strict=True))
        for line in lines
        for own in line[0].replace("`", "").split(", ")
    }


PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}
SEVERAL = {"whole number": "whole numbers", "number": "numbers", "object": "objects"}


def words(annotation: Any) -> str:
    """Return the type of a field of a header as the pages write it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        *others, last = map(words, inner)
        return f"{', '.join(others)} or {last}"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if annotation in (None, NoneType):
        return "null"
    if annotation in PLAIN:
        return PLAIN[annotation]
    kind = "list" if annotation is list or origin is list else "object"
    of = inner[-1] if inner else Any
    if of is Any:
        return kind
    own = words(of)
    own = SEVERAL.get(own, own)
    return f"{kind} of {own.replace('list', 'lists', 1) if own.startswith('list') else own}"


def check_fields(found: Table, fields: dict[str, Any], optional: Any, more: Any = ()) -> None:
    """Check that a table has the fields of a header, their types, and which are needed."""
    assert found.keys() == {*fields, *more}
    for name, annotation in fields.items():
        assert found[name]["type"].replace("`", "") == words(annotation).replace("`", ""), name
        if "needed" in found[name]:
            assert found[name]["needed"] == ("no" if name in optional else "always"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tables", "stores", "weights"])
def test_the_examples_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(
        re.sub(r"^```.*\n", "", page(name), flags=re.M), {}, name, name, 0
    )
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=told.append)
    assert examples.examples and not told, "".join(told)


class Asked(dict):
    """A table that remembers which columns were asked for."""

    def __init__(self, columns):
        super().__init__(columns)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.names.add(name)
        return super().__contains__(name)

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


def grid():
    """A space with a position, of two variables with a unit."""
    positions = {"latitude": np.arange(3.0), "longitude": np.arange(4.0)}
    return sc.StateSpace(
        (2, 3, 4), variables=("u", "v"), coordinates=positions, units={"u": "m/s", "time": "h"}
    )


def test_the_page_has_the_columns_that_the_code_asks_a_table_for(monkeypatch):
    given = {"time": [1.0], "value": [2.0], "std": [0.5], "variable": ["u"], "since": [0.0]}
    asked = Asked({name: np.array(column, object) for name, column in given.items()})
    asked |= {"latitude": np.ones(1), "longitude": np.ones(1), "cell_methods": np.array(["sum"])}
    monkeypatch.setattr(tables, "read_columns", lambda *_: asked)
    tables.usable_rows("a table", grid(), rows.How())
    found = table_of("tables", "Columns")
    assert {re.sub("latitude|longitude", "*a position*", n) for n in asked.names} == found.keys()


def test_the_page_has_the_names_of_positions_laws_and_cell_methods():
    for role, found in table_of("tables", "Columns", 1).items():
        assert found["names"].replace("`", "").split(", ") == list(NAMES[role])
    laws = re.split(r"^## ", page("tables"), flags=re.M)[2]
    named = re.findall(r"`([a-z-]+)(:[\d.]+)?`", laws)
    assert [name for name, _ in named] == list(law_names.NAMED)
    for name, number in named:
        assert isinstance(law_names.law_named(name + number), Law)
        assert bool(number) == (law_names.NAMED[name] in law_names.NUMBERED)
    methods = re.findall(r"`(\w+)`", table_of("tables", "Columns")["cell_methods"]["type"])
    assert {*methods, ""} == periods.METHODS.keys()


def test_what_is_written_as_a_table_has_the_columns_of_the_page(tmp_path):
    space = grid()
    law = law_names.law_named("student:4")
    model = sc.ObservationModel(sc.Select([0, 5]), std=torch.tensor(0.5), law=law)
    path = tmp_path / "table.csv"
    sc.Observations(model, [1, 3], torch.ones(2, 2)).to_table(path, space)
    columns = list(pd.read_csv(path).columns)
    (written,) = re.findall(r"`to_table` write|write ((?:`\w+`[^`]*)+)`std`", page("tables"))
    places = {*space.position_names}
    assert set(columns) - places == {*re.findall(r"`(\w+)`", written), "std", "law"}
    assert set(columns) > places


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores that have all arrays and attributes between them, by name."""
    folder = tmp_path_factory.mktemp("stores")
    system = sc.systems.Lorenz96(4)
    model = sc.ObservationModel(sc.Select([0, 1]), std=0.5)
    truth, problem = sc.twin_experiment(system, model, 4, 2, generator=0)
    law = law_names.law_named("student:4")
    heavy = sc.ObservationModel(sc.Select([2]), std=torch.tensor(0.5), law=law)
    back = sc.Observations(heavy, [2, 4], torch.ones(2, 1))
    both = replace(problem, observations=[*problem.instruments, back])
    run, particles = sc.store.run, sc.ParticleFilter(jitter=0.1)
    run(particles, both, 8, folder / "whole.zarr", seed=1, truth=truth, withheld=(back,))
    some = sc.store.Keep(statistics=("mean", "std", "q05"), members=2)
    given = {"seed": 1, "truth": truth, "keep": some, "withheld": problem.instruments}
    run(particles, problem, 8, folder / "kept.zarr", **given)
    filters = sc.EnKF(sc.Adaptive())
    run(filters, problem, 8, folder / "first.zarr", seed=1)
    end = Ending.of(sc.open_posterior(folder / "first.zarr"))
    later = sc.Observations(model, [2], torch.ones(1, 2))
    after = replace(problem, observations=[later], steps=2)
    run(filters, after, 8, folder / "second.zarr", seed=1, after=end)
    simulate_series(system, 2, 3, folder / "series.zarr")
    return folder


def names(path: Path, group: str = "") -> set[str]:
    """Return the arrays of a group as the page names them."""
    found = zarr.open_group(path, path=group, mode="r").array_keys()
    plain = {"x": "*variable*", "site": "*coordinate*"}
    return {plain.get(name, name).replace("x_", "*variable*_") for name in found}


def attributes(*paths: Path) -> set[str]:
    return {name for path in paths for name in zarr.open_group(path, mode="r").attrs}


def test_the_page_has_the_attributes_of_stores(stores):
    posteriors = [stores / f"{name}.zarr" for name in ("whole", "kept", "first", "second")]
    found = table_of("stores", "Attributes of a posterior")
    optional = {"settings", "configuration", "seed", "keep", "first_step"}
    check_fields(found, headers.POSTERIOR, optional, ("source", "Conventions"))
    assert attributes(*posteriors) == found.keys()
    assert attributes(posteriors[2]) >= {n for n in found if found[n]["needed"] == "always"}
    series = table_of("stores", "Series")
    check_fields(series, headers.SERIES, (), ("source",))
    assert attributes(stores / "series.zarr") == series.keys()


def test_the_page_has_the_arrays_and_columns_of_stores(stores):
    found = table_of("stores", "Arrays of a posterior")
    several = {n if n[0] != "_" else f"*variable*{n}" for n in found}
    assert names(stores / "whole.zarr") | names(stores / "kept.zarr") == several
    columns = table_of("stores", "Groups of a posterior")
    assert names(stores / "whole.zarr", "observations") == columns.keys() - {"predicted"}
    assert names(stores / "whole.zarr", "withheld") == columns.keys()
    table = zarr.open_group(stores / "whole.zarr", path="withheld", mode="r")
    for name in columns.keys() - {"predicted", "*coordinate*"}:
        kind = "text" if table[name].dtype.kind == "T" else str(table[name].dtype)
        assert columns[name]["type"] == kind, name
    scores = table_of("stores", "Groups of a posterior", 1)
    assert names(stores / "kept.zarr", "scores") == scores.keys()
    series = table_of("stores", "Series", 2)
    assert names(stores / "series.zarr") == series.keys()


def test_the_page_has_the_groups_of_stores(stores):
    groups = {"observations", "truth", "withheld", "carried", "last", "scores"}
    made = [zarr.open_group(path, mode="r") for path in stores.glob("*.zarr")]
    assert {name for store in made for name in store.group_keys()} == groups
    text = re.split(r"^## ", page("stores"), flags=re.M)[3]
    assert groups <= set(re.findall(r"`(\w+)`", text))
    last = {"*variable*", "*coordinate*", "member", "valid_time", "weight"}
    assert names(stores / "kept.zarr", "last") == last
    assert names(stores / "whole.zarr", "truth") == {"*variable*", "*coordinate*", "time"}
    assert names(stores / "second.zarr", "carried") == {"0000", "0001"}


def test_the_page_has_the_keys_of_what_is_kept_and_of_spaces_and_records(stores):
    check_fields(table_of("stores", "What is kept"), keep.RECORD, ())
    one, several = (table_of("stores", "The space", number) for number in (0, 1))
    check_fields(one, described.OF_ONE_GRID, described.OPTIONAL)
    check_fields(several, described.IN_PARTS, ())
    check_fields(table_of("stores", "Series", 1), headers.RECORD, ())
    found = {key for path in stores.glob("*.zarr.json") for key in json.loads(path.read_text())}
    record = table_of("stores", "The record beside a store")
    assert found == record.keys() - {"dropped"}


def test_the_page_has_the_keys_of_headers_of_weights(tmp_path):
    trained = table_of("weights", "A prior of trajectories")
    check_fields(trained, kept.TRAJECTORY, kept.OPTIONAL)
    check_fields(table_of("weights", "An amortised network"), kept.AMORTISED, ())
    path = tmp_path / "copy.safetensors"
    sc.load("lorenz63").save(path, {"complete": True})
    tensors, header = read_tensors(path)
    prior, state = sc.load(path), torch.zeros(1, 3)
    replace(prior, diurnal_mean=state, annual=state.expand(2, 3), start=state).save(path, None)
    every = read_tensors(path)[0]
    common = table_of("weights", "The file")
    assert {"checksum", *header} == {*trained, *common}
    named = table_of("weights", "A prior of trajectories", 1)
    plain = {name if name[:8] != "network." else "network.*" for name in tensors}
    assert plain | (every.keys() - tensors.keys()) == named.keys()


def test_the_page_has_the_parts_that_a_header_names():
    found = table_of("weights", "A prior of trajectories")
    classes = {"process": trajectory.PROCESSES, "sampler": trajectory.SAMPLERS}
    classes |= {"guidance": trajectory.GUIDANCES, "architecture": ARCHITECTURES}
    for key, known in classes.items():
        named = re.findall(r"`([\w-]+)`", found[key]["what it is"])
        assert sorted(named) == sorted(["name", *known]), key


def test_the_page_has_the_bounds_of_a_header():
    found = table_of("weights", "Bounds of a header")
    assert found.keys() == RANGES.keys()
    for name, (low, high) in RANGES.items():
        for written, bound in ((found[name]["least"], low), (found[name]["most"], high)):
            base, power, exponent = written.lstrip("-").partition("^")
            value = float(base) ** float(exponent) if power else float(base)
            assert bound == (-value if written[0] == "-" else value), name
