"""Names and texts of files never reach a terminal as control characters."""

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from scorda import store
from scorda.cli import main
from scorda.cli.console import console, progress, table
from scorda.cli.escapes import escaped, escaped_warnings
from scorda.core.files import read_tensors, write_tensors
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.systems.lorenz import Lorenz63

# Turns red, clears the screen, sets the title (with 8 bits too), rings, goes to the left, and
# turns the direction of writing around.
EVIL = "\x1b[31mred\x1b[2J\x9b1m\x1b]0;title\x07\r\u202e"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
MODEL = f"""
import warnings
from scorda.systems.lorenz import Lorenz63

def broken() -> Lorenz63:
    raise OSError({EVIL!r})

def told() -> Lorenz63:
    warnings.warn({EVIL!r}, stacklevel=1)
    return Lorenz63()

def unforeseen() -> Lorenz63:
    raise LookupError({EVIL!r})
"""


def fields(name, value):
    """A file of fields in which one name, or one attribute, is the text."""
    names = {"variable": "t", "axis": "x", "units": "K", "calendar": "standard", "title": "t"}
    names[name] = value
    time = {"units": "hours since 2000-01-01", "calendar": names["calendar"]}
    data = xarray.Dataset(
        {names["variable"]: (("time", names["axis"]), np.eye(3), {"units": names["units"]})},
        {"time": ("time", [0, 1, 2], time), names["axis"]: [0.0, 1.0, 2.0]},
        {"title": names["title"]},
    )
    data.to_netcdf(f"{name}.nc", engine="h5netcdf")
    return f"{name}.nc"


def rows(name, value):
    """A table in which a cell, or the name of a column, is the text."""
    cells = {"column": "depth", "variable": "x", "time": "0.1", "value": "1", "units": "K"}
    cells[name] = value
    head = f"time,variable,value,std,units,{cells['column']}\n"
    row = f"{cells['time']},{cells['variable']},{cells['value']},1,{cells['units']},2\n"
    # A carriage return in a cell would end the row.
    Path(f"{name}.csv").write_text(head + row.replace("\r", "") + "0.2,x,1,1,K,2\n")
    return f"{name}.csv"


def posterior():
    """A store whose attributes have the text, without the record that would tell of it."""
    model = ObservationModel(Select([0]), std=torch.tensor(1.0))
    truth, problem = twin_experiment(Lorenz63(spinup=0.5), model, 8, every=4, generator=0)
    store.run(EnKF(), problem, 4, "source.zarr", truth=truth)
    for name in ("method", "system", "conditioned_on"):
        shutil.copytree("source.zarr", f"{name}.zarr")
        metadata = Path(f"{name}.zarr", "zarr.json")
        content = json.loads(metadata.read_text())
        content["attributes"][name] = EVIL
        content["attributes"]["configuration"] = json.dumps({"system": {"name": EVIL}})
        metadata.write_text(json.dumps(content))
    return ["method.zarr", "system.zarr", "conditioned_on.zarr"]


def weights():
    main("train --system lorenz63 --quick --out w.safetensors".split())
    tensors, header = read_tensors(Path("w.safetensors"))
    for key in list(header):
        write_tensors(Path(f"{key}.safetensors"), tensors, {**header, key: EVIL})
        yield f"{key}.safetensors"


ASSIMILATE = ["assimilate", "--system", "lorenz63", "--members", "4", "--overwrite"]


def commands():
    """Commands that print what a file holds."""
    Path("mymodel.py").write_text(MODEL)
    tables = [rows(n, EVIL) for n in ("column", "variable", "time", "value", "units")]
    records = [fields(n, EVIL) for n in ("variable", "axis", "units", "calendar", "title")]
    good = rows("none", "")
    for file in [*tables, *records, "none.csv"]:
        yield ["inspect", file]
        yield [*ASSIMILATE, "--observations", file, "--std", "1"]
        yield [*ASSIMILATE, "--observations", good, "--initial", file]
        yield [*ASSIMILATE, "--observations", good, "--truth", file]
        yield ["analyse", "--ensemble", file, "--predicted", file, "--observations", file]
        yield ["train", "--data", file, "--quick", "--overwrite"]
    for file in [*posterior(), EVIL.strip()]:
        yield ["report", file]
        yield ["train", "--prior", "gaussian", "--data", file, "--quick"]
        yield ["simulate", "--out", f"{file}/out", "--steps", "2"]
    for file in weights():
        yield [*ASSIMILATE[:1], "--observations", good, "--method", "sda", "--prior", file]
        yield ["bench", "sda_lorenz", "--quick", "--prior", file]
    for name in ("broken", "told", "unforeseen"):
        yield ["simulate", f"mymodel:{name}", "--steps", "2", "--out", name]
        yield ["simulate", f"mymodel:{name}", "--steps", "2", "--out", name, "--debug"]
    content = {"method": EVIL, "system": EVIL, "observations": [EVIL], "start": EVIL, "out": EVIL}
    for key, value in content.items():
        Path(f"{key}.toml").write_text(f"{key} = {json.dumps(value)}\n")
        yield ["assimilate", "--config", f"{key}.toml", "--observations", good]
    Path("keys.toml").write_text(f"{json.dumps(EVIL)} = 1\n")
    yield ["simulate", "--config", "keys.toml"]
    for word in ("methods", "bench", "simulate", EVIL):
        yield [word, EVIL]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_command_sends_a_control_character_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shown = []
    for words in commands():
        capsys.readouterr()
        main(words)
        said = "".join(capsys.readouterr())
        assert not CONTROL.search(said), (words, said)
        if r"\x1b[31mred" in said:
            shown.append(words[0])
    # Most of them do show it, so that this is no test of nothing.
    assert {"inspect", "assimilate", "analyse", "train", "report", "simulate"} <= set(shown)
    for report in tmp_path.glob("scorda-error-*.txt"):
        assert not CONTROL.search(report.read_text())


def test_texts_tables_and_bars_are_shown_escaped(capsys):
    console().print(EVIL)
    table(EVIL, ["a", EVIL], [[EVIL, EVIL], None, ["b", "c"]])
    with progress(EVIL) as report:
        report(1, 2)
    said = "".join(capsys.readouterr())
    assert not CONTROL.search(said)
    assert said.count(r"\x1b[31mred") == 5


def test_a_warning_is_shown_escaped():
    with escaped_warnings():
        said = warnings.formatwarning(UserWarning(EVIL), UserWarning, "model.py", 3)
    assert r"\x1b[31mred" in said and not CONTROL.search(said)


def test_lines_and_tabs_stay():
    assert escaped("a\tb\nc é 日本 ∑") == "a\tb\nc é 日本 ∑"
    assert escaped("\x1b\x9b\u202e") == r"\x1b\x9b\u202e"
