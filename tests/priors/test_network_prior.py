"""The network prior: exact where the network is silent, and what the training may and must do."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from networks import changed, online
from scorda import store
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.bridge import EnsembleDenoiser
from scorda.methods.masf.bridge import MASF
from scorda.nn.residual import DenseCorrection, RingCorrection
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Linear, Pointwise, Select
from scorda.observations.problem import twin_experiment
from scorda.observations.spatial import Average
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.priors.local import LocalGaussian
from scorda.priors.network.dataset import bridge_levels
from scorda.priors.network.denoiser import laid_back, laid_out
from scorda.systems.lorenz import Lorenz63, Lorenz96

RING = StateSpace((12,), variables=("x",), period={"site": 12.0})
WIDE = GaspariCohn(1e3)
SMALL = online(
    training_steps=20, fine_tuning_steps=10, width=16, blocks=1, batch=16, validation_interval=5
)


def correlated(members, size=12, seed=0):
    """Draws of a stationary Gaussian on a ring with standard deviations of about 2."""
    noise = rng.normal(members, (size,), rng.seeded(seed))
    return 3 + noise + noise.roll(1, 1) + 0.7 * noise.roll(2, 1)


def bent(members, seed=0):
    """Two entries, the second the square of the first: far from Gaussian."""
    x = rng.normal(members, (2,), rng.seeded(seed))
    return torch.stack((x[:, 0], x[:, 0].square() + 0.1 * x[:, 1]), 1)


def silent(**options):
    """A prior whose network has not learned anything."""
    return changed(SMALL, training_steps=0, **options)


LEVELS = {
    "one": torch.tensor(0.7),
    "per entry": torch.logspace(-2, 1, 12)[None],
    "infinite": torch.where(torch.arange(12) % 2 == 0, 0.3, math.inf)[None],
    "per member": torch.logspace(-2, 1, 60).view(5, 12),
}


@pytest.mark.parametrize("noise", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("options", [{}, {"axis": "site"}, {"base": Gaussian(GaspariCohn(2.0))}])
def test_a_silent_network_is_the_exact_denoiser_of_the_gaussian(options, noise):
    """To rounding: the correction is zero, and the Gaussian's part is in double precision."""
    x = correlated(30)
    fitted = silent(**options).fit(x, None, RING)
    exact = options.get("base", Gaussian()).fit(x, None, RING)
    assert isinstance(fitted, EnsembleDenoiser)
    noise = noise.reshape(1, 1) if noise.ndim == 0 else noise
    u = x[:5] + noise.nan_to_num(posinf=0.0) * rng.normal(5, (12,), rng.seeded(1))
    assert_close(fitted.denoise(u, noise), exact.denoise(u, noise), rtol=1e-9, atol=1e-9)
    assert_close(fitted.var, exact.var)


def test_without_the_gaussian_variances_alone_are_known():
    x = correlated(40)
    fitted = silent(base=None).fit(x)
    mean, var, nu = x.mean(0), x.var(0), torch.full((1, 12), 0.8)
    expected = mean + var / (var + nu**2) * (x - mean)
    assert_close(fitted.denoise(x, nu), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(fitted.map_latents(x, var), x)


@pytest.mark.parametrize(
    ("network", "roll"), [(RingCorrection(2, 8, 2), True), (DenseCorrection(24, 8, 1), False)]
)
def test_the_ring_is_equivariant_and_the_dense_network_is_not(network, roll):
    network.double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng.seeded(0))
    x = rng.normal(3, (12, 2, 3), rng.seeded(0))
    with torch.no_grad():
        turned, out = network(x.roll(5, 1)), network(x).roll(5, 1)
    assert torch.allclose(turned, out, rtol=1e-9, atol=1e-9) == roll


def test_the_ring_lies_along_the_named_axis():
    """Turning the ensemble along the axis turns the denoiser; along another it would not."""
    space = StateSpace((2, 4, 5), variables=("u", "v"), period={"x": 5.0, "y": 4.0})
    x = rng.normal(30, (2, 4, 5), rng.seeded(0))
    noise = torch.rand(1, 2, 4, 5, generator=rng.seeded(2))
    prior = silent(axis="x", base=None)
    fitted, along, across = (
        prior.fit(part, None, space) for part in (x, x.roll(2, 3), x.roll(2, 2))
    )
    for network in (fitted.network, along.network, across.network):
        network.corrects = True
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=rng.seeded(0))
    out = fitted.denoise(x, noise)
    turned = along.denoise(x.roll(2, 3), noise.roll(2, 3))
    assert_close(turned, out.roll(2, 3), rtol=1e-4, atol=1e-4)  # The network: single precision.
    turned = across.denoise(x.roll(2, 2), noise.roll(2, 2))
    assert (turned - out.roll(2, 2)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("points", "block", "patch"), [((4, 6), None, 2), ((8, 8), 4, 4), ((8, 4), 3, 2)]
)
def test_a_network_along_two_axes_moves_with_the_field(points, block, patch):
    """By whole patches, the blocks of local Gaussians; by less it is another function."""
    period = dict(zip("yx", map(float, points), strict=True))
    space = StateSpace((2, *points), variables=("u", "v"), period=period)
    x = rng.normal(30, (2, *points), rng.seeded(0))
    noise = torch.rand(1, 2, *points, generator=rng.seeded(2))
    # So far that the blocks of the Gaussians do not show.
    prior = silent(axis=("y", "x"), base=block and LocalGaussian(WIDE, block))

    def out(dy: int, dx: int):
        fitted = prior.fit(x.roll((dy, dx), (2, 3)), None, space)
        fitted.network.corrects = True
        for p in fitted.network.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=rng.seeded(0))
        moved = fitted.denoise(x.roll((dy, dx), (2, 3)), noise.roll((dy, dx), (2, 3)))
        return moved.roll((-dy, -dx), (2, 3))

    assert_close(out(patch, 0), out(0, 0), rtol=1e-4, atol=1e-4)  # The network: single precision.
    assert_close(out(0, -patch), out(0, 0), rtol=1e-4, atol=1e-4)
    for less in range(1, patch):
        assert (out(less, 0) - out(0, 0)).abs().max() > 1e-2


def test_patches_fill_the_grid():
    odd, x = StateSpace((4, 5), period={"x": 5.0, "y": 4.0}), rng.normal(9, (4, 5), rng.seeded(0))
    with pytest.raises(ValueError, match=r"\(4, 5\) points.* multiples of 2"):
        silent(axis=("y", "x"), base=None).fit(x, None, odd)


@pytest.mark.parametrize("axes", [(), (1,), (2,), (1, 2), (2, 1), (0, 1, 2)])
def test_what_is_laid_out_is_laid_back(axes):
    x = rng.normal(5, (2, 3, 4), rng.seeded(0))
    out = laid_out(x, axes)
    assert torch.equal(laid_back(out, x.shape, axes), x)
    if axes == (2, 1):
        assert torch.equal(out, x.permute(0, 3, 2, 1).reshape(5, 12, 2))


@pytest.mark.slow
def test_training_approaches_the_exact_denoiser_of_a_large_gaussian_sample():
    """Without the Gaussian under it: root mean square error in units of the exact correction.

    The correction is what the correlations add to the variances alone. 600 steps bring the error
    to 0.2 and 0.4 of that at the two noise levels (measured for several learning rates); the
    bound leaves room for other threads.
    """
    x = correlated(4000, 4)
    prior = online(base=None, training_steps=600, blocks=1, rate=1e-2, patience=24)
    fitted, exact = prior.fit(x), Gaussian().fit(x)
    fresh = correlated(1000, 4, seed=5)
    for noise in (torch.full((1, 4), 1.0), torch.tensor([[0.2, 2.0, 2.0, 2.0]])):
        u = fresh + noise * rng.normal(1000, (4,), rng.seeded(6))
        best = exact.denoise(u, noise)
        alone = x.mean(0) + fitted.var / (fitted.var + noise**2) * (u - x.mean(0))
        error = (fitted.denoise(u, noise) - best).square().mean().sqrt()
        assert error < 0.5 * (alone - best).square().mean().sqrt()


@pytest.mark.slow
def test_the_network_learns_what_is_not_gaussian():
    """On fresh states: two thirds of what the exact denoiser gains on the Gaussian's (0.8 found).

    The exact one is that of a narrow kernel density on 20 000 members.
    """
    fitted = online(training_steps=400, width=32, blocks=1, rate=1e-2).fit(bent(1000))
    exact = Kernel(0.03).fit(bent(20_000, 2))
    gaussian = Gaussian().fit(bent(1000))
    x, noise = bent(500, 3), torch.full((1, 2), 0.3)
    u = x + noise * rng.normal(500, (2,), rng.seeded(4))
    found, best, plain = (
        (prior.denoise(u, noise) - x).square().mean() for prior in (fitted, exact, gaussian)
    )
    assert plain - found > 2 / 3 * (plain - best)
    assert fitted.report["loss"] < fitted.report["gaussian_loss"]


@pytest.mark.slow
def test_where_there_is_nothing_to_learn_the_gaussian_remains():
    """Members held back of a Gaussian: no loss above it is accepted, and none is far below."""
    believed = 0
    for seed in range(16):
        fitted = changed(SMALL, seed=seed, rate=3e-2).fit(correlated(20, 3, seed))
        report = fitted.report
        assert fitted.network.corrects == (report["loss"] < report["gaussian_loss"])
        believed += fitted.network.corrects
    # Of sixteen ensembles of twenty, chance favours the network in no more than a half.
    assert believed <= 8


def test_levels_of_one_observing_network_are_those_of_its_bridge():
    """Every other one: precision + (precision + 1) r, the others r alone."""
    precision, noise = torch.tensor([[0.0], [4.0]]), torch.logspace(-1, 1, 6)
    level = bridge_levels(precision.expand(6, 2, 1), noise)
    for i, nu in enumerate(noise):
        expected = precision + (precision + 1) * nu**-2 if i % 2 else (nu**-2).expand(2, 1)
        assert_close(level[i] ** -2, expected)
    modes = ObservationModel(Select([0]), std=1.0).modes((2,))
    fixed = changed(SMALL, levels="fixed").fit(bent(50), modes).report
    assert fixed["loss"] != SMALL.fit(bent(50), modes).report["loss"]


def twin(steps=12):
    system = Lorenz96(dim=8, spinup=5.0)
    model = ObservationModel(Select(range(0, 8, 2)), std=1.0)
    return twin_experiment(system, model, steps, 3, rng.seeded(0))[1]


def carried(run):
    weights = {name: w for name, w in run.items() if name != "fits"}
    return torch.cat([w.flatten() for w in weights.values()])


def test_fine_tuning_starts_from_the_weights_of_the_cycle_before():
    run = changed(SMALL, fine_tuning_steps=0).begin(twin())
    first = run.fit(bent(100)).report["carried"]
    second = run.fit(bent(100, 1)).report["carried"]
    assert torch.equal(carried(first), carried(second)) and int(second["fits"]) == 2
    tuned = changed(SMALL, fine_tuning_steps=1, rate=1e-4, batch=4).begin(twin())
    start = carried(tuned.fit(bent(100)).report["carried"])
    moved = carried(tuned.fit(bent(100, 1)).report["carried"])
    # One step of Adam moves a weight by its rate at most.
    assert (moved - start).abs().max() <= 1.01e-4


def test_fits_of_the_prior_itself_share_nothing():
    first = SMALL.fit(bent(50)).report
    second = SMALL.fit(bent(50)).report
    assert torch.equal(carried(first["carried"]), carried(second["carried"]))
    assert first["loss"] == second["loss"]
    other = changed(SMALL, seed=1).fit(bent(50)).report
    assert not torch.equal(carried(other["carried"]), carried(first["carried"]))


def test_pretraining_is_on_the_system_before_the_first_cycle():
    problem = twin()
    prior = changed(SMALL, pretraining_members=400, fine_tuning_steps=0, training_steps=60)
    report = prior.begin(problem).fit(problem.system.prior(10, rng.seeded(3))).report
    assert int(report["carried"]["fits"]) == 2 and report["training_steps"] == 0
    assert carried(report["carried"])[-8:].abs().max() > 0  # The last layer starts from zero.


def test_a_trained_filter_reports_and_repeats_itself():
    method = MASF(changed(SMALL, training_steps=10, fine_tuning_steps=5))
    runs = [method.assimilate(twin(), 12, rng.seeded(1)) for _ in range(2)]
    assert torch.equal(runs[0].states, runs[1].states)
    info = runs[0].info
    wanted = {"innovation", "spread", "evaluations", "seconds", "loss", "gaussian_loss"}
    assert wanted <= info.keys() and "carried" not in info
    assert len(info["loss"]) == 4


@pytest.mark.slow
def test_a_continued_run_has_the_bits_of_an_uninterrupted_one(tmp_path):
    """In memory from any cycle, and through files with blocks of steps."""
    method, problem = MASF(changed(SMALL, training_steps=10, fine_tuning_steps=5)), twin()
    cycles = list(method.run(problem, 12, rng.seeded(1)))
    again = list(method.run(problem, 12, rng.seeded(1), cycles[7]))
    assert torch.equal(again[-1].ensemble, cycles[-1].ensemble)
    forgotten = replace(cycles[7], carried=None)
    last = list(method.run(problem, 12, rng.seeded(1), forgotten))[-1]
    assert not torch.equal(last.ensemble, cycles[-1].ensemble)
    stored = store.run(method, problem, 12, tmp_path / "a.zarr", 1, block=5)
    assert torch.equal(stored.analysis.states[:, -1], cycles[-1].ensemble)


def test_the_bridge_with_a_silent_network_is_the_kalman_update():
    x = correlated(40, 4)
    model = ObservationModel(
        Linear(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])), std=0.5
    )
    y = torch.tensor([8.0, 1.0])
    found = MASF(silent()).update(x, y, model)
    exact = MASF(Gaussian()).update(x, y, model)
    assert_close(found, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width"),
        ({"pretraining_members": 1}, "0, or at least 3"),
        ({"training_steps": -1}, "negative"),
        ({"min_noise": 2.0, "max_noise": 1.0}, "min_noise"),
        ({"levels": "all"}, "any"),
        ({"weighting": "all"}, "noise"),
        ({"validation": 1.0}, "validation"),
    ],
)
def test_settings_out_of_range_are_refused(unchecked, options, words):
    with pytest.raises(ValueError, match=words):
        online(**options)


def test_what_a_ring_cannot_do_is_refused():
    with pytest.raises(ValueError, match="site"):
        online(axis="x").check(RING)
    with pytest.raises(ValueError, match="periodic coordinates of this space are \\[\\]"):
        online(axis="site").check(StateSpace((12,), variables=("x",)))
    modes = ObservationModel(Average(2), std=1.0).modes((12,))
    with pytest.raises(ValueError, match="without `axis` and `start`"):
        changed(SMALL, axis="site").fit(correlated(10), modes, RING)
    with pytest.raises(ValueError, match="at least 3"):
        SMALL.fit(correlated(2))


@pytest.mark.slow
def test_a_nonlinear_observation_may_lose_values():
    """The network of the pairs is another one then, and trained anew."""
    model = ObservationModel(Pointwise(lambda v: torch.atan(v / 8)), std=0.1)
    _, problem = twin_experiment(Lorenz63(), model, 12, 4, rng.seeded(0))
    values = problem.instruments[0].values.clone()
    values[1, 0] = torch.nan
    gappy = replace(problem, observations=replace(problem.instruments[0], values=values))
    tiny = online(training_steps=10, fine_tuning_steps=5, width=8, batch=8, validation_interval=5)
    found = MASF(tiny).assimilate(gappy, 20, rng.seeded(1))
    assert found.states.isfinite().all() and max(found.info["training_steps"]) <= 10
    with pytest.raises(ValueError, match="leave pretraining_members out"):
        MASF(changed(tiny, pretraining_members=20)).assimilate(gappy, 20, rng.seeded(1))
