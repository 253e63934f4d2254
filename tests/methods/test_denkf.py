"""The deterministic ensemble Kalman filter against its own covariance and the Kalman update."""

import pytest
import torch

from scorda.core import rng
from scorda.core.gaussian import gaussian_condition
from scorda.methods.denkf import DEnKF
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear


def case(obs, std):
    """Twelve members of five variables, of which `obs` mixtures are observed."""
    noise = iter(rng.spawn(rng.seeded(0), 4))
    forecast = rng.normal(12, (5,), next(noise)) @ rng.normal(5, (5,), next(noise))
    matrix, y = rng.normal(obs, (5,), next(noise)), rng.normal(1, (obs,), next(noise))[0]
    return forecast, y, matrix, ObservationModel(Linear(matrix), std=std)


@pytest.mark.parametrize("obs", [3, 30])
def test_mean_is_that_of_the_kalman_update_and_anomalies_take_half_the_gain(obs):
    """Fewer observations than members and more: both systems that the gain is solved in."""
    forecast, y, matrix, model = case(obs, 0.7)
    P, R = forecast.T.cov(), 0.49 * torch.eye(obs)
    mean, _, _ = gaussian_condition(forecast.mean(0), P, matrix, y, R)
    K = P @ matrix.T @ torch.linalg.inv(matrix @ P @ matrix.T + R)
    half = torch.eye(5) - K @ matrix / 2
    analysis = DEnKF().update(forecast, y, model)
    torch.testing.assert_close(analysis.mean(0), mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(analysis.T.cov(), half @ P @ half.T, atol=1e-10, rtol=0)
    inflated = DEnKF(1.3).update(forecast, y, model)
    torch.testing.assert_close(inflated.T.cov(), 1.69 * half @ P @ half.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(inflated.mean(0), mean, atol=1e-10, rtol=0)


def test_covariance_is_that_of_kalman_to_second_order_in_the_gain():
    """The excess K H P H' K' / 4 falls by 100² where K falls by 100."""
    excess = []
    for std in (100.0, 1000.0):
        forecast, y, matrix, model = case(3, std)
        P = forecast.T.cov()
        _, cov, _ = gaussian_condition(forecast.mean(0), P, matrix, y, std**2 * torch.eye(3))
        difference = DEnKF().update(forecast, y, model).T.cov() - cov
        assert torch.linalg.eigvalsh(difference).min() > -1e-12
        excess.append(float(difference.norm()))
    # K is proportional to 1 / std^2 up to terms of its own size, about 1e-2 here.
    assert excess[1] / excess[0] == pytest.approx(1e-4, rel=0.05)
