"""Columns of tables come back as they were written, and malformed tables are refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from scorda.core.columns import numbers
from scorda.core.files import write_columns
from scorda.reading import columns
from scorda.reading.columns import read_columns

COLUMNS = {
    "time": np.array([0.0, 0.1, 1 / 3]),
    "variable": np.array(["x", "y, quoted", "z"], dtype=object),
    "value": np.array([1.0, -2.5e-30, 3.0], dtype=np.float32),
}


@pytest.mark.parametrize("ending", ["csv", "nc"])
def test_columns_come_back(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    write_columns(path, COLUMNS)
    read = read_columns(path)
    assert list(read) == list(COLUMNS)
    assert read["variable"].tolist() == COLUMNS["variable"].tolist()
    for name in ("time", "value"):
        found, text = numbers(read[name])
        assert not text.any()
        assert (found.astype(COLUMNS[name].dtype) == COLUMNS[name]).all()


@pytest.mark.parametrize("ending", ["csv", "nc"])
def test_datetimes_come_back(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    times = np.array(["2019-03-01T00:00:00", "2019-03-02T06:30:00.25"], dtype="M8[us]")
    write_columns(path, {"time": times})
    assert (read_columns(path)["time"].astype("M8[us]") == times).all()


def test_columns_of_a_mapping_and_of_a_data_frame(unchecked):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"time": [0, 1], "value": [1.5, None]})
    for table in (frame, dict(frame), {"time": [0, 1], "value": [1.5, np.nan]}):
        read = read_columns(table)
        assert read["time"].tolist() == [0, 1]
        assert read["value"][0] == 1.5 and np.isnan(read["value"][1])


def test_csv_may_have_blank_lines_spaces_and_a_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_text("\ufefftime, value\n\n0,1\n\n1,\n", encoding="utf-8")
    read = read_columns(tmp_path / "a.csv")
    assert list(read) == ["time", "value"] and read["time"].tolist() == [0, 1]
    np.testing.assert_array_equal(read["value"], [1.0, np.nan])


ODD = [
    "",
    "NA",
    "nan",
    "-1e5",
    "+3",
    "007",
    " 4 ",
    "1_0",
    "0x1",
    "True",
    "inf",
    "1,5",
    "é",
    "2019",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 1])
def test_columns_of_numbers_are_those_of_their_text(tmp_path, odd, place):
    """The parser of pandas against the reading of each field as text, whatever one field is."""
    rows = [["1.1", "0.30000000000000004"], ["2", "-1e-300"], ["3", "5"]]
    rows[1][place] = f'"{odd}"' if "," in odd else odd
    text = "a,b\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    read, fields = read_columns(tmp_path / "a.csv"), columns._as_text(tmp_path / "a.csv", ",")
    for i, name in enumerate("ab"):
        found, exact = numbers(read[name]), numbers(fields[i][1:].to_numpy(object))
        np.testing.assert_array_equal(found[0], exact[0])
        assert (found[1] == exact[1]).all()


def test_names_are_text_and_the_last_column_may_be_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("value,variable,units\n1,01,\n2,02,1\n3,,\n")
    read = read_columns(path)
    assert read["variable"].tolist() == ["01", "02", ""]
    assert read["units"].tolist() == ["", "1", ""] and read["value"].dtype.kind == "i"
    path.write_text("value,variable,units\n1,01,\n2,02\n")
    with pytest.raises(ValueError, match=r"Row 2 of .* has 2 fields for 3 columns"):
        read_columns(path)


def test_nothing_but_numbers_is_a_number():
    """Whole columns of numbers, and columns of entries of any kind."""
    given = np.array(
        ["1.5", " -2e3 ", "", "NaN", None, "1,5", "0x10", "True", np.nan], dtype=object
    )
    found, text = numbers(given)
    np.testing.assert_array_equal(found, [1.5, -2e3, *[np.nan] * 7])
    assert text.tolist() == [False] * 5 + [True] * 3 + [False]
    stamps = np.array(["2019-03-21", "NaT"], dtype="M8[us]")
    assert numbers(stamps)[1].tolist() == [True, False] and np.isnan(numbers(stamps)[0]).all()
    assert numbers(np.array([1, 2]))[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty: give a header line"),
        ("\n\n", "is empty: give a header line"),
        ("time,value\n0,1\n1\n", "Row 2 of .* has 1 fields for 2 columns"),
        ("time,value\n0,1,5,6\n", "is no CSV table .Expected 2 fields in line 2, saw 4."),
        ("time,time\n0,1\n", "give each another name"),
        ('time,value\n0,"1\n', "is no CSV table"),
        (b"time,value\n0,\xff\xfe\n", "is no CSV table .*save it as CSV in UTF-8"),
    ],
)
def test_malformed_csv_is_refused(tmp_path, text, match):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=match):
        read_columns(path)


def test_other_tables_are_refused(tmp_path):
    import xarray

    (tmp_path / "a.nc").write_text("time,value\n")
    with pytest.raises(
        ValueError, match=r"a\.nc cannot be read as a NetCDF table .one in CSV is named"
    ):
        read_columns(tmp_path / "a.nc")
    xarray.Dataset({"value": (("time", "x"), np.zeros((2, 3)))}).to_netcdf(
        tmp_path / "b.nc", engine="h5netcdf"
    )
    with pytest.raises(ValueError, match=r"use Observations\.from_array for fields"):
        read_columns(tmp_path / "b.nc")
    with pytest.raises(ValueError, match="one entry per row"):
        read_columns({"time": [0, 1], "value": [1]})
    with pytest.raises(ValueError, match=r"must end in .csv or .nc"):
        write_columns(tmp_path / "a.txt", COLUMNS)
    assert sorted(os.listdir(tmp_path)) == ["a.nc", "b.nc"]


def stations():
    pandas = pytest.importorskip("pandas")
    times = np.array(["2019-03-01T00:00", "2019-03-01T01:00"] * 2, dtype="M8[us]")
    return pandas.DataFrame(
        {
            "time": times,
            "lat": [50.0, 50.0, 51.5, 51.5],
            "lon": [1.0, 1.0, 2.25, 2.25],
            "t2m": [280.5, 281.0, 282.5, 283.0],
        }
    )


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".csv.gz", ".csv.xz", ".parquet"])
def test_dialects_of_tables_are_the_same_columns(tmp_path, ending):
    frame, path = stations(), tmp_path / f"a{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep={".tsv": "\t", ".csv": ";"}.get(ending, ","))
    read = read_columns(path)
    for name in ("lat", "lon", "t2m"):
        assert numbers(read[name])[0].tolist() == frame[name].tolist()


def test_a_frame_of_polars_is_a_table():
    polars = pytest.importorskip("polars")
    read = read_columns(polars.DataFrame(stations().to_dict("list")))
    assert read["t2m"].tolist() == stations()["t2m"].tolist()
    assert (read["time"].astype("M8[us]") == stations()["time"].to_numpy("M8[us]")).all()


@pytest.mark.parametrize("layout", ["station by time", "rows of each", "station of each"])
def test_stations_of_the_conventions_are_rows(unchecked, layout):
    """The three layouts of chapter 9 of CF that hold the same four values."""
    xarray = pytest.importorskip("xarray")
    frame = stations()
    places = {"lat": ("station", [50.0, 51.5]), "lon": ("station", [1.0, 2.25])}
    if layout == "station by time":
        values = {"t2m": (("station", "time"), frame["t2m"].values.reshape(2, 2))}
        data = xarray.Dataset(values | places, {"time": frame["time"].values[:2]})
    else:
        rows = {n: ("obs", frame[n].values) for n in ("time", "t2m")}
        index = {"size": ("station", [2, 2], {"sample_dimension": "obs"})}
        if layout == "station of each":
            index = {"which": ("obs", [0, 0, 1, 1], {"instance_dimension": "station"})}
        data = xarray.Dataset(rows | places | index)
    read = read_columns(data.set_coords(["lat", "lon"]), ("t2m",))
    order = np.lexsort((read["time"], read["latitude"]))
    assert read["value"][order].tolist() == frame["t2m"].tolist()
    assert read["longitude"][order].tolist() == frame["lon"].tolist()
    assert (read["time"][order].astype("M8[us]") == frame["time"].to_numpy("M8[us]")).all()


RAGGED = {
    "too few rows": ("size", [2, 1], "has 4 rows, and 3 by 'size'"),
    "a negative number of rows": ("size", [5, -1], "'size' that are no whole numbers"),
    "an absent number of rows": ("size", [2.0, np.nan], "'size' that are no whole numbers"),
    "stations from 1": ("which", [1, 1, 2, 2], "has 2 stations, and 2 in 'which'"),
    "a negative station": ("which", [0, 0, -1, 1], "'which' that are no whole numbers"),
}


@pytest.mark.parametrize("how", RAGGED)
def test_ragged_rows_of_no_station_are_refused(how, unchecked):
    """A station counted from the end would give its rows to another one."""
    name, entries, says = RAGGED[how]
    attribute = {"size": "sample_dimension", "which": "instance_dimension"}[name]
    along, of = ("station", "obs") if name == "size" else ("obs", "station")
    frame = stations()
    data = xarray.Dataset(
        {n: ("obs", frame[n].values) for n in ("time", "t2m")}
        | {name: (along, entries, {attribute: of})},
        {"lat": ("station", [50.0, 51.5]), "lon": ("station", [1.0, 2.25])},
    )
    with pytest.raises(ValueError, match=re.escape(says)):
        read_columns(data, ("t2m",))


def test_numbers_with_a_decimal_comma_are_numbers_where_no_comma_separates(tmp_path):
    """As spreadsheets save them where the decimal point is a comma."""
    frame, path = stations(), tmp_path / "a.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    read = read_columns(path)
    for name in ("lat", "lon", "t2m"):
        assert numbers(read[name])[0].tolist() == frame[name].tolist()


def test_a_comma_of_thousands_is_no_decimal_one(tmp_path):
    """1,013 beside 999.5 is no number near 1."""
    (tmp_path / "a.csv").write_text("time;value\n0;1,013\n1;999.5\n")
    values = numbers(read_columns(tmp_path / "a.csv")["value"])[0]
    assert np.isnan(values[0]) and values[1] == 999.5


def test_columns_have_their_usual_names():
    """A unit that is not seen would be the wrong one."""
    read = read_columns({"Time": [0], "VALUE": [1.0], "Unit": ["degC"], "value": [2.0]})
    assert sorted(read) == ["VALUE", "time", "units", "value"]
    assert read["value"].tolist() == [2.0]


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    import pandas

    def without(*args, **kwargs):
        raise ImportError("`Import zstandard` failed.")

    monkeypatch.setattr(pandas, "read_csv", without)
    (tmp_path / "a.csv.zst").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.csv.zst needs another package .* install it"):
        read_columns(tmp_path / "a.csv.zst")


@pytest.mark.parametrize("values", [[1 + 1j, 2.0], ["a", "b"]])
def test_complex_numbers_are_refused_in_every_table(values):
    import pandas

    frame = pandas.DataFrame({"time": [0, 1], "value": values})
    for table in (frame, dict(frame)):
        if isinstance(values[0], str):
            assert read_columns(table)["value"].tolist() == values
        else:
            with pytest.raises(ValueError, match="complex numbers in a table"):
                read_columns(table)


def test_columns_may_be_tensors_and_bytes():
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    given = {"value": tensor, "half": tensor.bfloat16(), "variable": np.array([b"a", b"b"])}
    read = read_columns(given)
    assert [read[n].tolist() for n in given] == [[1.0, 2.0], [1.0, 2.0], ["a", "b"]]


def test_stations_whose_values_are_text_are_refused(unchecked):
    xarray = pytest.importorskip("xarray")
    values = {"t2m": (("station", "time"), [["a", "b"]])}
    data = xarray.Dataset(values, {"time": stations()["time"].values[:2]})
    with pytest.raises(ValueError, match=r"no numbers in t2m.* give numbers"):
        read_columns(data, ("t2m",))


PARTS = {
    "numbers": "a,b\n1.5,0\n2,1\n-0.5,7\n3,9\n4.25,2\n",
    "whole numbers, then others": "a,b\n-0,0\n2,1\n9007199254740993,7\n3,9\n4.25,2\n",
    "numbers, then text": "a,b\n1.50,0\n2,1\n3,7\n3,NA\n007,x\n",
    "absent at last": "a,b\n1,0\n2,1\n3,7\n3,9\n4,\n",
    "names of digits, then others": "variable,b\n1,0\n2,1\n01,7\nx,9\n,2\n",
    "names of digits": "variable,b\n1,0\n2,1\n01,7\n1.0,9\n3,2\n",
    "true, then a number": "a,b\nTrue,0\nTrue,1\nTrue,7\nTrue,9\n1,2\n",
    "a field of two lines": 'a,b\n"1\n2",0\n"3\n4",1\nx,7\n"y, z",9\nu,2\n',
    "a header alone": "a,b\n",
}


@pytest.mark.parametrize("text", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("together", [1, 4, 6])
def test_a_table_read_in_parts_is_the_table_read_at_once(tmp_path, text, together, monkeypatch):
    """Bit by bit: -0 is another number than 0, and 2^53 + 1 is rounded as a float is."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    whole = read_columns(path)
    monkeypatch.setattr(columns, "TOGETHER", together)
    parts = read_columns(path)
    assert {n: c.dtype for n, c in parts.items()} == {n: c.dtype for n, c in whole.items()}
    for name, column in whole.items():
        assert repr(parts[name].tolist()) == repr(column.tolist())
        if column.dtype.kind == "f":
            assert parts[name].tobytes() == column.tobytes()


MEMORY = """
import sys
from pathlib import Path
from scorda.cli.allocator import keep_freed_memory
from scorda.reading.columns import read_columns
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
keep_freed_memory()
read_columns(sys.argv[1])
before = peak()
read_columns(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_reading_a_long_table_takes_little_beside_its_columns(tmp_path):
    """Its columns have 32 bytes a row; read at once, 117 were taken, and in parts 56 are."""
    rows, paths = 400_000, [str(tmp_path / f"{name}.csv") for name in ("short", "long")]
    for path, count in zip(paths, (10, rows), strict=True):
        Path(path).write_text("time,variable,value,std\n" + "0.025,x,-1.2345678,1.0\n" * count)
    command = [sys.executable, "-c", MEMORY, *paths]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(made.stdout) / rows < 85, made.stdout
