"""Records of fields, and priors learned from them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from torch.testing import assert_close

import scorda as sc
from scorda.core.space import StateSpace
from scorda.core.times import phases, phases_of
from scorda.diffusion.training import Training
from scorda.priors import from_fields
from scorda.priors.from_fields import GUIDANCE, train_on_fields
from scorda.reading.records import Fields, read_fields

FEW = Training(training_steps=4, batch=4, segment=8, rate=1e-3, validation=0.2, every=2)


@pytest.fixture(autouse=True)
def _few_radii(monkeypatch):
    """Laws are learned in a second: the choice among more radii has tests of its own."""
    monkeypatch.setattr("scorda.priors.held_back.RADII", (0.25, 0.5, 1.0))


def record(days=6, per_day=8, seed=0):
    """A red-noise field with a daily cycle, on a falling latitude."""
    rng = np.random.default_rng(seed)
    steps, shape = days * per_day, (4, 5)
    spatial = np.linalg.cholesky(
        np.exp(-np.abs(np.subtract.outer(np.arange(20), np.arange(20))) / 4) + 1e-9 * np.eye(20)
    )
    x = np.zeros((steps, 20))
    for k in range(1, steps):
        x[k] = 0.8 * x[k - 1] + 0.6 * spatial @ rng.standard_normal(20)
    cycle = 5 * np.sin(2 * np.pi * np.arange(steps) / per_day)[:, None]
    values = (280 + cycle + x).reshape(steps, *shape)
    times = np.datetime64("2020-01-01T00", "ns") + np.arange(steps) * np.timedelta64(3, "h")
    return xarray.Dataset(
        {"t": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {
            "time": times,
            "latitude": ("latitude", 58 - np.arange(4.0), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(5.0), {"units": "degrees_east"}),
        },
    )


@pytest.fixture
def file(tmp_path):
    record().to_netcdf(tmp_path / "record.nc", engine="h5netcdf")
    return tmp_path / "record.nc"


def test_fields_are_read_with_increasing_coordinates_and_bounds_in_time(file):
    fields = read_fields(file, "t", until="2020-01-02T21:00")
    assert len(fields) == 16 and fields.space.dt == 3 and fields.space.units["time"] == "hours"
    assert (np.diff(fields.space.coordinates["latitude"]) > 0).all()
    given = record()["t"].values[:16, ::-1]
    assert_close(fields.states[0], torch.from_numpy(given.copy()))
    assert fields.start == "2020-01-01T00:00:00"


@pytest.mark.parametrize(
    ("variable", "since", "says"),
    [
        ("u", None, "it needs"),
        ("t", "2021-01-01", "its times are 2020-01-01T00:00 to 2020-01-06T21:00"),
    ],
)
def test_what_cannot_be_read_is_refused(file, variable, since, says):
    with pytest.raises(ValueError, match=says):
        read_fields(file, variable, since=since)


def test_a_date_alone_ends_with_its_day(file):
    assert len(read_fields(file, "t", until="2020-01-02")) == 16
    assert len(read_fields(file, "t", until="2020-01-02T00:00")) == 9


@pytest.mark.parametrize("content", [b"time,value\n0,1\n", None])
def test_a_file_that_cannot_be_read_is_named(file, tmp_path, content):
    """A table, and a NetCDF file that was cut."""
    path = tmp_path / "other.nc"
    path.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ValueError, match=r"other\.nc cannot be read as a NetCDF"):
        read_fields(path)


@pytest.mark.parametrize(
    ("sizes", "settings", "says"),
    [
        ({"modes": 0}, FEW, "at least 1"),
        ({}, replace(FEW, segment=500), "segments of 500 fields of a record of 48"),
    ],
)
def test_bad_sizes_of_a_training_are_refused(file, sizes, settings, says):
    with pytest.raises(ValueError, match=says):
        train_on_fields(read_fields(file, "t"), **sizes, settings=settings)


def test_phases_count_steps_since_midnight():
    space = StateSpace((2,), dt=3.0, units={"time": "hours"})
    assert phases(space) == 8
    assert phases_of("2020-01-01T18:00", 4, space).tolist() == [6, 7, 0, 1]
    with pytest.raises(ValueError, match="start on a step"):
        phases_of("2020-01-01T01:00", 4, space)
    assert phases(StateSpace((2,), dt=3.0)) == 1


def test_a_prior_with_a_daily_cycle_asks_when_the_window_begins(file, tmp_path):
    fields = read_fields(file, "t")
    train_on_fields(fields, corrected=4, width=8, settings=FEW).save(tmp_path / "p.safetensors")
    prior = sc.load(tmp_path / "p.safetensors")
    assert prior.guidance == GUIDANCE
    with pytest.raises(ValueError, match="when the window begins"):
        prior.denoiser(8)
    started = prior.starting("2020-02-01T06:00", 8)
    cycle = torch.stack([fields.states[0, p::8].mean(0) for p in range(8)])
    assert_close(started.standardisation.mean, cycle[(torch.arange(8) + 2) % 8])
    with pytest.raises(ValueError, match="started for 8"):
        started.denoiser(9)


def test_without_datetimes_there_is_no_daily_cycle(file):
    fields = read_fields(file, "t")
    space = StateSpace(fields.space.shape, 3.0, ("t",), fields.space.coordinates)
    prior = train_on_fields(Fields(fields.states, space), corrected=4, width=8, settings=FEW)
    assert prior.diurnal_mean is None and prior.starting("2020-01-01", 8) is prior


@pytest.mark.slow
def test_sda_with_a_learned_prior_is_the_gaussian_posterior_of_its_law(file):
    """MMPS is exact for the law; what is left is the sampler's steps and the members' number."""
    fields = read_fields(file, "t")
    prior = train_on_fields(fields, corrected=4, width=8, settings=FEW)
    torch.nn.init.zeros_(prior.network.correction.last.weight)
    torch.nn.init.zeros_(prior.network.correction.last.bias)
    prior.network.double()
    start = "2020-01-03T00:00"
    seen = [0, 7, 13]
    values = fields.states[0, 16:20].flatten(1)[:, seen]
    data = sc.Observations(sc.ObservationModel(sc.Select(seen), std=0.5), [0, 1, 2, 3], values)
    started = prior.starting(start, 4)
    members = 400
    analysis = sc.SDA(started).assimilate(
        sc.Problem(prior, data, 3), members, torch.Generator().manual_seed(0)
    )
    net, scale = prior.network, prior.standardisation.std.flatten()[0]
    eye = torch.eye(20)
    spatial = [net.spectrum[j] * torch.outer(e, e) for j, e in enumerate(net.basis.T)]
    spatial.append(net.spectrum[-1] * (eye - net.basis @ net.basis.T))
    cov = (
        sum(torch.kron(r, s) for r, s in zip(net.correlation(4), spatial, strict=True)) * scale**2
    )
    pick = torch.tensor([20 * k + i for k in range(4) for i in seen])
    total = cov[pick][:, pick] + 0.25 * torch.eye(12)
    gain = torch.linalg.solve(total, cov[pick]).T
    mean = started.standardisation.mean.flatten()
    mean = mean + gain @ (values.flatten() - mean[pick])
    std = (cov - gain @ cov[pick]).diagonal().sqrt()
    # 5 standard errors of 400 members, and 3% for 24 steps of the sampler.
    error = (analysis.states.flatten(1).mean(0) - mean).abs() / std
    assert error.max() < 5 / members**0.5 + 0.03
    ratio = analysis.states.flatten(1).std(0) / std
    assert (ratio - 1).abs().max() < 5 / (2 * members) ** 0.5 + 0.03


def test_the_provenance_of_a_record_of_the_globe_can_be_written():
    """The widest taper there is none, an infinite radius, which JSON has no number for."""
    axes = {"latitude": np.array([-60.0, 0, 60]), "longitude": np.arange(0.0, 360, 60)}
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}
    space = StateSpace((3, 6), 1.0, ("t",), axes, {"longitude": 360.0}, units)
    states = torch.randn(20, 3, 6, generator=torch.Generator().manual_seed(0)).double()
    found = from_fields.law_of(Fields(states, space), 8).found
    assert [row[0] for row in found["radii"]][-1] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_no_member_leaves_the_climate_where_observations_are_few_and_averaged(single):
    """With conjugate gradients and no bound a value here was 5.8e4."""
    draw, site = np.random.default_rng(0), 2 * np.pi * np.arange(16) / 16
    waves = np.zeros((201, 40, 16))
    for wave in (1, 2):
        speed, phase = draw.normal(0.3, 0.1, (201, 1, 1)), draw.uniform(0, 6.28, (201, 1, 1))
        size = draw.normal(size=(201, 1, 1))
        waves += size * np.cos(wave * site - speed * np.arange(40)[:, None] + phase)
    truth, states = torch.tensor(waves[0], dtype=torch.float32), torch.tensor(waves[1:])
    space = StateSpace((16,), 1.0, ("wave",))
    settings = replace(FEW, training_steps=300, every=100, segment=8)
    prior = train_on_fields(Fields(states.float(), space), settings=settings)
    model = sc.ObservationModel(sc.observations.Average(2), std=0.1)
    observations = sc.Observations(model, [5, 15, 25], model.operator(truth[[5, 15, 25]]))
    problem = sc.Problem(prior, observations, 30)
    analysis = sc.SDA(prior).assimilate(problem, 32, 2)
    # The record has values of at most 5.5.
    assert analysis.states.abs().max() < 8
    assert sc.metrics.crps(analysis.states, truth[:31]) < 0.5
