"""One analysis with predictions from elsewhere is that of a run whose operator makes them."""

import numpy as np
import pytest
import torch

import scorda as sc
from scorda.observations import Linear

SPACE = sc.StateSpace(
    (12,), variables=("x",), coordinates={"site": np.arange(12.0)}, period={"site": 12.0}
)
FILTERS = [
    sc.EnKF(),
    sc.EnKF(localization=sc.GaspariCohn(2.0)),
    sc.ETKF(inflation=1.1, rotation=True),
    sc.LETKF(localization=sc.GaspariCohn(2.0)),
    sc.DEnKF(),
    sc.EnKFN(rotation=True),
    sc.RankHistogramFilter(),
    sc.NormalScoreEnKF(),
    sc.EnSRF(localization=sc.GaspariCohn(2.0)),
    sc.GaussianMixtureFilter(),
    sc.ParticleFilter(),
    sc.ETKF(gross_error_check=3.0),
]


def drawn(missing: bool = False):
    generator = torch.Generator().manual_seed(3)
    members = torch.randn(20, 12, generator=generator, dtype=torch.float64).cumsum(1)
    H = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    y = torch.randn(5, generator=generator, dtype=torch.float64)
    if missing:
        y[2] = torch.nan
    positions = torch.arange(5.0, dtype=torch.float64)[:, None] * 2.3
    return members, H, y, positions


class Still:
    space = SPACE

    def step(self, x, generator=None):
        raise AssertionError


@pytest.mark.parametrize("method", FILTERS, ids=repr)
@pytest.mark.parametrize("missing", [False, True])
def test_it_is_the_analysis_of_a_run_whose_operator_predicts_the_same(method, missing):
    members, H, y, positions = drawn(missing)
    model = sc.ObservationModel(Linear(H, positions=positions), std=0.5)
    problem = sc.Problem(Still(), sc.Observations(model, [0], y[None]), 0, members)
    own = method.assimilate(problem, 20, 7)
    kwargs = {"space": SPACE, "positions": positions, "generator": 7}
    found = sc.analyse(method, members, members @ H.T, y, 0.5, **kwargs)
    assert torch.equal(found.states, own.states)
    assert not torch.equal(found.states[:, 0], members) or found.weights is not None


def test_the_mean_is_that_of_the_kalman_filter_for_correlated_errors():
    members, H, y, _ = drawn()
    L = np.tril(np.full((5, 5), 0.3)) + np.eye(5)
    R = L @ L.T
    found = sc.analyse(sc.ETKF(), members.numpy(), (members @ H.T).numpy(), y.numpy(), cov=R)
    P = np.cov(members.numpy().T)
    K = P @ H.numpy().T @ np.linalg.inv(H.numpy() @ P @ H.numpy().T + R)
    mean = members.mean(0).numpy()
    mean = mean + K @ (y.numpy() - H.numpy() @ mean)
    np.testing.assert_allclose(found.mean[0].numpy(), mean, rtol=1e-9)
    np.testing.assert_allclose(
        np.cov(found.states[:, 0].numpy().T), P - K @ H.numpy() @ P, atol=1e-9
    )


def test_predictions_of_what_is_missing_do_not_matter():
    members, H, y, _ = drawn(missing=True)
    predicted = members @ H.T
    whole = sc.analyse(sc.ETKF(), members, predicted, y, 0.5)
    predicted[4, 2] = torch.nan
    assert torch.equal(sc.analyse(sc.ETKF(), members, predicted, y, 0.5).states, whole.states)


def test_what_does_not_fit_is_refused_in_a_sentence():
    members, H, y, _ = drawn()
    predicted = members @ H.T
    with pytest.raises(ValueError, match=r"shape \(5, 20\) for 20 members: give \(members"):
        sc.analyse(sc.ETKF(), members, predicted.T, y, 0.5)
    with pytest.raises(ValueError, match="give one value each"):
        sc.analyse(sc.ETKF(), members, predicted, y[:4], 0.5)
    with pytest.raises(ValueError, match="exactly one of `std` and `cov`"):
        sc.analyse(sc.ETKF(), members, predicted, y)
    with pytest.raises(ValueError, match="give a filter"):
        sc.analyse(sc.EnKS(lag=2), members, predicted, y, 0.5)
    with pytest.raises(ValueError, match="localization"):
        sc.analyse(sc.LETKF(localization=sc.GaspariCohn(2.0)), members, predicted, y, 0.5)
    with pytest.raises(ValueError, match="one row per observation"):
        sc.analyse(sc.ETKF(), members, predicted, y, 0.5, positions=np.zeros((4, 1)))
    with pytest.raises(ValueError, match="needs an observation operator with a gradient"):
        sc.analyse(sc.EnSF(), members, predicted, y, 0.5)
    predicted[3, 1] = torch.inf
    with pytest.raises(ValueError, match="not finite of observation 1"):
        sc.analyse(sc.ETKF(), members, predicted, y, 0.5)


class _AtTheMean(sc.Filter):
    def analyse(self, forecast, y, model, generator=None):
        return forecast + model.operator(forecast.mean(0, keepdim=True)).mean(), {}


def test_a_method_that_observes_other_states_is_stopped():
    members, H, y, _ = drawn()
    with pytest.raises(ValueError, match="observes states beside the members"):
        sc.analyse(_AtTheMean(), members, members @ H.T, y, 0.5)
