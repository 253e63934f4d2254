"""The published nonlinear form: its heads are exact, and with h(x) = x it is the linear one."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.methods.masf.nonlinear import NonlinearMASF, ProjectionSDE
from scorda.methods.masf.published import PublishedMASF, PublishedSDE
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function, Pointwise, Select
from scorda.priors.gaussian import Gaussian
from scorda.priors.heads import _gaussian_heads, heads_of
from scorda.priors.kernel import Kernel

A, V = torch.tensor(0.6, dtype=torch.float64), torch.tensor([0.2, 0.2], dtype=torch.float64)


def pairs(members=40):
    x = rng.normal(members, (2,), rng.seeded(0), like=V)
    return x, torch.stack((x[:, 0].square(), x[:, 1].sin()), 1)


@pytest.mark.parametrize("varies", [True, False])
def test_gaussian_heads_are_a_regression(varies):
    """Also where an entry does not vary."""
    x, h = pairs()
    x[:, 0] = x[:, 0] if varies else 0.7
    c = rng.normal(5, (2,), rng.seeded(1), like=V)
    joint = torch.cat((x, h), 1)
    P, mean = joint.T.cov(), joint.mean(0)
    B = torch.cat((A * torch.eye(2), (1 - A) * torch.eye(2)), 1).double()
    gain = P @ B.T @ torch.linalg.inv(B @ P @ B.T + torch.diag(V))
    expected = mean + (c - B @ mean) @ gain.T
    assert_close(torch.cat(heads_of(Gaussian(), x, h)(c, A, V), 1), expected)


def test_kernel_heads_are_integrals():
    """One dimension, by quadrature over the pairs."""
    x, h = (part[:5, :1] for part in pairs())
    c, width = torch.tensor([[0.4], [-2.0]], dtype=torch.float64), 0.3
    grid = torch.linspace(-7, 9, 1601, dtype=torch.float64)
    X, H = grid[:, None], grid[None]
    density = sum(
        torch.exp(-((X - a) ** 2 + (H - b) ** 2) / (2 * width**2))
        for a, b in zip(x[:, 0], h[:, 0], strict=True)
    )
    m1, m2 = heads_of(Kernel(width), x, h)(c, A, V[:1])
    for i in range(2):
        w = density * torch.exp(-((c[i] - A * X - (1 - A) * H) ** 2) / (2 * V[0]))
        assert_close(m1[i, 0], (w * X).sum() / w.sum(), rtol=1e-6, atol=1e-6)
        assert_close(m2[i, 0], (w * H).sum() / w.sum(), rtol=1e-6, atol=1e-6)


def test_one_step_is_the_formula():
    """Heads that differ, are linear in x, and see one entry of two."""
    x, h = pairs(4)
    z, std = torch.tensor([0.8, -0.5]).double(), torch.tensor([0.5, 2.0]).double()
    noise, same = (rng.Stream(rng.key(rng.seeded(2)), 0, 4, (2,), V) for _ in range(2))
    seen, draws = torch.tensor([1.0, 0.0]).double(), (same(), same())
    sampler = ProjectionSDE(
        noise_levels=1, end=0.6, offset=0.0, prior_scale=(1, 1, 1), guidance_scale=(1, 1, 1)
    )

    def heads(x, a, v):
        return 0.7 + 0.5 * x, 0.1 - 0.2 * x

    found = sampler.sample(heads, z, std, (x, h), seen, noise)
    a, b = (math.cos(0.5 * math.pi * t) for t in (0.6, sampler.floor))
    start = a * x + (1 - a) * h + (1 - a**2) ** 0.5 * std * draws[0]
    m1, m2 = heads(start, a, None)
    score = (a * m1 + (1 - a) * m2 - start) / (std**2 * (1 - a**2))
    # The gradient of -(z - x + a (0.6 + 0.7 x))^2 / (2 s^2 a^2).
    misfit = z - start + a * (0.6 + 0.7 * start)
    score = score + seen * (1 - 0.7 * a) * misfit / (std**2 * a**2)
    delta = std**2 * (a**2 - b**2)
    step = (b - a) * (m1 - m2) - delta * score + delta.abs().sqrt() * draws[1]
    assert_close(found, start + step)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (0.9, 1.4, 2.0)])
def test_without_a_nonlinearity_it_is_the_published_linear_form(scales):
    x = rng.normal(50, (3,), rng.seeded(3), like=V)
    x = (x - x.mean(0)) / x.std(0)
    y = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    settings = {"noise_levels": 60, "end": 0.98, "prior_scale": scales, "guidance_scale": scales}
    linear = PublishedMASF(sampler=PublishedSDE(twice=False, **settings))
    projected = NonlinearMASF(sampler=ProjectionSDE(**settings))
    expected = linear.update(x, y, ObservationModel(Select(range(3)), std=0.5), rng.seeded(4))
    same = ObservationModel(Function(lambda v: 1.0 * v), std=0.5)
    assert_close(projected.update(x, y, same, rng.seeded(4)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("values", [1, 5])
@pytest.mark.parametrize("prior", [Gaussian(), Kernel(0.4)])
def test_any_number_of_values(values, prior):
    x = ensemble = rng.normal(200, (3,), rng.seeded(3), like=V)
    matrix = rng.normal(3, (values,), rng.seeded(5), like=V)
    model = ObservationModel(Function(lambda v: np.tanh(v @ matrix.numpy()), False), std=0.3)
    y = model.operator(torch.ones(1, 3).double())[0]
    method = NonlinearMASF(prior)
    analysis = method.update(x, y, model, rng.seeded(4))
    assert analysis.shape == ensemble.shape and analysis.isfinite().all()
    # It moves towards the observation.
    before, after = ((model.operator(e) - y).square().mean() for e in (x, analysis))
    assert after < 0.7 * before


def test_an_observation_that_tells_nothing_leaves_the_members():
    model = ObservationModel(Pointwise(lambda x: x.clamp(max=-1e3)), std=1.0)
    x = pairs()[0]
    assert torch.equal(NonlinearMASF().update(x, torch.zeros_like(x[0]), model), x)


def test_refusals(unchecked):
    x, y = pairs()[0], torch.zeros(2, dtype=torch.float64)
    correlated = ObservationModel(Function(torch.sin), cov=torch.eye(2).double())
    with pytest.raises(ValueError, match="independent errors"):
        NonlinearMASF().update(x, y, correlated)
    with pytest.raises(ValueError, match="give noise_levels >= 1"):
        ProjectionSDE(noise_levels=0)
    with pytest.raises(ValueError, match="samplers of NonlinearMASF are of ProjectionSDE"):
        NonlinearMASF(sampler=PublishedSDE())


@pytest.mark.parametrize("amplitudes", [[0.3], [0.3, 0.8]])
def test_heads_of_few_members_are_those_of_the_matrix_of_the_entries(amplitudes):
    """The same root with columns of zeros has the rank of the entries, and takes their matrix."""
    mean, root = rng.normal(12, (), 0), rng.normal(12, (3,), 1)
    full = torch.nn.functional.pad(root, (0, 5))
    a = torch.tensor(amplitudes).reshape(-1, 1)
    c, v = rng.normal(2, (6,), 2), rng.uniform(len(a), (6,), 3) + 0.1
    few, many = (_gaussian_heads(mean, part)(c, a, v) for part in (root, full))
    assert_close(few, many, atol=1e-12, rtol=0)
