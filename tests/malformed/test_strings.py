"""No text of any file that Scorda reads is run, imported or taken for a path or for markup."""

import builtins
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import xarray

from malformed.headers import changed, entries, opened, tell, whole
from scorda.cli import main
from scorda.cli.settings import to_toml
from scorda.core.files import read_tensors, write_tensors
from scorda.report.gallery import Record, add_record, write_gallery

PROBES = [
    "os:system", "builtins:eval", "subprocess:run", "../../etc/passwd", "[/nope]",
    "<script>alert(1)</script>",
]  # fmt: skip
# Modules that nothing imports but code that a file names.
FOREIGN = {"antigravity", "this"}
TABLE = "time,variable,value,std\n0.05,x,5,1\n0.1,x,4,1\n"
TOML = """\
observations = ["o.csv"]
variable = "x"
units = ["x=K"]
truth = "t.nc"
device = "cpu"
dtype = "float32"
gross_error_check = "off"
start = "2019-03-01T00:00"
out = "new.zarr"
members = 4
[system]
name = "lorenz96"
dim = "6"
[method]
name = "masf"
[method.prior]
name = "local-gaussian"
[method.prior.localization]
radius = 2.0
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    whole(folder)
    return folder


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """What code of a file would have done: the list stays empty."""
    monkeypatch.chdir(tmp_path)
    calls, usual = [], builtins.eval

    def evaluate(*given):
        # Python's own library evaluates annotations and named tuples.
        if sys._getframe(1).f_globals.get("__name__", "").startswith("scorda"):
            calls.append(("eval", given))
        return usual(*given)

    monkeypatch.setattr(builtins, "eval", evaluate)
    monkeypatch.setattr(os, "system", lambda *given: calls.append(("os.system", given)))
    monkeypatch.setattr(subprocess, "run", lambda *given, **_: calls.append(("run", given)))
    yield calls
    assert not FOREIGN & set(sys.modules)


def texts(content):
    """Places of the texts of JSON, also inside of texts that are JSON themselves."""
    return [at for at in entries(content) if at and isinstance(value_at(content, at), str)]


def value_at(content, at):
    for key in at:
        content = opened(content)[key]
    return content


def ends_well(capsys, command):
    """Run a command in this process: it succeeds, or ends with one sentence."""
    capsys.readouterr()
    status = main(command)
    told = capsys.readouterr().err
    assert status in (0, 2), (command, status, told)
    assert "Traceback" not in told and (status == 0 or told.startswith("scorda: ")), told


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_weights_name_only_what_is_built_in(good, ran, tmp_path, unchecked, probe):
    for source in sorted(good.glob("*.safetensors")):
        tensors, header = read_tensors(source)
        for at in texts(header):
            write_tensors(source.name, tensors, changed(header, at, probe, False))
            assert tell(tmp_path / source.name)[0] == "", at
    assert ran == []


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_stores_name_only_what_is_built_in(good, ran, tmp_path, capsys, unchecked, probe):
    for name in ("run.zarr", "series.zarr"):
        shutil.copytree(good / name, tmp_path / name)
        metadata = tmp_path / name / "zarr.json"
        content = json.loads(metadata.read_text())
        content.pop("consolidated_metadata", None)
        for at in texts(content):
            metadata.write_text(json.dumps(changed(content, at, probe, False)))
            assert tell(tmp_path / name)[0] == "", at
            if at[-3:] == ("configuration", "system", "name"):
                kind = ["--prior", "gaussian"] if name == "run.zarr" else []
                ends_well(capsys, ["train", *kind, "--data", name, "--quick"])
                assert not list(tmp_path.glob("*.safetensors"))
    assert ran == []


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_a_configuration_imports_what_it_names_and_calls_nothing_else(
    ran, tmp_path, capsys, probe
):
    Path("o.csv").write_text(TABLE)
    content = tomllib.loads(TOML)
    for at in texts(content):
        without = changed(content, ("truth",), "", True) if at != ("truth",) else content
        if at != ("start",):
            without = changed(without, ("start",), "", True)
        Path("run.toml").write_text(to_toml(changed(without, at, probe, False)))
        ends_well(capsys, ["assimilate", "--config", "run.toml", "--overwrite"])
    assert ran == []


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_tables_fields_and_records_of_figures_hold_text(ran, tmp_path, capsys, probe):
    rows = [line.split(",") for line in TABLE.split()]
    for i, j in [(i, j) for i, row in enumerate(rows) for j in range(len(row))]:
        cells = [row[:] for row in rows]
        cells[i][j] = probe
        Path("o.csv").write_text("\n".join(map(",".join, cells)) + "\n")
        ends_well(capsys, ["inspect", "o.csv"])
    dataset = xarray.Dataset(
        {"t": (("time", "x"), [[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]], {"units": "K", "axis": "T"})},
        {"time": ("time", [0, 1, 2], {"units": "hours since 2000-01-01", "calendar": "standard"}),
         "x": ("x", [0.0, 1.0], {"units": "km", "standard_name": "projection_x_coordinate"})},
    )  # fmt: skip
    for name in ("t", "time", "x"):
        for attribute in dataset[name].attrs:
            other = dataset.copy(deep=True)
            other[name].attrs[attribute] = probe
            # A name of its own: a file that is open cannot be replaced.
            file = f"{name}-{attribute}.nc"
            other.to_netcdf(file, engine="h5netcdf")
            ends_well(capsys, ["inspect", file])
    Path("p.png").write_bytes(b"")
    add_record(tmp_path, Record("r", probe, probe, {probe: probe}, {"p.png": probe}))
    assert "<script" not in write_gallery(tmp_path).read_text()
    assert ran == []
