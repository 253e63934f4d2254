"""Malformed NetCDF files, by their structure: ``python tests/malformed/netcdf.py SEED COUNT``."""

import h5py
import numpy as np
import xarray
from common import by_hand

COMMANDS = (
    "inspect f.nc",
    "assimilate --observations f.nc --system lorenz96 --system.dim 4 --std 1 --members 3",
    "assimilate --observations f.nc --system lorenz63 --members 3",
    "assimilate --observations t.csv --truth f.nc --system lorenz96 --system.dim 4 --members 3",
    "train --data f.nc --quick --threads 1 --out p.safetensors",
    "analyse --ensemble f.nc --predicted f.nc --observations t.csv",
)
WRONG = [
    5,
    2.5,
    np.nan,
    "",
    "days since",
    "days since yesterday",
    "furlongs since 2000-01-01",
    "K",
    "[/b]",
    "hours since 2000-01-01",
    np.array([1.0, 2.0]),
    np.int8(3),
    "9" * 999,
    "é\0",
    "degrees_north",
    "days since 0000-00-00",
    "months since 2000-01-31",
    np.array(["a", "b"], dtype=object),
    "1e999 m",
]
ATTRIBUTES = [
    "units",
    "_FillValue",
    "missing_value",
    "calendar",
    "scale_factor",
    "add_offset",
    "coordinates",
    "bounds",
    "axis",
    "standard_name",
    "valid_range",
    "dtype",
    "positive",
    "featureType",
    "Conventions",
    "grid_mapping",
]


def prepare(folder):
    rng = np.random.default_rng(0)
    data = xarray.Dataset(
        {"x": (("time", "position"), rng.normal(2, 3, (8, 4)), {"units": "1"})},
        {"time": 0.05 * np.arange(8), "position": np.arange(4.0)},
    )
    data.to_netcdf(folder / "f.nc", engine="h5netcdf")
    (folder / "t.csv").write_text("time,position,value,std\n0.05,1,2,1\n0.1,2,1,1\n")


def chosen(rng, values):
    return values[int(rng.integers(len(values)))]


def command(rng):
    return chosen(rng, COMMANDS).split()


def attribute(folder, rng):
    with h5py.File(folder / "f.nc", "a") as file:
        for _ in range(int(rng.integers(1, 4))):
            where = chosen(rng, [file, file["x"], file["time"], file["position"]])
            name, value = chosen(rng, ATTRIBUTES), chosen(rng, WRONG)
            if isinstance(value, str):
                value = value.replace("\0", "")
            where.attrs[name] = value
    return command(rng)


def no_attributes(folder, rng):
    """Delete what makes a data set of HDF5 one of NetCDF."""
    with h5py.File(folder / "f.nc", "a") as file:
        where = chosen(rng, [file["x"], file["time"], file["position"]])
        names = list(where.attrs)
        for name in names if rng.random() < 0.3 else names[:1]:
            del where.attrs[name]
    return command(rng)


def written(make):
    def made(folder, rng):
        data = make(rng)
        (folder / "f.nc").unlink()
        data.to_netcdf(folder / "f.nc", engine="h5netcdf")
        return command(rng)

    return made


def dimensions(rng):
    shapes = [(), (0,), (8,), (0, 4), (8, 0), (1, 1), (8, 4, 1), (8, 4, 2, 2), (3, 4), (8, 5)]
    shape = chosen(rng, shapes)
    names = ("time", "position", "member", "level")[: len(shape)]
    coordinates = {n: np.arange(float(s)) for n, s in zip(names, shape, strict=True)}
    keep = {n: v for n, v in coordinates.items() if rng.random() < 0.7}
    return xarray.Dataset({"x": (names, np.ones(shape))}, keep)


def types(rng):
    values = chosen(
        rng,
        [
            np.array([["a"] * 4] * 8),
            np.ones((8, 4), dtype=bool),
            np.ones((8, 4), dtype="i1"),
            np.full((8, 4), np.nan),
            np.full((8, 4), np.inf),
            np.full((8, 4), 1e308),
            np.full((8, 4), 2**63 - 1),
            np.full((8, 4), b"x"),
            np.zeros((8, 4)),
            np.ones((8, 4), dtype="f2"),
            np.array([["é"] * 4] * 8, dtype=object),
        ],
    )
    return xarray.Dataset(
        {"x": (("time", "position"), values)}, {"time": np.arange(8.0), "position": np.arange(4.0)}
    )


def coordinates(rng):
    options = [
        np.full(8, np.nan),
        np.zeros(8),
        np.arange(8.0)[::-1],
        np.full(8, 1e308),
        -np.arange(8.0),
        np.array(["a"] * 8),
        np.arange(8) * 1e6,
        np.full(8, np.inf),
        np.full(8, np.datetime64("NaT", "ns")),
        np.arange(8) * np.timedelta64(1, "D") + np.datetime64("1700-01-01", "ns"),
    ]
    time, place = chosen(rng, options), chosen(rng, options)[:4]
    return xarray.Dataset(
        {"x": (("time", "position"), np.ones((8, 4)))}, {"time": time, "position": place}
    )


def names(rng):
    name = chosen(rng, ["time", "position", "[b]", "é", "x y", "value", "std", "ensemble", "x.y"])
    dims = chosen(
        rng, [("time", "position"), ("a", "b"), ("position", "time"), ("ensemble", "obs")]
    )
    data = xarray.DataArray(np.ones((8, 4)), dims=dims)
    return xarray.Dataset({f"{name}_": data} if name in dims else {name: data})


def groups(folder, rng):
    (folder / "f.nc").unlink()
    with h5py.File(folder / "f.nc", "w") as file:
        if rng.random() < 0.7:
            group = file.create_group(chosen(rng, ["a", "time", "x"]))
            group["x"] = np.ones((8, 4))
        if rng.random() < 0.3 and "x" not in file:
            file["x"] = h5py.SoftLink("/nowhere")
        if rng.random() < 0.3:
            file["y"] = h5py.ExternalLink("gone.nc", "/x")
        if rng.random() < 0.2:
            file["z"] = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])
        if rng.random() < 0.2:
            file["r"] = file.ref
    return command(rng)


def packed(folder, rng):
    """Say nonsense of chunks and filters: huge, empty, or of a type without numbers."""
    (folder / "f.nc").unlink()
    with h5py.File(folder / "f.nc", "w") as file:
        shape = chosen(rng, [(10**6, 10**6), (2**40,), (8, 10**9), (10**9, 4), (0, 10**9)])
        file.create_dataset("x", shape=shape, dtype=chosen(rng, ["f8", "f4", "i1"]), chunks=True)
    return command(rng)


def scaled(rng):
    data = xarray.Dataset({"x": (("time", "position"), np.ones((8, 4), dtype="i2"))})
    data["x"].attrs["scale_factor"] = chosen(rng, [0.0, np.nan, 1e308, "two"])
    return data


KINDS = {make.__name__: written(make) for make in (dimensions, types, coordinates, names, scaled)}
KINDS |= {make.__name__: make for make in (attribute, no_attributes, groups, packed)}

if __name__ == "__main__":
    by_hand(KINDS, prepare)
