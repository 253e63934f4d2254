"""Files with random damage, and what reading them may do: give data, or refuse in one sentence."""

import importlib.util
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas
import xarray

from scorda.core.space import StateSpace
from scorda.observations.observations import Observations
from scorda.reading.fields import read_states
from scorda.reading.inspection import inspect
from scorda.reading.records import read_fields

SPACE = StateSpace(
    (3, 4),
    1.0,
    ("t2m",),
    {"latitude": np.arange(50.0, 53.0), "longitude": np.arange(4.0)},
    units={"time": "hours", "t2m": "K", "latitude": "degrees_north", "longitude": "degrees_east"},
)
START = "2019-03-01T00:00"
KINDS = ["netcdf3.nc", "netcdf4.nc", "zarr2.zarr", "zarr3.zarr", "table.csv", "table.nc"]
if importlib.util.find_spec("pyarrow"):
    KINDS.append("table.parquet")


def whole(folder: Path) -> None:
    """Write one good file of each kind."""
    rng = np.random.default_rng(0)
    times = np.datetime64(START, "ns") + np.arange(30) * np.timedelta64(1, "h")
    fields = xarray.Dataset(
        {
            "t2m": (
                ("time", "latitude", "longitude"),
                rng.normal(280, 3, (30, 3, 4)),
                {"units": "K"},
            )
        },
        {
            "time": times,
            "latitude": ("latitude", np.arange(50.0, 53.0), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(4.0), {"units": "degrees_east"}),
        },
    )
    fields.to_netcdf(folder / "netcdf3.nc", engine="scipy")
    fields.to_netcdf(folder / "netcdf4.nc", engine="h5netcdf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields.to_zarr(folder / "zarr2.zarr", zarr_format=2)
        fields.to_zarr(folder / "zarr3.zarr", zarr_format=3)
    rows = [
        (str(t)[:16], 50 + k % 3, k % 4, "t2m", f"{280 + k / 7:.2f}", 0.3)
        for k, t in enumerate(times)
    ]
    head = "time,latitude,longitude,variable,value,std\n"
    (folder / "table.csv").write_text(head + "\n".join(",".join(map(str, r)) for r in rows))
    if "table.parquet" in KINDS:
        pandas.read_csv(folder / "table.csv").to_parquet(folder / "table.parquet")
    names = ("time", "latitude", "longitude", "value", "std")
    columns = {
        n: ("row", [float(r[i]) if i else k for k, r in enumerate(rows)])
        for n, i in zip(names, (0, 1, 2, 4, 5), strict=True)
    }
    xarray.Dataset(columns).to_netcdf(folder / "table.nc", engine="h5netcdf")


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Change, drop, repeat or overwrite bytes at random places."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 60))
        kind = rng.integers(5)
        if kind == 0:
            out[at] = int(rng.integers(256))
        elif kind == 1:
            out[at : at + length] = rng.bytes(len(out[at : at + length]))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + length]
        else:
            out[at:at] = out[at : at + length]
    return bytes(out)


def damaged(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Copy a file or a store, with one of its files damaged."""
    if source.is_file():
        target.write_bytes(damage(source.read_bytes(), rng))
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    chosen = files[int(rng.integers(len(files)))]
    if rng.integers(6):
        chosen.write_bytes(damage(chosen.read_bytes(), rng))
    else:
        chosen.unlink()


def read_all(path: Path) -> int:
    """Read a file in every way that fits; return how many refused it.

    Raises:
        AssertionError: If a refusal is no single sentence.
        Exception: Whatever else reaches the user.
    """
    table = path.name.startswith("table")
    ways = [lambda: inspect(path)]
    if table:
        start = None if path.suffix == ".nc" else START
        ways.append(lambda: Observations.from_table(path, SPACE, start, steps=40))
    else:
        ways.append(lambda: read_fields(path))
        ways.append(lambda: read_states(path, SPACE, 5, START))
        ways.append(lambda: Observations.from_array(path, SPACE, 0.3, start=START, steps=40))
    refused = 0
    for way in ways:
        try:
            way()
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            # No exception of a library gets through raw: ours are ValueError itself.
            assert type(error) in (ValueError, FileNotFoundError), type(error)
            assert "\n" not in str(error) and ": " in str(error), str(error)
    return refused


def run(folder: Path, first: int, last: int) -> tuple[int, int]:
    """Try files damaged with the seeds first to last - 1; return how many, and the refused."""
    good = folder / "good"
    if not good.exists():
        good.mkdir()
        whole(good)
    tried, refused = 0, 0
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        kind = KINDS[seed % len(KINDS)]
        damaged(good / kind, folder / kind, rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refused += bool(read_all(folder / kind))
        except BaseException as error:
            raise AssertionError(
                f"seed {seed}, {kind}: {type(error).__name__}: {error}"
            ) from error
        tried += 1
    return tried, refused


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        print(*run(Path(made), int(sys.argv[1]), int(sys.argv[2])))
