"""EnSF: the exact recursion of its Euler steps, which is affine for Gaussian problems."""

import re

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble
from scorda.methods.ensf import EnSF, LinearProcess
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Function, Pointwise, Select
from scorda.testing.diffusion import check_process

FLAT_ATAN = Function(lambda x: x.flatten(1).atan())
ENDS = [(0.05, 0.0), (0.5, 0.025), (0.3, 0.2)]
MEAN, Y = 0.3, 1.7


def coefficients(t, eps_alpha, eps_beta):
    """alpha, beta^2, b and g^2, written out."""
    alpha, square = 1 - (1 - eps_alpha) * t, eps_beta + (1 - eps_beta) * t
    b = -(1 - eps_alpha) / alpha
    return alpha, square, b, (1 - eps_beta) - 2 * b * square


def paired(eps_alpha, eps_beta, R, steps, damping=1.0):
    r"""z_end = A z_0 + C x_i + D y + N(0, V), step by step:

    a_k = 1 - (b + g^2 / beta^2 + g^2 h / R) / K
    A <- a A,  C <- a C + g^2 alpha / (beta^2 K),  D <- a D + g^2 h / (R K),  V <- a^2 V + g^2 / K
    """
    A, C, D, V = 1.0, 0.0, 0.0, 0.0
    for k in range(steps):
        t = 1 - k / steps
        alpha, square, b, g2 = coefficients(t, eps_alpha, eps_beta)
        h = (1 - t) ** damping
        a = 1 - (b + g2 / square + g2 * h / R) / steps
        A, C, D = a * A, a * C + g2 * alpha / square / steps, a * D + g2 * h / R / steps
        V = a**2 * V + g2 / steps
    return A, C, D, V


def mixture(eps_alpha, eps_beta, R, steps):
    """Mean and variance for infinitely many members of N(0.3, 1), whose score is affine."""
    m, v = 0.0, 1.0
    for k in range(steps):
        t = 1 - k / steps
        alpha, square, b, g2 = coefficients(t, eps_alpha, eps_beta)
        total, h = alpha**2 + square, 1 - t
        a = 1 - (b + g2 / total + g2 * h / R) / steps
        m = a * m + g2 * (alpha * MEAN / total + h * Y / R) / steps
        v = a**2 * v + g2 / steps
    return m, v


def analysis(method, x, y=Y, R=0.25, seed=0):
    model = ObservationModel(Select([0]), std=R**0.5)
    return method.update(x, torch.tensor([y]), model, rng.seeded(seed))


@pytest.mark.parametrize("damping", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_paired_form_is_affine_with_the_coefficients_of_its_recursion(ends, damping):
    """To rounding: with equal noise, shifts of x and y come out times C and D."""
    x = MEAN + rng.normal(30, (1,), rng.seeded(1))
    method = EnSF("paired", *ends, euler_steps=60, damping=damping, scale="none")
    _, C, D, _ = paired(*ends, 0.25, 60, damping)
    base = analysis(method, x)
    shift = rng.normal(30, (1,), rng.seeded(2))
    assert_close(analysis(method, x + shift) - base, C * shift, rtol=1e-9, atol=1e-11)
    assert_close(
        analysis(method, x, Y + 2) - base, torch.full_like(x, 2 * D), rtol=1e-9, atol=1e-11
    )


@pytest.mark.slow
@pytest.mark.parametrize("R", [0.25, 0.01])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_paired_form_has_the_moments_of_its_recursion(ends, R):
    """The rest, A z_0 + noise, is independent of x: variance A^2 + V."""
    members, steps = 20_000, 60 if R > 0.1 else 150  # Fewer would be unstable.
    x = MEAN + rng.normal(members, (1,), rng.seeded(1))
    A, C, D, V = paired(*ends, R, steps)
    rest = analysis(EnSF("paired", *ends, steps, scale="none"), x, R=R) - C * x - D * Y
    var = A**2 + V
    assert abs(float(rest.mean())) < 4 * (var / members) ** 0.5
    assert abs(float(rest.var()) / var - 1) < 4 * (2 / members) ** 0.5
    assert abs(float((rest * (x - x.mean())).mean())) < 4 * (var / members) ** 0.5


def test_distances_from_the_kalman_update_are_those_of_the_docstring():
    """To the digits that it gives."""
    number = r"([.\d]+)"
    row = rf"(paired|mixture), ends \({number}, {number}\) +" + " +".join(
        [f"{number} / {number}"] * 2
    )
    rows = re.findall(row, EnSF.__doc__)
    assert len(rows) == 4
    for form, *numbers in rows:
        ends, *said = (float(n) for n in numbers[:2]), *numbers[2:]
        ends, found = tuple(ends), []
        for R in (0.25, 0.01):
            if form == "mixture":
                found += mixture(*ends, R, 500)
            else:
                A, C, D, V = paired(*ends, R, 500)
                found += [C * MEAN + D * Y, A**2 + C**2 + V]
        for value, text in zip(found, said, strict=True):
            assert value == pytest.approx(float(text), abs=0.51 * 10.0 ** -len(text.split(".")[1]))


@pytest.mark.parametrize("ends", ENDS[1:], ids=str)
def test_mixture_form_of_many_members_has_the_moments_of_its_recursion(ends):
    members, steps = 1500, 50
    x = MEAN + rng.normal(members, (1,), rng.seeded(1))
    mean, var = mixture(*ends, 0.25, steps)
    found = analysis(EnSF("mixture", *ends, steps, scale="none"), x)
    # Errors of the forecast's own moments and of the members' noise.
    assert abs(float(found.mean()) - mean) < 4 * ((1 + var) / members) ** 0.5
    assert abs(float(found.var()) / var - 1) < 4 * (4 / members) ** 0.5


def test_mixture_form_takes_euler_steps_with_the_gradient_of_the_log_density():
    """One member at a time, the score by differentiation of the log of the mixture."""
    steps, std, x = 7, 0.4, rng.normal(5, (2, 3), rng.seeded(1))
    model, y = ObservationModel(FLAT_ATAN, std=std), torch.linspace(-1, 1, 6)
    method = EnSF("mixture", 0.5, 0.1, steps, scale="none")
    noise = rng.Stream(rng.key(rng.seeded(3)), 0, 5, (2, 3), x)
    z = noise()
    z = (z - z.mean(0)) / z.std(0)
    for k in range(steps):
        t, eps, moved = 1 - k / steps, noise(), []
        alpha, square, b, g2 = coefficients(t, 0.5, 0.1)

        def log_density(z, alpha=alpha, square=square, h=1 - t):
            prior = (-(z - alpha * x).square().flatten(1).sum(1) / (2 * square)).logsumexp(0)
            return prior - h * (y - torch.atan(z).flatten()).square().sum() / (2 * std**2)

        for z_i, eps_i in zip(z, eps, strict=True):
            score = torch.func.grad(log_density)(z_i)
            moved.append(z_i - (b * z_i - g2 * score) / steps + (g2 / steps) ** 0.5 * eps_i)
        z = torch.stack(moved)
    assert_close(method.update(x, y, model, rng.seeded(3)), z, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_without_information_paired_members_return_and_mixtures_resample():
    """With eps_beta = 0 the last step lands on a member, up to noise of variance 1 / K."""
    x = 10 * rng.normal(8, (3,), rng.seeded(0))
    for form in ("paired", "mixture"):
        found = analysis(EnSF(form, 0.05, 0.0, 400, scale="none"), x, R=1e12)
        distance, index = torch.cdist(found, x).min(1)
        assert distance.max() < 5 * (3 / 400) ** 0.5
        assert (index == torch.arange(8)).all() or form == "mixture"


def test_what_is_not_observed_learns_nothing_in_the_paired_form():
    """Recorded, as the docstring says: correlated components, only the first of them observed."""
    x = rng.normal(50, (1,), rng.seeded(0)) + 0.1 * rng.normal(50, (2,), rng.seeded(1))
    method = EnSF(euler_steps=40, scale="none")
    a, b = analysis(method, x, y=1.0), analysis(method, x, y=5.0)
    assert (a[:, 0] != b[:, 0]).all() and torch.equal(a[:, 1], b[:, 1])


def test_scaled_analysis_does_not_know_the_units():
    """x, h and R in other units: the same analysis in those units."""
    x = rng.normal(20, (2,), rng.seeded(0))
    units, origin = torch.tensor([100.0, 0.01]), torch.tensor([5.0, -1.0])
    method = EnSF(euler_steps=30)
    plain = analysis(method, x, 1.0, 0.25)
    other = analysis(method, origin + units * x, 5 + 100.0, 0.25 * 100**2)
    assert_close(other, origin + units * plain)
    assert not torch.allclose(plain, analysis(EnSF(scale="none", euler_steps=30), x, 1.0, 0.25))


@pytest.mark.slow
def test_noise_of_unit_variance_is_refused_where_the_spread_is_a_millionth():
    small = 1e-6 * torch.tensor([[1.0, 2.0], [2.0, 2.0]])
    with pytest.raises(DegenerateEnsemble, match=r"7e-07 at most.*scale='spread'"):
        analysis(EnSF(scale="none"), small)
    analysis(EnSF(), small)


def test_clip_bounds_the_score_of_the_likelihood():
    """An observation 1000 standard deviations off moves a member no further than the bound."""
    x, steps = rng.normal(20, (1,), rng.seeded(0)), 30
    near = analysis(EnSF(euler_steps=steps, clip=1.0, scale="none"), x, y=0.0, R=1e12)
    far = analysis(EnSF(euler_steps=steps, clip=1.0, scale="none"), x, y=1e6, R=1.0)
    # g^2 h is below 1.7, and earlier shifts are contracted.
    assert ((far - near) > 0).all() and ((far - near) < 1.7).all()


def test_process_keeps_its_contract():
    for ends in ((0.5, 0.025), (0.05, 0.1), (1.0, 0.3)):
        process = LinearProcess(*ends)
        check_process(process)
        t = torch.linspace(0.05, 0.95, 7)
        assert_close(process.time(process.noise_level(t)), t)
        # b and g^2 by differences of alpha and beta^2.
        up, down = t + 1e-5, t - 1e-5
        b = (process.alpha(up).log() - process.alpha(down).log()) / 2e-5
        assert_close(process.drift(t), b, rtol=1e-7, atol=1e-9)
        slope = (process.var(up) - process.var(down)) / 2e-5
        assert_close(process.diffusion(t), slope - 2 * b * process.var(t), rtol=1e-7, atol=1e-9)


def test_memory_is_a_few_copies_of_the_ensemble():
    """No array larger than the ensemble in the paired form."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    x = rng.normal(5, (200,), rng.seeded(0))
    model = ObservationModel(Pointwise(torch.atan), std=0.5)
    with Watch():
        EnSF(euler_steps=3).update(x, torch.zeros(200), model, rng.seeded(0))
    assert max(sizes) == 5 * 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "pair"}, "form = 'pair'"),
        ({"eps_alpha": 0.0}, "eps_alpha = 0.0"),
        ({"eps_beta": 1.0}, "eps_beta = 1.0"),
        ({"euler_steps": 0}, "euler_steps = 0"),
        ({"damping": -1.0}, "damping = -1.0"),
        ({"scale": "std"}, "scale = 'std'"),
        ({"clip": 0.0}, "clip = 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(unchecked, options, words):
    with pytest.raises(ValueError, match=words):
        EnSF(**options)


@pytest.mark.parametrize("form", ["paired", "mixture"])
def test_members_in_batches_have_the_bits_of_all_at_once(form, monkeypatch):
    """Batches of two and of one member; the mixture's products round by their rows, to 1e-12."""
    x = rng.normal(5, (6,), rng.seeded(0))
    model, y = ObservationModel(Select([0, 3]), std=0.5), torch.tensor([0.4, -1.0])
    method = EnSF(form, euler_steps=7)
    whole, _ = method.analyse(x, y, model, rng.seeded(1))
    for numbers in (12, 1):
        monkeypatch.setattr("scorda.methods.ensf.BATCH", numbers)
        found, _ = method.analyse(x, y, model, rng.seeded(1))
        assert_close(found, whole, rtol=0, atol=0 if form == "paired" else 1e-12)
