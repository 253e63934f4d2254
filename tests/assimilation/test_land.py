"""Points outside of the mask of a space: nothing is made up there, and nothing else changes."""

import numpy as np
import pytest
import torch
import xarray
from matplotlib.colors import to_rgba
from torch.testing import assert_close

import scorda as sc
from scorda import metrics, store
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.methods.denkf import DEnKF
from scorda.methods.enks import EnKS
from scorda.observations.masks import Mask
from scorda.observations.problem import twin_experiment
from scorda.observations.spatial import Interpolate, Stride
from scorda.report import fields, hovmoller, trajectories
from scorda.report.maps import LAND
from scorda.store import scores
from scorda.systems.function import FunctionSystem

SEA = np.ones((4, 5), dtype=bool)
SEA[2:, 3:] = False
INSIDE = torch.from_numpy(SEA)
AXES = {"lat": np.arange(4.0), "lon": np.arange(5.0)}
UNITS = {"lat": "degrees_north", "lon": "degrees_east", "t": "K"}


def space(mask=SEA):
    return StateSpace((4, 5), 1.0, ("t",), AXES, units=UNITS, mask=mask)


def step(x):
    """Advance along the latitude; points of land would pass their value on."""
    return 0.9 * x + 0.1 * x.roll(1, -2)


def twin(steps=4, mask=SEA, every=2):
    states = torch.randn(60, 4, 5, generator=rng.seeded(0)).cumsum(-1)
    system = FunctionSystem(step, states, space(mask), noise_std=0.1, library="torch")
    model = sc.ObservationModel(sc.Select([0, 7, 12]), std=0.5)
    return twin_experiment(system, model, steps, every, rng.seeded(1))


@pytest.mark.parametrize(
    "method",
    [
        sc.ETKF(1.1),
        DEnKF(),
        sc.EnKF(),
        sc.EnKF(localization=sc.GaspariCohn(150)),
        sc.EnKFN(),
        sc.EnSRF(1.1),
        sc.RankHistogramFilter(),
        sc.NormalScoreEnKF(),
        sc.EnSRF(localization=sc.GaspariCohn(150)),
        sc.LETKF(1.1, localization=sc.GaspariCohn(150)),
        sc.LETKF(localization=sc.GaspariCohn(200), block=2),
        EnKS(),
        sc.IEnKS(1.1, rotation=True),
        sc.ESMDA(),
        sc.ThreeDVar(sc.Climatology(draws=20)),
        sc.OptimalInterpolation(sc.Climatology(draws=20)),
        sc.EnKF(hybrid=sc.Hybrid(0.5, draws=20)),
        sc.ETKF(hybrid=sc.Hybrid(0.5, draws=20)),
        sc.ParticleFilter(),
    ],
    ids=lambda method: method.name,
)
def test_land_has_no_part_in_an_analysis(method):
    """What land held would not matter either, where nothing observes it and nothing leaves it."""
    values = torch.randn(1, 3, generator=rng.seeded(5))
    model = sc.ObservationModel(sc.Select([0, 7, 12]), std=0.5)
    found = []
    for mask in (SEA, None):
        states = torch.randn(20, 4, 5, generator=rng.seeded(0)).cumsum(-1)
        system = FunctionSystem(lambda x: x, states, space(mask), library="torch")
        problem = sc.Problem(system, sc.Observations(model, [0], values), 0)
        found.append(method.assimilate(problem, 20, rng.seeded(2)).states)
    assert found[0][..., ~INSIDE].isnan().all()
    assert torch.equal(found[0][..., INSIDE], found[1][..., INSIDE])


def test_scores_are_those_of_the_sea():
    truth, problem = twin()
    analysis = sc.ETKF().assimilate(problem, 20, rng.seeded(2))
    sea, true = analysis.states[..., INSIDE], truth[..., INSIDE]
    assert truth[..., ~INSIDE].isnan().all() and sea.isfinite().all()
    for name in ("rmse", "spread", "spread_skill", "crps", "coverage"):
        score = getattr(metrics, name)
        assert_close(score(analysis.states, truth), score(sea, true))
    assert_close(analysis.info["spread"][-1], metrics.spread(sea[:, -1:]))
    assert scores.distance(analysis, analysis) == 0.0


def test_a_window_continues_where_another_one_ended():
    """NaN on land is as good as 0, also in what the model returns; at sea it is an error."""
    _, problem = twin()
    first = sc.ETKF().assimilate(problem, 20, rng.seeded(2)).states[:, -1]
    problem = sc.Problem(problem.system, problem.observations, 4, first)
    assert (problem.initial[..., ~INSIDE] == 0).all()
    gone = FunctionSystem(
        lambda x: x.masked_fill(~INSIDE, np.nan), first, space(), library="torch"
    )
    assert gone.step(gone.prior(3))[..., INSIDE].isfinite().all()
    with pytest.raises(ValueError, match="14 values of the initial ensemble"):
        first[:14, 0, 0] = np.nan
        sc.Problem(problem.system, problem.observations, 4, first)


@pytest.mark.parametrize(
    ("operator", "count"),
    [
        (sc.Select([0, 13, 14]), 2),
        (Stride(2), 1),
        (sc.observations.Pointwise(torch.exp), 4),
    ],
)
def test_an_observation_of_land_is_refused(operator, count):
    _, problem = twin()
    shape = operator(torch.zeros(1, 4, 5)).shape[1:]
    data = sc.Observations(sc.ObservationModel(operator, std=1.0), [0], torch.zeros(1, *shape))
    with pytest.raises(ValueError, match=f"{count} observed values of points that are no part"):
        sc.Problem(problem.system, data, 4)
    # One that is absent at all steps is none.
    values = torch.zeros(1, 20).masked_fill(~INSIDE.flatten(), np.nan)
    data = sc.Observations(sc.ObservationModel(sc.Select(range(20)), std=1.0), [0], values)
    assert sc.Problem(problem.system, data, 4).observed()[0][0].shape == (16,)


def test_masks_of_a_space_leave_land_out():
    for mask in (Mask.grid(space(), 2), Mask.centre(space(), 0.5), Mask.ring(space(), -1, 2)):
        assert not (mask.mask & ~INSIDE).any() and mask.mask.any()


def test_interpolation_next_to_land_is_refused_and_at_the_coast_is_exact():
    x = torch.arange(20.0).view(1, 4, 5).masked_fill(~INSIDE, np.nan)
    coast = Interpolate(torch.tensor([[2.0, 2.0], [1.0, 3.5], [2.5, 2.0]]), space())
    assert_close(coast(x), torch.tensor([[12.0, 8.5, 14.5]]))
    with pytest.raises(ValueError, match=r"\[2\.0, 2\.5\] of point 0 on land, or next to"):
        Interpolate(torch.tensor([[2.0, 2.5]]), space())


def test_rows_of_a_table_on_land_are_named():
    table = {
        "time": np.zeros(4),
        "lat": np.array([0.0, 3.0, 2.0, 1.9]),
        "lon": np.array([0.0, 4.0, 2.5, 2.0]),
        "value": np.ones(4),
    }
    data = sc.Observations.from_table(table, space(), std=1.0)
    assert [(row.row, row.reason) for row in data.unused] == [
        (2, "position on land"),
        (3, "position on land"),
    ]
    index = {"time": np.zeros(2), "point": np.array([13, 12]), "value": np.ones(2)}
    data = sc.Observations.from_table(index, space(), std=1.0)
    assert [row.row for row in data.unused] == [1] and data.values.shape == (1, 1)


def test_fields_of_observations_may_be_absent_on_land():
    values = np.where(SEA, 1.0, np.nan)[None]
    data = sc.Observations.from_array(values, space(), 0.5)
    assert data.unused == () and data.values.shape == (1, 16)
    data = sc.Observations.from_array(np.ones((1, 4, 5)), space(), 0.5)
    assert data.unused == ((1, "some values on land"),) and data.values.shape == (1, 16)


def test_a_store_has_nothing_on_land(tmp_path):
    """In blocks that continue from what is on disk, as in one; with the mask in the space."""
    truth, problem = twin(every=1)
    whole = sc.ETKF().assimilate(problem, 20, rng.seeded(3))
    held = sc.Observations(
        sc.ObservationModel(Interpolate(torch.tensor([[1.0, 3.0]]), space()), std=1.0),
        [3],
        torch.ones(1, 1),
    )
    kept = store.run(
        sc.ETKF(), problem, 20, tmp_path / "a.zarr", 3, truth=truth, withheld=(held,), block=2
    )
    assert kept.space == space() and kept.space.mask is not None
    torch.testing.assert_close(kept.analysis.states, whole.states, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(kept.truth, truth, rtol=0, atol=0, equal_nan=True)
    predicted = torch.from_numpy(kept.group("withheld")["predicted"].values)[:, 0]
    assert_close(predicted, whole.states[:, 3, 1, 3])
    assert np.isfinite(scores.scores(kept)["rmse"])
    kept.to_netcdf(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", mask_and_scale=False) as dataset:
        assert np.isnan(dataset["t"].attrs["_FillValue"])
        assert np.isnan(dataset["t"].values[..., ~SEA]).all()


def test_maps_draw_land_in_grey():
    truth, problem = twin()
    analysis = sc.ETKF().assimilate(problem, 20, rng.seeded(2))
    figure = fields(analysis, 2, truth, problem.instruments)
    for panel in (p for p in figure.axes if p.get_visible() and p.get_title()):
        drawn = [c for c in panel.collections if c.get_array() is not None]
        assert to_rgba(LAND) in [tuple(c.get_cmap()(0.0)) for c in drawn]
    bottom, top = figure.axes[0].collections[0].get_clim()
    assert np.isfinite([bottom, top]).all()
    assert trajectories(analysis, truth).axes
    line = StateSpace((4,), 1.0, ("t",), mask=np.array([True, False, True, True]))
    made = sc.Analysis(torch.randn(5, 3, 4), line)
    assert hovmoller(made, made.states[0]).axes
