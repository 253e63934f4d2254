"""EnKF-N: the minimum of its dual form against that of the primal one, and its limits."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scorda.assimilation.kalman_algebra import white_innovation
from scorda.core import rng
from scorda.methods.enkf import ETKF
from scorda.methods.enkf_n import EnKFN
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear


def case(obs, members=6, std=1.0, off=0.0):
    """Members of five variables, of which `obs` mixtures are observed, `off` too high."""
    noise = iter(rng.spawn(rng.seeded(0), 4))
    forecast = rng.normal(members, (5,), next(noise)) @ rng.normal(5, (5,), next(noise)) / 2
    matrix, y = rng.normal(obs, (5,), next(noise)), rng.normal(1, (obs,), next(noise))[0]
    return forecast, off + y, ObservationModel(Linear(matrix), std=std)


@pytest.mark.parametrize("gauge", [0, 1])
@pytest.mark.parametrize(("obs", "off"), [(4, 0.0), (4, 3.0), (9, 2.0)])
def test_primal_and_dual_have_the_same_minimum_weights_and_inflation(obs, off, gauge):
    """Fewer observations than members and more; J is minimised over the weights by BFGS.

    Its gradient is the test of the weights: 1e-6 is what BFGS leaves.
    """
    forecast, y, model = case(obs, off=off)
    Y, d = (part.numpy() for part in white_innovation(forecast, y, model))
    members = len(Y)
    method = EnKFN(certainty=1.3, gauge=gauge)
    # The prior with its correction, spelled out over all N singular values.
    values = np.zeros(members)
    values[: min(Y.shape)] = np.linalg.svd(Y)[1]
    epsilon, c = 1 + 1 / members, members + gauge
    mode = epsilon * (members - 1) / c
    correction = mode ** (np.mean((members - 1) / (members - 1 + values**2)) / 2)
    epsilon, c = 1.3 * epsilon / correction, 1.3 * c * correction

    def J(w):
        return 0.5 * ((d - w @ Y) ** 2).sum() + c / 2 * np.log(epsilon + w @ w)

    def slope(w):
        return Y @ (w @ Y - d) + c * w / (epsilon + w @ w)

    def D(zeta):
        fit = d @ np.linalg.solve(np.eye(obs) + Y.T @ Y / zeta, d)
        return fit / 2 + epsilon * zeta / 2 + c / 2 * np.log(c / zeta) - c / 2

    found = minimize(J, np.zeros(members), jac=slope, method="BFGS", options={"gtol": 1e-10})
    factor = method.factor(torch.from_numpy(Y), torch.from_numpy(d))
    zeta = (members - 1) / factor**2
    assert zeta == pytest.approx(c / (epsilon + found.x @ found.x), abs=1e-6)
    assert D(zeta) == pytest.approx(found.fun, abs=1e-10)
    w = np.linalg.solve(Y @ Y.T + zeta * np.eye(members), Y @ d)
    np.testing.assert_allclose(w, found.x, atol=1e-6)
    mean = forecast.mean(0) + torch.from_numpy(w) @ (forecast - forecast.mean(0))
    analysis = method.update(forecast, y, model)
    torch.testing.assert_close(analysis.mean(0), mean, atol=1e-10, rtol=0)
    # The members are those of the ETKF, after the inflation of the forecast.
    wide = forecast.mean(0) + factor * (forecast - forecast.mean(0))
    torch.testing.assert_close(analysis, ETKF().update(wide, y, model), atol=1e-10, rtol=0)


def test_the_least_of_several_minima_is_found():
    """One direction is certain and far off, the other is neither: D has two minima."""
    Y = torch.zeros(40, 2)
    Y[0, 0], Y[1, 0] = 0.15, -0.15
    Y[2, 1], Y[3, 1] = 3.0, -3.0
    d = torch.tensor([30.0, 0.5])
    method = EnKFN()
    squares = np.linalg.svd(Y.numpy())[1] ** 2
    epsilon, c = method._prior(40, squares)
    logs = np.linspace(-2, 18, 200_001)
    along = np.array([0.25, 900.0])
    D = (along / (39 + np.exp(logs)[:, None] * squares)).sum(1)
    D = D + epsilon * np.exp(-logs) + c / 39 * logs
    minima = np.flatnonzero((D[1:-1] < D[:-2]) & (D[1:-1] < D[2:]))
    assert len(minima) > 1
    # The step of the logarithms, halved.
    assert 2 * np.log(method.factor(Y, d)) == pytest.approx(logs[D.argmin()], abs=5e-5)


def test_weak_observations_do_not_inflate():
    """The correction is exact where R grows; without it the factor would be 0.986, and is 0.94
    with the gauge."""
    for gauge in (0, 1):
        forecast, y, model = case(4, std=1e5)
        analysis, info = EnKFN(gauge=gauge).analyse(forecast, y, model)
        assert info["inflation"] == pytest.approx(1, abs=1e-8)
        torch.testing.assert_close(analysis, forecast, atol=1e-4, rtol=0)


def test_surprise_inflates_and_certainty_holds_back():
    factors = [
        EnKFN(certainty).analyse(*case(4, off=off))[1]["inflation"]
        for off, certainty in ((0.0, 1.0), (5.0, 1.0), (5.0, 2.0), (5.0, 1e6))
    ]
    assert factors[1] > 2 * factors[0]
    assert factors[1] > factors[2] > 1.05
    # The mode of the prior, (1 - 1 / N^2) to a power in (0, 1).
    assert 1 - 1 / 36 < factors[3] < 1


def test_rotation_keeps_moments():
    forecast, y, model = case(4, members=9, off=2.0)
    plain = EnKFN().update(forecast, y, model)
    turned = EnKFN(rotation=True).update(forecast, y, model, rng.seeded(0))
    torch.testing.assert_close(turned.mean(0), plain.mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(turned.T.cov(), plain.T.cov(), atol=1e-12, rtol=0)
    assert (turned - plain).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{"certainty": 0.0}, {"gauge": 2}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"Got {next(iter(settings))} = "):
        EnKFN(**settings)
