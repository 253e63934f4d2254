"""`scorda analyse`: files of another program, one analysis, one file."""

import numpy as np
import pandas
import pytest
import torch
import xarray

import scorda as sc
from scorda.cli import main
from scorda.core import rng

LATITUDE, LONGITUDE = np.arange(40.0, 60.0, 4.0), np.arange(0.0, 30.0, 6.0)
POINTS = [(1, 2), (3, 4), (4, 0), (2, 2)]


@pytest.fixture
def files(tmp_path):
    """Members with land, their own observations, and a table whose last value is missing."""
    draw = np.random.default_rng(0)
    states = draw.normal(size=(12, 5, 5)).cumsum(1) + 280
    states[:, 0, 0] = np.nan
    ensemble = xarray.Dataset(
        {"t2m": (("number", "latitude", "longitude"), states, {"units": "K"})},
        {"latitude": LATITUDE, "longitude": LONGITUDE},
    )
    # South last, as many programs have it: the positions decide.
    ensemble.isel(latitude=slice(None, None, -1)).to_netcdf(tmp_path / "ensemble.nc")
    predicted = np.stack([states[:, i, j] ** 2 / 280 for i, j in POINTS], 1)
    values = xarray.Dataset({"hx": (("observation", "number"), predicted.T)})
    values.to_netcdf(tmp_path / "predicted.nc")
    table = pandas.DataFrame(
        {
            "lat": [LATITUDE[i] for i, _ in POINTS],
            "lon": [LONGITUDE[j] - 360 for _, j in POINTS],
            "value": [279.0, 281.0, 282.0, -9999.0],
            "std": 1.0,
        }
    )
    table.to_csv(tmp_path / "observations.csv", index=False)
    pandas.DataFrame(predicted.T).to_csv(tmp_path / "predicted.csv", index=False)
    return tmp_path, states, predicted, table


def command(folder, *more, predicted="predicted.nc"):
    given = ["--ensemble", "ensemble.nc", "--predicted", predicted]
    given += ["--observations", "observations.csv", "--missing", "-9999", "--out", "out.nc"]
    return main(["analyse", *[str(folder / t) if "." in t else t for t in given], *more])


@pytest.mark.parametrize("predicted", ["predicted.nc", "predicted.csv"])
def test_a_localized_analysis_is_that_of_the_library(files, predicted):
    folder, states, values, table = files
    flags = "--method", "letkf", "--localization", "500", "--inflation", "1.05"
    assert command(folder, *flags, predicted=predicted) == 0
    found = xarray.open_dataset(folder / "out.nc")
    space = sc.StateSpace(
        (5, 5),
        variables=("t2m",),
        coordinates={"latitude": LATITUDE, "longitude": LONGITUDE},
        units={"latitude": "degrees_north", "longitude": "degrees_east"},
        mask=np.isfinite(states[0]),
    )
    y = np.where(table["value"] == -9999, np.nan, table["value"])
    expected = sc.analyse(
        sc.LETKF(1.05, localization=sc.GaspariCohn(500.0)),
        np.nan_to_num(states),
        values,
        y,
        1.0,
        space=space,
        positions=table[["lat", "lon"]].to_numpy(),
        generator=rng.seeded(0),
    )
    np.testing.assert_allclose(found["t2m"], expected.states[:, 0].numpy(), rtol=1e-12)
    assert np.isnan(found["t2m"][:, 0, 0]).all()
    assert found["t2m"].attrs["units"] == "K"


def test_weights_and_settings_of_the_method_are_kept(files, capsys):
    folder, *_ = files
    assert command(folder, "--method", "particle-filter", "--resample", "0") == 0
    weights = xarray.open_dataset(folder / "out.nc")["weight"]
    assert weights.dims == ("ensemble",)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert "3 of 4 observations, 12 members" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--method", "ensf"), "needs an observation operator with a gradient"),
        (("--method", "enks", "--lag", "2"), "give a filter"),
        (("--member-axis", "foo"), "'foo', named as that of series or members"),
        (("--variable", "q"), "it needs 'q'"),
    ],
)
def test_what_cannot_be_is_one_sentence(files, flags, words, capsys):
    folder, *_ = files
    assert command(folder, *flags) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "out.nc").exists()


def test_files_that_do_not_fit_are_named(files, capsys):
    folder, *_ = files
    assert command(folder, predicted="observations.csv") == 2
    assert "predicts 4 observations for 4 members, where there are 4 and 12" in (
        capsys.readouterr().err
    )
    (folder / "out.nc").write_text("mine")
    assert command(folder) == 2
    assert "only what Scorda wrote is replaced" in capsys.readouterr().err
    assert (folder / "out.nc").read_text() == "mine"


def test_an_ensemble_without_members_or_with_gaps_is_refused(tmp_path):
    from scorda.reading.ensembles import read_members

    states = np.ones((3, 4))
    with pytest.raises(ValueError, match="it needs one of the members"):
        read_members(xarray.Dataset({"x": (("a", "b"), states)}))
    states[1, 2] = np.nan
    with pytest.raises(ValueError, match="lacks 1 values of some of the members"):
        read_members(xarray.Dataset({"x": (("member", "b"), states)}))
    times = xarray.Dataset({"x": (("member", "time", "b"), np.ones((3, 2, 4)))}, {"time": [0, 1]})
    with pytest.raises(ValueError, match="has 2 times: select one"):
        read_members(times)
    members, space, *_ = read_members(times.isel(time=[0]))
    assert (tuple(members.shape), space.variables) == ((3, 4), ("x",))
    two = xarray.Dataset({n: (("state", "member"), np.ones((2, 3))) for n in ("p", "q")})
    members, *_ = read_members(two)
    assert torch.equal(members, torch.ones(3, 2, 2, dtype=members.dtype))


def test_predictions_belong_to_members_by_their_labels_and_values_have_units(files, capsys):
    folder, _, _, table = files
    assert command(folder) == 0
    expected = xarray.load_dataset(folder / "out.nc")
    names = np.arange(12) + 5
    for file in ("ensemble.nc", "predicted.nc"):
        data = xarray.load_dataset(folder / file).assign_coords(number=names)
        data[next(iter(data.data_vars))].attrs["units"] = "K"
        if file == "predicted.nc":
            data = data.isel(number=slice(None, None, -1))
        (folder / file).unlink()
        data.to_netcdf(folder / file)
    celsius = table.assign(units="degC")
    celsius["value"] = table["value"].where(table["value"] == -9999, table["value"] - 273.15)
    celsius.to_csv(folder / "observations.csv", index=False)
    capsys.readouterr()
    assert command(folder, "--overwrite") == 0
    assert "converted from degC to K" in capsys.readouterr().out
    found = xarray.load_dataset(folder / "out.nc")
    np.testing.assert_allclose(found["t2m"], expected["t2m"], rtol=1e-12)
    assert found["ensemble"].values.tolist() == names.tolist()
    (folder / "predicted.nc").unlink()
    data.assign_coords(number=names + 1).to_netcdf(folder / "predicted.nc")
    assert command(folder, "--overwrite") == 2
    assert "has other members of 'number' than the ensemble" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["etkf", "letkf", "enkf"])
def test_rows_that_cannot_be_used_leave_the_analysis_as_it_is_without_them(files, method, capsys):
    folder, _, _, table = files
    data = xarray.load_dataset(folder / "predicted.nc")
    data["hx"].attrs["units"] = "K"
    (folder / "predicted.nc").unlink()
    data.to_netcdf(folder / "predicted.nc")
    flags = ["--method", method] + ["--localization", "500"] * (method == "letkf")
    good = pandas.concat([table.iloc[:3]] * 3, ignore_index=True).astype(object)
    good["units"] = ["K", "degC", ""] * 3
    good.loc[[1, 4, 7], "value"] -= 273.15
    bad = {2: ("value", ""), 3: ("std", 0), 4: ("std", "high"), 5: ("units", "Pa"), 6: ("lat", "")}
    spoiled = good.copy()
    for row, (column, entry) in bad.items():
        spoiled.loc[row, column] = entry
    found = []
    for rows, kept in ((spoiled, range(9)), (good.drop(index=list(bad)), [0, 1, 7, 8])):
        rows.to_csv(folder / "observations.csv", index=False)
        some = f"some{len(kept)}.nc"
        data.isel(observation=[k % 3 for k in kept]).to_netcdf(folder / some)
        assert command(folder, *flags, "--overwrite", predicted=some) == 0
        found.append(xarray.load_dataset(folder / "out.nc"))
    assert found[0].identical(found[1])
    told = " ".join(capsys.readouterr().out.split())
    assert "4 of 9 observations, 12 members; 5 rows not used: 1 missing value (row 3); " in told
    assert "1 std not positive (row 4); 1 std is not a number (row 5); and 2 more reasons" in told


def test_a_unit_that_cannot_be_converted_is_counted(files, capsys):
    folder, _, _, table = files
    data = xarray.load_dataset(folder / "predicted.nc")
    data["hx"].attrs["units"] = "K"
    (folder / "predicted.nc").unlink()
    data.to_netcdf(folder / "predicted.nc")
    table.assign(units=["K", "Pa", "Pa", "K"]).to_csv(folder / "observations.csv", index=False)
    assert command(folder) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 unit 'Pa' that cannot be converted to K (rows 2, 3)" in told


def test_a_table_without_a_row_that_can_be_used_is_one_sentence(files, capsys):
    folder, _, _, table = files
    table.assign(std=[0, -1, "high", 1]).to_csv(folder / "observations.csv", index=False)
    assert command(folder) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has 4 rows of which none can be used (2 std not positive (rows 1, 2); 1 std" in told
    assert not (folder / "out.nc").exists()
