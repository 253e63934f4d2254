"""Tables of observations: matching, duplicates, unusable rows, round trips."""

import csv
import datetime
import math

import numpy as np
import pytest
import torch

from scorda.core.files import write_columns
from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.core.times import match_times, time_unit
from scorda.observations import tables
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Function, Pointwise, Select
from scorda.observations.rows import UnusedRow
from scorda.observations.spatial import Average, Interpolate, Stride

NAN = math.nan
HOURS = {"time": "hours"}
UK = StateSpace(
    (3, 4),
    dt=1.0,
    variables=("t2m",),
    coordinates={
        "latitude": np.array([50.0, 50.25, 50.5]),
        "longitude": np.array([-2.0, -1.75, -1.5, -1.25]),
    },
    units=HOURS,
)
FLOW = StateSpace(
    (2, 4, 6),
    dt=0.2,
    variables=("u", "v"),
    coordinates={"y": np.arange(4.0), "x": np.arange(6.0)},
    period={"x": 6.0},
)
LORENZ = StateSpace((3,), dt=0.05, variables=("x", "y", "z"))


def columns(*rows, names="time variable value std latitude longitude"):
    parts = list(zip(*rows, strict=True))
    return {n: np.array(c) for n, c in zip(names.split(), parts, strict=True)}


def lorenz(*rows, names="time variable value std"):
    return columns(*rows, names=names)


def reasons(observations):
    return {row.row: row.reason for row in observations.unused}


def test_each_variable_and_position_is_a_column_and_each_step_a_row():
    table = lorenz(
        (0.15, "z", 3.0, 0.3), (0.05, "x", 1.0, 0.1), (0.15, "x", 2.0, 0.2), (0.5, "z", 4.0, 0.4)
    )
    found = Observations.from_table(table, LORENZ)
    assert found.model.operator == Select([0, 2])
    assert found.steps == (1, 3, 10) and found.unused == ()
    expected = torch.tensor([[1.0, NAN], [2.0, 3.0], [NAN, 4.0]])
    torch.testing.assert_close(found.values, expected, equal_nan=True, atol=0, rtol=0)
    torch.testing.assert_close(found.std, expected / 10, equal_nan=True)
    y, model = found.at(1)
    assert y.tolist() == [2.0, 3.0]
    torch.testing.assert_close(model.error_std((2,), y), torch.tensor([0.2, 0.3]))


def test_duplicates_are_averaged_by_precision():
    """Values 1 and 4 with std 1 and 2: mean (1 + 4/4) / (1 + 1/4), std (1 + 1/4)^-1/2."""
    table = lorenz((0.1, "x", 1.0, 1.0), (0.11, "x", 4.0, 2.0), (0.1, "y", 7.0, 0.3))
    found = Observations.from_table(table, LORENZ)
    torch.testing.assert_close(found.values, torch.tensor([[2.0 / 1.25, 7.0]]))
    torch.testing.assert_close(found.std, torch.tensor([[1.25**-0.5, 0.3]]))
    # Single values stay what they were to the last digit.
    assert found.values[0, 1] == 7.0 and found.std[0, 1] == 0.3


def test_duplicates_have_the_likelihood_of_the_rows_up_to_a_constant():
    rows = [(0.1, "x", 1.0, 1.0), (0.1, "x", 4.0, 2.0), (0.1, "x", 2.5, 0.5)]
    found = Observations.from_table(lorenz(*rows), LORENZ)
    trajectory = normal(6, (3, 3), seeded(0))
    separate = sum(-0.5 * ((value - trajectory[:, 2, 0]) / std) ** 2 for _, _, value, std in rows)
    difference = found.log_likelihood(trajectory) - separate
    torch.testing.assert_close(difference, difference[:1].expand(6), atol=1e-12, rtol=0)


def test_positions_on_the_grid_are_selected_also_when_rounded():
    """-1.7501 is off by 4e-4 of the spacing, less than the stated thousandth."""
    table = columns(
        (0, "t2m", 280.0, 0.5, 50.25, -1.7501), (1, "t2m", 281.0, 0.5, 50.25, -1.75),
        (1, "t2m", 282.0, 0.5, 50.0, -1.25),
    )  # fmt: skip
    found = Observations.from_table(table, UK)
    assert found.model.operator == Select([3, 5])
    assert found.values[1].tolist() == [282.0, 281.0]


def test_positions_off_the_grid_are_interpolated():
    table = columns(
        (0, "t2m", 280.0, 0.5, 50.3, -1.7), (0, "t2m", 281.0, 0.5, 50.25, -1.75),
        (2, "t2m", 282.0, 0.5, 50.3, -1.7),
    )  # fmt: skip
    found = Observations.from_table(table, UK)
    operator = found.model.operator
    assert isinstance(operator, Interpolate)
    torch.testing.assert_close(
        operator.coordinates(UK), torch.tensor([[50.25, -1.75], [50.3, -1.7]])
    )
    field = normal(1, UK.shape, seeded(0))
    assert operator(field)[0, 0] == field[0, 1, 1]
    torch.testing.assert_close(
        found.values, torch.tensor([[281.0, 280.0], [NAN, 282.0]]), equal_nan=True
    )


def test_several_variables_off_the_grid_and_across_the_periodic_edge():
    names = "time variable value std y x"
    table = columns(
        (0.0, "v", 1.0, 0.1, 0.5, 5.5), (0.0, "u", 2.0, 0.1, 0.5, -0.5),
        (0.2, "v", 3.0, 0.1, 1, 6),
        names=names,
    )  # fmt: skip
    found = Observations.from_table(table, FLOW)
    operator = found.model.operator
    assert operator.variables(FLOW) == ("u", "v", "v")
    x = normal(1, FLOW.shape, seeded(0))
    edge = x[:, :, :2][..., [5, 0]].mean((2, 3))[0]
    torch.testing.assert_close(operator(x)[0], torch.stack([edge[0], edge[1], x[0, 1, 1, 0]]))
    assert found.values[0, :2].tolist() == [2.0, 1.0] and found.values[1, 2] == 3.0


def test_point_is_the_flat_grid_point_of_the_variable():
    names = "time variable value std point"
    table = columns((0.0, "v", 1.0, 0.1, 7), (0.0, "u", 2.0, 0.1, 7), names=names)
    found = Observations.from_table(table, FLOW)
    assert found.model.operator == Select([7, 24 + 7])
    assert found.values.tolist() == [[2.0, 1.0]]


def test_one_variable_needs_no_column_and_std_may_be_an_argument():
    table = columns(
        (0, 280.0, 50.0, -2.0), (0, 281.0, 50.0, -1.75), names="time value latitude longitude"
    )
    found = Observations.from_table(table, UK, std=0.5)
    assert found.std.tolist() == [[0.5, 0.5]]
    table["std"] = np.array([0.1, NAN])
    assert Observations.from_table(table, UK, std=0.5).std.tolist() == [[0.1, 0.5]]


def test_datetimes_are_counted_from_start():
    times = [
        "2019-03-21T06:00",
        "2019-03-21 07:20:00",
        "2019-03-21T09:00Z",
        "2019-03-21T11:00+01:00",
    ]
    values = [1.0, 2.0, 3.0, 4.0]
    table = {"time": times, "value": values, "point": [0] * 4, "std": [0.5] * 4}
    starts = "2019-03-21T06:00", np.datetime64("2019-03-21T06"), datetime.datetime(2019, 3, 21, 6)
    for start in starts:
        found = Observations.from_table(table, UK, start)
        assert found.steps == (0, 1, 3, 4)
        assert found.values[:, 0].tolist() == values
    aware = datetime.timezone(datetime.timedelta(hours=2))
    start = datetime.datetime(2019, 3, 21, 8, tzinfo=aware)
    objects = [start + datetime.timedelta(hours=k) for k in (0, 1, 3, 4)]
    found = Observations.from_table(table | {"time": np.array(objects, object)}, UK, start)
    assert found.steps == (0, 1, 3, 4)
    stamps = np.array(times[:2], "M8[ns]")
    step, _ = match_times(stamps, UK, "2019-03-21T05:00")
    assert step.tolist() == [1, 2]


@pytest.mark.parametrize("text", ["now", "today", "2019", "2019-03", "2019-3-21", "21/03/2019"])
def test_only_a_full_date_is_a_datetime(text):
    times = np.array([text, "2019-03-21T06:00"], dtype=object)
    _, why = match_times(times, UK, "2019-03-21T06:00")
    assert why.tolist() == [f"time '{text}' is no ISO 8601 datetime", ""]
    with pytest.raises(ValueError, match="Got start = "):
        match_times(times, UK, text)


@pytest.mark.parametrize(
    ("unit", "dt", "hours"),
    [("s", 3600.0, 2), ("seconds", 1800.0, 1), ("min", 60.0, 2), ("h", 0.5, 1), ("day", 0.5, 24)],
)
def test_units_of_time(unit, dt, hours):
    """Two steps of dt after the start are `hours` hours after it."""
    space = StateSpace((1,), dt=dt, units={"time": unit})
    start = np.datetime64("2019-03-21T00:00")
    step, why = match_times(start + np.array([0, hours]).astype("m8[h]"), space, start)
    assert step.tolist() == [0, 2] and (why == "").all()


def test_times_match_the_nearest_step_within_the_tolerance():
    times = np.array([0.0, 0.024, 0.025, 0.06, 0.149, -0.03, 0.151])
    step, why = match_times(times, LORENZ)
    assert step.tolist() == [0, 0, 1, 1, 3, -1, 3]
    assert why.tolist() == [""] * 5 + ["time before step 0", ""]
    step, why = match_times(times, LORENZ, tolerance=0.01, steps=2)
    off, late = "time further than 0.01 from a step", "time after step 2"
    assert why.tolist() == ["", off, off, "", late, "time before step 0", late]
    # 0.3 / 0.1 is not 3 in binary; the times are on their steps nevertheless.
    decimal = StateSpace((1,), dt=0.1)
    step, why = match_times(0.1 * np.arange(1000), decimal, tolerance=0.0)
    assert step.tolist() == list(range(1000)) and not any(why)


def test_rows_that_cannot_be_used_are_listed_with_reasons():
    good = ("2019-03-21T06:00", "t2m", "280.5", "0.5", "50.0", "-2.0")
    rows = [
        good,
        ("2019-03-21T06:00", "d2m", "280.5", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "cold", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "inf", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "0", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "-1", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "0.5", "60.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "0.5", "nan", "-2.0"),
        ("2019-03-21T05:00", "t2m", "280.5", "0.5", "50.0", "-2.0"),
        ("2019-03-25T06:00", "t2m", "280.5", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:20", "t2m", "280.5", "0.5", "50.0", "-2.0"),
        ("21.03.2019 06:00", "t2m", "280.5", "0.5", "50.0", "-2.0"),
        ("", "t2m", "280.5", "0.5", "50.0", "-2.0"),
        ("2019-03-21T06:00", "t2m", "280.5", "?", "50.0", "-2.0"),
        ("2019-03-21T07:00", "t2m", "281.5", "0.5", "50.0", "-2.0"),
    ]
    found = Observations.from_table(
        columns(*rows), UK, "2019-03-21T06:00", tolerance=0.25, steps=24
    )
    assert reasons(found) == {
        2: "unknown variable 'd2m'",
        3: "missing value",
        4: "value is not a number",
        5: "infinite value",
        6: "missing std",
        7: "std not positive",
        8: "std not positive",
        9: "position outside the domain",
        10: "missing position",
        11: "time before step 0",
        12: "time after step 24",
        13: "time further than 0.25 from a step",
        14: "time '21.03.2019 06:00' is no ISO 8601 datetime",
        15: "missing time",
        16: "std is not a number",
    }
    assert found.steps == (0, 1) and found.values[:, 0].tolist() == [280.5, 281.5]
    summary = found.summary()
    assert summary.startswith("2 values of 1 observed quantities at 2 steps (0 to 1); 15 rows not")
    assert "2 std not positive (rows 7, 8)" in summary and summary.endswith(".")


def test_summary_shortens_long_lists():
    rows = tuple(UnusedRow(k, "missing value") for k in range(1, 9))
    assert tables.summary_of(rows) == "8 missing value (rows 1, 2, 3, 4, 5, ...)"
    rows = tuple(UnusedRow(k, f"reason {k}") for k in range(1, 6))
    assert tables.summary_of(rows).endswith("1 reason 3 (row 3); and 2 more reasons")
    assert tables.summary_of(rows[:4]).endswith("1 reason 3 (row 3); and 1 more reason")
    table = lorenz((0.1, "x", 1.0, 1.0))
    assert Observations.from_table(table, LORENZ).summary().endswith("(2 to 2); 0 rows not used.")


@pytest.mark.parametrize("ending", ["csv", "nc"])
def test_files_and_mappings_are_read_alike(tmp_path, ending):
    table = columns(
        ("2019-03-21T06:00", "t2m", 280.0, 0.5, 50.0, -2.0),
        ("2019-03-21T08:00", "t2m", NAN, 0.5, 50.0, -1.25),
        ("2019-03-21T08:00", "t2m", 282.0, 0.25, 50.0, -1.25),
    )
    path = tmp_path / f"table.{ending}"
    stored = table if ending == "csv" else table | {"time": table["time"].astype("M8[ns]")}
    write_columns(path, stored)
    for source in (path, str(path), table):
        found = Observations.from_table(source, UK, "2019-03-21T06:00")
        assert found.steps == (0, 2)
        assert found.values[0, 0] == 280.0 and found.values[1, 1] == 282.0
        assert reasons(found) == {2: "missing value"}


def test_a_data_frame_is_a_table(unchecked):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(lorenz((0.1, "x", 1.0, 0.1), (0.15, "y", 2.0, 0.2)))
    for table in (frame, dict(frame)):
        found = Observations.from_table(table, LORENZ)
        assert found.steps == (2, 3) and found.values[0, 0] == 1.0


def written(observations, space, path, start=None):
    observations.to_table(path, space, start)
    return Observations.from_table(path, space, start)


@pytest.mark.parametrize("ending", ["csv", "nc"])
@pytest.mark.parametrize("start", [None, "2019-03-21T06:30"])
def test_what_is_written_is_read_again(tmp_path, ending, start):
    """Values and errors are equal to the last digit; positions too, since the grid snaps them."""
    values = normal(5, (3,), seeded(0))
    values[1, 2], values[3] = NAN, NAN
    std = normal(5, (3,), seeded(1)).abs() + 0.1
    model = ObservationModel(Select([2, 7, 11]), std=1.0)
    given = Observations(model, [0, 1, 5, 6, 9], values, std=std)
    found = written(given, UK, tmp_path / f"a.{ending}", start)
    assert found.model.operator == Select([2, 7, 11])
    assert found.steps == (0, 1, 5, 9) and found.unused == ()
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(found.values, values[kept], equal_nan=True, atol=0, rtol=0)
    present = ~values[kept].isnan()
    assert torch.equal(found.std[present], std[kept][present])


def test_round_trip_of_every_operator_with_places(tmp_path):
    points = torch.tensor([[0.25, 5.75], [2.5, 1.125]])
    x = normal(4, FLOW.shape, seeded(0))
    operators = (
        Mask(normal(2, (4, 6), seeded(1)) > 1), Stride(2), Interpolate(points, FLOW),
        Interpolate(points, FLOW, ("v", "u")), Average(2),
    )  # fmt: skip
    for number, operator in enumerate(operators):
        model = ObservationModel(operator, std=0.5)
        given = Observations(model, [0, 3, 4, 8], model.sample(x, seeded(2)))
        found = written(given, FLOW, tmp_path / f"{number}.csv")
        trajectory = normal(3, (9, *FLOW.shape), seeded(3))
        if isinstance(operator, Average):
            # A block mean comes back as a value at the block's centre: the file cannot say more.
            assert isinstance(found.model.operator, Interpolate)
            continue
        torch.testing.assert_close(
            found.log_likelihood(trajectory), given.log_likelihood(trajectory)
        )


def test_float32_values_are_written_with_their_own_digits(tmp_path):
    values = torch.tensor([[0.1], [1 / 3]], dtype=torch.float32)
    given = Observations(ObservationModel(Select([0]), std=0.2), [1, 3], values)
    given.to_table(tmp_path / "a.csv", LORENZ)
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["time", "variable", "value", "std"]
    assert rows[1:] == [["0.05", "x", "0.1", "0.2"], ["0.15", "x", "0.33333334", "0.2"]]


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path):
    values, path = torch.zeros(1, 3), tmp_path / "a.csv"
    first = Select([0, 1, 2])
    cases = [
        (Observations(ObservationModel(first, cov=torch.eye(3)), [0], values), "cannot hold"),
        (Observations(ObservationModel(first, std=1.0), [(0, 1)], values), "one per row"),
        (Observations(ObservationModel(Pointwise(torch.sin), std=1.0), [0], values), "single var"),
        (Observations(ObservationModel(Chain(Pointwise(torch.sin), first), std=1.0), [0], values),
         "Chain does not observe single variables"),
        (Observations(ObservationModel(Function(torch.sin), std=1.0), [0], values), "single var"),
        (Observations(ObservationModel(first, std=1.0), [0], values * NAN), "without a present"),
    ]  # fmt: skip
    for given, match in cases:
        with pytest.raises(ValueError, match=match):
            given.to_table(path, LORENZ)
    good = Observations(ObservationModel(first, std=1.0), [0], values)
    with pytest.raises(ValueError, match=r"must end in .csv or .nc"):
        good.to_table(tmp_path / "a.parquet", LORENZ)
    with pytest.raises(ValueError, match="unit of time is 'not given'"):
        good.to_table(path, LORENZ, "2019-03-21")
    assert not list(tmp_path.iterdir())


GOOD = lorenz((0.1, "x", 1.0, 0.1))


@pytest.mark.parametrize(
    ("table", "space", "settings", "match"),
    [
        (
            {n: c for n, c in GOOD.items() if n != "time"},
            LORENZ,
            {},
            "it needs time, so rename a column",
        ),
        ({n: c for n, c in GOOD.items() if n != "value"}, LORENZ, {}, "it needs value"),
        ({n: c for n, c in GOOD.items() if n != "variable"}, LORENZ, {}, "it needs variable"),
        ({n: c for n, c in GOOD.items() if n != "std"}, LORENZ, {}, "the argument `std`"),
        (GOOD, UK, {}, r"it needs a position \(latitude and longitude, or point\)"),
        ({n: c[:0] for n, c in GOOD.items()}, LORENZ, {}, "has no rows"),
        (GOOD | {"variable": np.array(["w"])}, LORENZ, {}, "unknown variable 'w' .*'x', 'y', 'z'"),
        (GOOD | {"value": np.array([NAN])}, LORENZ, {}, "none can be used .1 missing value"),
        (GOOD | {"std": np.array([0.0])}, LORENZ, {}, "std not positive"),
        (GOOD, LORENZ, {"steps": 1}, "time after step 1"),
        (GOOD, LORENZ, {"tolerance": -1.0}, "Got tolerance = -1.0"),
        (GOOD | {"time": np.array(["2019-03-21"])}, LORENZ, {}, "without `start`"),
        (
            GOOD | {"time": np.array(["2019-03-21"])},
            LORENZ,
            {"start": "2019-03-21"},
            "unit of time is 'not given'",
        ),
        (
            GOOD | {"time": np.array(["2019-03-21"])},
            StateSpace((3,), variables=("x", "y", "z"), units={"time": "fortnight"}),
            {"start": "2019-03-21"},
            "unit of time is 'fortnight'",
        ),
        (
            columns(("2019-03-21", "t2m", 1.0, 1.0, 50.0, -2.0)),
            UK,
            {"start": "21 March"},
            "Got start = '21 March': give an ISO 8601 datetime",
        ),
        (
            columns(("yesterday", "t2m", 1.0, 1.0, 50.0, -2.0)),
            UK,
            {"start": "2019-03-21"},
            "'yesterday' is no ISO 8601 datetime",
        ),
        (
            columns((0, "t2m", 1.0, 1.0, 40.0, -2.0)),
            UK,
            {},
            "position outside the domain.*latitude 50 to",
        ),
        (
            columns((0, "t2m", 1.0, 1.0, 12), names="time variable value std point"),
            UK,
            {},
            "point outside the grid",
        ),
    ],
)
def test_bad_tables_are_refused(table, space, settings, match):
    with pytest.raises(ValueError, match=match) as error:
        Observations.from_table(table, space, **settings)
    # One sentence: nothing but its end is a full stop before a space.
    assert str(error.value).endswith(".") and ". " not in str(error.value)


def test_the_name_of_a_bad_file_is_given(tmp_path):
    (tmp_path / "a.csv").write_text("time,variable,value\n")
    with pytest.raises(ValueError, match=r"a\.csv has the columns .*it needs std"):
        Observations.from_table(tmp_path / "a.csv", LORENZ)
    with pytest.raises(ValueError, match=r"a\.csv has no rows"):
        Observations.from_table(tmp_path / "a.csv", LORENZ, std=1.0)
    with pytest.raises(FileNotFoundError, match=r"no table .*b\.csv"):
        Observations.from_table(tmp_path / "b.csv", LORENZ)


def fields():
    values = np.full((4, 3, 4), NAN)
    values[0, 1, 2], values[2, 0, 0], values[2, 1, 2] = 1.0, 2.0, 3.0
    return values


def test_fields_with_absent_values_are_observations_of_the_points_ever_seen():
    found = Observations.from_array(fields(), UK, std=0.5)
    assert found.model.operator == Select([0, 6]) and found.steps == (0, 2)
    expected = torch.tensor([[NAN, 1.0], [2.0, 3.0]])
    torch.testing.assert_close(found.values, expected, equal_nan=True)
    assert found.std[1].tolist() == [0.5, 0.5]
    late = Observations.from_array(fields(), UK, 0.5, times=np.array([0, 5, 7.2, 8]), steps=7)
    assert late.steps == (0, 7) and reasons(late) == {4: "time after step 7"}
    second = Observations.from_array(np.ones((1, 4, 6)), FLOW, 0.5, "v")
    assert second.model.operator == Select(range(24, 48))


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_fields_are_read_from_files(tmp_path, kind):
    import xarray

    times = np.datetime64("2019-03-21T06:00", "ns") + np.arange(4).astype("m8[h]")
    dataset = xarray.Dataset(
        {"t2m": (("longitude", "time", "latitude"), fields().transpose(2, 0, 1))},
        {"time": times, **{n: c.astype("float32") for n, c in UK.coordinates.items()}},
    )
    path = tmp_path / ("a.nc" if kind == "netcdf" else "a.zarr")
    if kind == "netcdf":
        dataset.to_netcdf(path, engine="h5netcdf")
    else:
        dataset.to_zarr(path, consolidated=False)
    found = Observations.from_array(path, UK, 0.5, start="2019-03-21T05:00")
    assert found.model.operator == Select([0, 6]) and found.steps == (1, 3)
    with pytest.raises(ValueError, match=r"has the variables \['t2m'\]: it needs 'field'"):
        Observations.from_array(path, StateSpace((3, 4)), 0.5)
    moved = {"latitude": UK.coordinates["latitude"] + 1, "longitude": UK.coordinates["longitude"]}
    other = StateSpace((3, 4), variables=("t2m",), coordinates=moved, units=HOURS)
    with pytest.raises(
        ValueError, match=r"latitude 50 to 50\.5 .*each must be a position of the space"
    ):
        Observations.from_array(path, other, 0.5, start="2019-03-21T05:00")
    with pytest.raises(ValueError, match=r"a\.(nc|zarr) has 4 fields of 't2m' of which no value"):
        Observations.from_array(path, UK, 0.5, start="2030-03-21T05:00")
    line = StateSpace((4,), variables=("t2m",), units=HOURS)
    with pytest.raises(ValueError, match="it needs one for 'site' of the space"):
        Observations.from_array(path, line, 0.5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Observations.from_array(np.zeros((2, 3, 5)), UK, 0.5), r"grid \(3, 4\) of the"),
        (lambda: Observations.from_array(fields() * NAN, UK, 0.5), "all are NaN"),
        (lambda: Observations.from_array(fields(), UK, 0.0), "it must be positive and finite"),
        (lambda: Observations.from_array(np.zeros((2, 4, 6)), FLOW, 0.5), "Give `variable`"),
        (lambda: Observations.from_array(fields(), UK, 0.5, "d2m"), "Unknown variable 'd2m'"),
        (
            lambda: Observations.from_array(fields(), UK, 0.5, times=np.arange(3.0)),
            "give one each",
        ),
    ],
)
def test_bad_fields_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_time_unit_has_the_usual_names():
    for name, unit in (("s", "seconds"), ("Hour", "hours"), ("d", "days"), ("minutes", "minutes")):
        assert time_unit(StateSpace((1,), units={"time": name})) == unit


def test_every_row_of_a_long_table_counts(tmp_path):
    """Rows of one time and place are averaged, each with its precision."""
    generator = np.random.default_rng(0)
    rows = 20_000
    table = {
        "time": generator.integers(0, 500, rows) * 1.0,
        "value": generator.normal(size=rows),
        "latitude": generator.choice(UK.coordinates["latitude"], rows),
        "longitude": generator.choice(UK.coordinates["longitude"], rows),
    }
    write_columns(tmp_path / "a.csv", table)
    found = Observations.from_table(tmp_path / "a.csv", UK, std=1.0)
    assert found.values.shape == (500, 12)
    count = found.std.pow(-2).nansum()
    assert round(count.item()) == rows


def test_positions_far_from_a_periodic_domain_have_another_unit():
    """Longitudes are counted from -180 or from 0; degrees on a domain in radians are refused."""
    grid = np.arange(4) * np.pi / 2
    space = StateSpace((4,), variables=("t",), coordinates={"x": grid}, period={"x": 2 * np.pi})
    x = np.array([-np.pi, 0.0, 3 * np.pi, 90.0, -8.0])
    table = {"time": np.zeros(5), "x": x, "value": np.ones(5)}
    observations = Observations.from_table(table, space, std=0.1)
    assert [row.row for row in observations.unused] == [4, 5]
    assert {row.reason for row in observations.unused} == {"position more than a period away"}


@pytest.mark.parametrize("scale", [1.0, 1e-13, 1e300])
def test_numbers_are_ordered_by_all_their_bits(scale):
    """Also those whose last bits alone differ, which the keys of the order leave out."""
    column = 1 + scale * np.random.default_rng(0).integers(-50, 50, 3000)
    column = np.append(column, -column)
    code, found = tables._coded(column)
    expected, index = np.unique(column, return_inverse=True)
    assert (found == expected).all() and (code == index).all()


def test_a_table_that_is_there_is_replaced_where_that_is_said(tmp_path):
    """A CSV has no place for a mark: only its user knows whose it is."""
    given = Observations(ObservationModel(Select([0]), std=1.0), [1, 2], torch.ones(2, 1))
    path, thesis = tmp_path / "a.csv", tmp_path / "thesis.csv"
    given.to_table(path, LORENZ)
    before = path.read_bytes()
    other = Observations(given.model, [1, 2], 2 * torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"a\.csv is already there.*overwrite=True"):
        other.to_table(path, LORENZ)
    assert path.read_bytes() == before
    other.to_table(path, LORENZ, overwrite=True)
    assert path.read_bytes() != before
    given.to_table(path, LORENZ, overwrite=True)
    assert path.read_bytes() == before
    thesis.write_text("year,words\n1,90000\n")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="only what Scorda wrote is replaced"):
            given.to_table(thesis, LORENZ, overwrite=overwrite)
    # A file with a mark is replaced as by all other writers.
    for _ in range(2):
        given.to_table(tmp_path / "a.nc", LORENZ)


def test_a_unit_that_is_given_is_used_or_refused():
    """It was ignored where the state has none."""
    table = {"time": [0.0], "variable": ["x"], "value": [1.0], "std": [1.0]}
    space = StateSpace((2,), variables=("x", "y"), units={"y": "m"})
    for units, said in (({"x": "foo"}, "x, which has no unit"), ({"q": "m"}, "variable 'q'")):
        with pytest.raises(ValueError, match=said):
            Observations.from_table(table, space, units=units)
    metres = Observations.from_table({**table, "variable": ["y"]}, space, units={"y": "km"})
    assert metres.values.tolist() == [[1000.0]]
