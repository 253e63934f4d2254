"""Rows of a table that are means or sums over a period, from the file to the posterior."""

import numpy as np
import pytest
import torch

import scorda as sc
from scorda import store
from scorda.cli import main
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations import OverTime, newest, remembering
from scorda.observations.operators import Select
from scorda.store import open_posterior
from scorda.store.ending import Ending
from scorda.systems import LinearGaussian

SPACE = StateSpace((2,), 0.5, ("x", "z"), units={"time": "hours"})
TABLE = """time,since,variable,value,std,cell_methods
0.5,,x,0.4,0.3,
1.5,0,x,0.7,0.4,time: mean
2.5,1.0,x,-0.2,0.4,
2,0.5,z,1.5,0.5,time: sum
2.5,2.0,z,0.2,0.5,mean
3,2.0,z,0.1,0.5,time: point
3,3,x,1,1,mean
3,-4,x,1,1,mean
3,2,x,1,1,time: median
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "seen.csv").write_text(TABLE)
    return tmp_path / "seen.csv"


def system():
    A = torch.tensor([[0.9, 0.3], [-0.3, 0.8]])
    zero, one = torch.zeros(2), torch.eye(2)
    return LinearGaussian(A, 0.1 * one, zero, one, space=SPACE)


def by_hand():
    """What the table says, in Python."""
    mean = sc.ObservationModel(OverTime(Select([0])), std=[0.4])
    total = sc.ObservationModel(OverTime(Select([1]), (1.0, 1.0, 1.0)), std=[0.5])
    point = sc.ObservationModel(Select([0, 1]), std=[0.3, 0.5])
    nan = float("nan")
    return [
        sc.Observations(point, [1, 5, 6], torch.tensor([[0.4, nan], [nan, 0.2], [nan, 0.1]])),
        sc.Observations(mean, [(1, 2, 3), (3, 4, 5)], [[0.7], [-0.2]]),
        sc.Observations(total, [(2, 3, 4)], [[1.5]]),
    ]


def test_a_table_makes_an_instrument_of_each_kind_of_period(table):
    found = sc.Observations.by_period(table, SPACE)
    assert [one.steps for one in found] == [one.steps for one in by_hand()]
    for one, other in zip(found, by_hand(), strict=True):
        torch.testing.assert_close(one.values, other.values.to(one.values), equal_nan=True)
        x = rng.normal(3, (3, 2), rng.seeded(0))
        x = x if isinstance(one.steps[0], tuple) else x[:, 0]
        assert torch.allclose(one.model.operator(x), other.model.operator(x), rtol=1e-12)
    reasons = {row.row: row.reason for row in found[0].unused}
    assert reasons == {
        7: "period without a step",
        8: "since: time before step 0",
        9: "unknown cell method 'median'",
    }
    assert "over 3 steps" in found[1].summary()
    with pytest.raises(ValueError, match="by_period"):
        sc.Observations.from_table(table, SPACE)


def test_datetimes_bound_a_period(tmp_path):
    rows = ["time,since,variable,value,std", "2020-01-02T00,2020-01-01T21,x,3,1"]
    (tmp_path / "daily.csv").write_text("\n".join(rows) + "\n")
    found = sc.Observations.from_table(tmp_path / "daily.csv", SPACE, start="2020-01-01T20")
    assert found.steps == ((3, 4, 5, 6, 7, 8),)


@pytest.mark.parametrize("method", [sc.ETKF(), sc.EnKF(), sc.ParticleFilter(), sc.EnKFN()])
def test_a_filter_remembers_what_a_row_needs(table, method):
    """Bit for bit the newest of the states that remember, whose law is Kalman's (test above)."""
    problem = sc.Problem(system(), sc.Observations.by_period(table, SPACE), 7)
    found = method.assimilate(problem, 30, 1)
    expected = newest(method.assimilate(remembering(problem), 30, 1), problem)
    assert torch.equal(found.states, expected.states)
    assert found.space == SPACE
    spread = sc.metrics.spread(found.states[:, 3], weights=None)
    if found.weights is None:
        assert float(found.info["spread"][1]) == pytest.approx(float(spread), rel=1e-12)


def test_the_posterior_is_that_of_the_kalman_filter_of_the_augmented_state(table):
    """4000 members of the EnKF against plain matrices of all history; five standard errors."""
    problem = sc.Problem(system(), by_hand(), 6)
    states = sc.EnKF().assimilate(problem, 4000, 0).states[:, -1].numpy()
    F, Q = problem.system.transition.numpy(), 0.1 * np.eye(2)
    mean, cov = np.zeros(2), np.eye(2)
    for k in range(7):
        if k:
            G = np.zeros((2 * k + 2, 2 * k))
            G[:2, :2], G[2:] = F, np.eye(2 * k)
            mean, cov = G @ mean, G @ cov @ G.T
            cov[:2, :2] += Q
        for one in problem.instruments:
            for row, step in enumerate(one.steps):
                steps = step if isinstance(step, tuple) else (step,)
                for column in range(one.values.shape[1]):
                    y = float(one.values[row, column])
                    if steps[-1] != k or np.isnan(y):
                        continue
                    unit = torch.zeros(k + 1, 2, 2 * k + 2)
                    for s in range(k + 1):
                        unit[s, :, 2 * (k - s) : 2 * (k - s) + 2] = torch.eye(2)
                    seen = unit[list(steps)].movedim(-1, 0)
                    seen = seen if isinstance(step, tuple) else seen[:, 0]
                    h = one.model.operator(seen)[:, column].numpy()
                    gain = cov @ h / (h @ cov @ h + float(one.model.std[column]) ** 2)
                    mean, cov = mean + gain * (y - h @ mean), cov - np.outer(gain, h @ cov)
    error = 5 * np.sqrt(np.diag(cov)[:2] / 4000)
    assert (np.abs(states.mean(0) - mean[:2]) < error).all()
    np.testing.assert_allclose(np.cov(states.T), cov[:2, :2], atol=5 * 1.5 * cov[0, 0] / 4000**0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [sc.ETKF(inflation=sc.Adaptive()), sc.EnFF(), sc.EnFF(inflation=sc.Adaptive())]
)
@pytest.mark.parametrize("lengths", [(3, 3), (3, 2), (2, 3), (3, 1), (1, 3)])
def test_a_run_goes_on_from_one_with_periods_of_another_length(tmp_path, method, lengths):
    """The ETKF has the numbers of one run over both, up to rounding; EnFF, whose kernels depend on
    all that is remembered, has them where the lengths are the same."""

    def rows(length, ends):
        operator = Select([0]) if length == 1 else OverTime(Select([0]))
        steps = ends if length == 1 else [tuple(range(e - length + 1, e + 1)) for e in ends]
        model = sc.ObservationModel(operator, std=0.4)
        return sc.Observations(model, steps, [[0.7] for _ in ends])

    first, last = lengths
    one = sc.Problem(system(), rows(first, [2, 3]), 4)
    two = sc.Problem(system(), rows(last, [3, 4]), 4)
    both = sc.Problem(system(), [rows(first, [2, 3]), rows(last, [7, 8])], 8)
    start = store.run(method, one, 12, tmp_path / "one.zarr", 3)
    on = store.run(method, two, 12, tmp_path / "two.zarr", 3, after=Ending.of(start))
    states = on.analysis.states[:, 1:]
    assert states.isfinite().all()
    if isinstance(method, sc.ETKF) or first == last:
        whole = method.assimilate(both, 12, 3).states[:, 5:]
        torch.testing.assert_close(states, whole, atol=1e-10, rtol=0)


@pytest.mark.slow
def test_a_stored_run_is_cut_into_units_anywhere(table, tmp_path):
    problem = sc.Problem(system(), sc.Observations.by_period(table, SPACE), 7)
    method = sc.ETKF(inflation=1.05)
    whole = store.run(method, problem, 12, tmp_path / "whole.zarr", 3)
    parts = store.run(method, problem, 12, tmp_path / "parts.zarr", 3, block=2)
    assert torch.equal(whole.analysis.states, parts.analysis.states)
    assert torch.equal(whole.analysis.states, method.assimilate(problem, 12, 3).states)


@pytest.mark.slow
def test_the_shell_takes_means_over_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ["time,since,variable,site,value,std"]
    rows += [f"{0.05 * (k + 3)},{0.05 * k},x,{s},{2 + s},1" for k in (0, 2, 4) for s in (1, 3)]
    rows += [f"0.2,,x,{s},{1 + s},1" for s in (0, 2)]
    (tmp_path / "seen.csv").write_text("\n".join(rows) + "\n")
    run = "assimilate --system lorenz96 --system.dim 8 --observations seen.csv --members 16"
    run += " --method etkf --dtype float64"
    assert main(run.split()) == 0
    assert "over 3 steps" in capsys.readouterr().out
    posterior = open_posterior("run.zarr")
    torch.set_default_dtype(torch.float64)
    lorenz = sc.systems.Lorenz96(dim=8)
    problem = sc.Problem(lorenz, sc.Observations.by_period("seen.csv", lorenz.space), 7)
    states = sc.ETKF().assimilate(problem, 16, 0).states
    assert torch.equal(posterior.analysis.states, states)
    assert main(f"{run} --resume".split()) == 0
    assert main(f"{run.replace('etkf', 'enks')} --out enks.zarr".split()) == 0
    assert main(f"{run} --withhold 0.3 --out held.zarr".split()) == 0
    assert main("report run.zarr".split()) == 0
    later = ["time,since,variable,site,value,std", "0.5,0.4,x,1,2,1", "0.45,,x,2,2,1"]
    (tmp_path / "later.csv").write_text("\n".join(later) + "\n")
    goes_on = "assimilate --continue run.zarr --observations later.csv --out more.zarr"
    assert main(goes_on.split()) == 0
    tuned = run.replace("assimilate", "tune")
    assert main(f"{tuned} --grid inflation=1,1.1 --out best.toml".split()) == 0
