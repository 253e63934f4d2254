"""Many forecasts as training data, and a network that is trained on them once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from networks import amortised, changed, online
from scorda.core import rng
from scorda.core.files import read_tensors, write_tensors
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.training import denoising_loss
from scorda.nn.residual import DenseCorrection, RingCorrection
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.spatial import Average
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.priors.local import LocalGaussian
from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.dataset import Pool, checked, folds, observing_networks
from scorda.priors.network.denoiser import Climate, Corrected
from scorda.priors.network.online import OnlineNetwork

RING = StateSpace((8,), variables=("x",), period={"site": 8.0})
SMALL = online(training_steps=30, width=16, blocks=1, batch=16, validation_interval=15)


def bent(cycles, members, seed=0):
    """Ensembles in which the second entry is the square of the first, each about its own mean."""
    x = rng.normal(cycles * members, (2,), rng.seeded(seed)).view(cycles, members, 2)
    x = x + 2 * rng.normal(cycles, (1, 2), rng.seeded(seed + 1))
    return torch.stack((x[..., 0], x[..., 0].square() / 2 + 0.1 * x[..., 1]), -1)


def rings(cycles=4, members=12, seed=0):
    x = rng.normal(cycles * members, (8,), rng.seeded(seed)).view(cycles, members, 8)
    return x + x.roll(1, -1) + torch.arange(cycles)[:, None, None]


@pytest.mark.parametrize(("members", "held"), [(3, 1), (5, 1), (40, 8)])
def test_no_member_is_held_to_a_gaussian_of_itself(members, held):
    parts = folds(members, held)
    rest, back = parts[-1]
    assert back.tolist() == list(range(members - held, members)) and len(rest) == members - held
    trained = torch.cat([own for _, own in parts[:-1]])
    assert sorted(trained.tolist()) == rest.tolist()
    for others, own in parts if members > 4 else ():
        assert len(others) > 1 and not set(others.tolist()) & set(own.tolist())


def test_the_loss_is_that_of_each_member_with_its_own_gaussian():
    """One by one with the network of a single Gaussian; exact but for the pool's float32."""
    x = rings()
    base, climate = Gaussian(GaspariCohn(2.0)), Climate.of(x, (0,))
    parts = [(base.fit(e[:9], None, RING), e[9:]) for e in x]
    pool = Pool.of(parts, (0,), climate=climate)
    network = Corrected(RingCorrection(1, 8, 1, features=5), 1e-2, 30.0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng.seeded(1))
    which, noise = torch.tensor([0, 5, 10]), torch.rand(3, 8, 1, generator=rng.seeded(2)) + 0.2
    eps = rng.normal(3, (8, 2), rng.seeded(3))
    found = pool.loss(network, pool.members[which].double(), noise, eps)
    for i, row in enumerate(which.tolist()):
        alone = Pool.of(parts[row // 3 : row // 3 + 1], (0,))
        network.gaussian = replace(network.gaussian, basis=alone.roots[0])
        network.context = climate.context(parts[row // 3][0], (0,))
        z = pool.members[row : row + 1, :, :1].double()
        expected = denoising_loss(network, z, noise[i : i + 1], eps[i : i + 1, :, :1])
        assert_close(found[i : i + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighting", ["noise", "state"])
def test_members_of_an_item_share_a_level_and_a_local_gaussian(weighting, monkeypatch):
    """Items of 3 members, in float64, one by one with the denoiser of their own Gaussian."""
    # Ten times the mean is out of reach of one entry of eight.
    monkeypatch.setattr("scorda.priors.network.dataset.MOST", 4.0)
    x = rings() * torch.tensor([0.5, 0.6, 0.7, 0.8, 9.0, 1.0, 1.1, 1.2])
    base, climate = LocalGaussian(GaspariCohn(1.0), 2, 0.1), Climate.of(x, (0,))
    parts = [(base.fit(e[:9], None, RING), e[9:]) for e in x]
    pool = Pool.of(parts, (0,), climate=climate, weighting=weighting)
    assert pool.group == 3 and pool.members.shape == (4, 8, 4) and pool.roots is None
    network = Corrected(RingCorrection(1, 8, 1, features=5), 1e-2, 30.0).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng.seeded(1))
    which, noise = torch.tensor([0, 3]), torch.rand(2, 8, 1, generator=rng.seeded(2)) + 0.2
    noise[:, 0] = 0.02
    eps = rng.normal(2, (8, 4), rng.seeded(3)).double()
    found = pool.loss(network, pool.members[which].double(), noise.double(), eps)
    for i, row in enumerate(which.tolist()):
        fitted, states = parts[row]
        std, nu = fitted.var.sqrt(), noise[i, :, 0].double()
        z = ((states - fitted.mean) / std).float().double()
        u = z + nu * eps[i, :, :3].T
        G = (fitted.denoise(fitted.mean + std * u, (std * nu)[None]) - fitted.mean) / std
        root = (1 + nu**2).sqrt()
        level = (2 * nu.log() - math.log(0.3)) / math.log(3000)
        told = climate.context(fitted, (0,))[:, 0].T
        seen = (u / root, (G - u / root**2) * root / nu, level, *told)
        features = torch.stack([part.expand(3, 8) for part in seen], -1)[:, :, None]
        D = G + nu / root * network.correction(features)[..., 0]
        error = (D - z).square()
        if weighting == "noise":
            error = error * (1 + nu**2) / nu**2
        else:
            # A thousandth of the other weight at the least, where there is little noise.
            s = (fitted.var / fitted.var.mean()).sqrt()
            assert (s > 2.0).any()
            s = s.clamp_max(2.0)
            error = error * s / s.mean() * (1e-3 * (1 + nu**2) / nu**2).clamp_min(1.0)
        assert_close(found[i], error.mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_few_items_meet_all_levels_with_and_without_observations():
    """Four items per step, as `train` orders their levels: the bridge's in each quarter alike."""
    base = LocalGaussian(GaspariCohn(1.0), 2, 0.1)
    parts = [(base.fit(e[:9], None, RING), e[9:]) for e in rings()]
    levels = Pool.of(parts, (0,)).levels(1.0)
    generator, counts = rng.seeded(0), torch.zeros(4)
    ordered = torch.tensor([0.1, 0.2, 0.4, 0.8])
    for _ in range(800):
        found = levels(ordered, (8, 4), generator)
        # Without observations an item has one level; of which quarter the largest tells.
        bridge = (found.amin((1, 2)) < found.amax((1, 2)) * 0.999).nonzero()[:, 0].tolist()
        for i in bridge:
            counts[(ordered - found[i].max()).abs().argmin()] += 1
    # Five standard errors of a binomial count about a quarter.
    share, total = counts / counts.sum(), float(counts.sum())
    assert (share - 0.25).abs().max() < 5 * (0.19 / total) ** 0.5


def test_a_silent_network_leaves_the_local_gaussian():
    x, local = rings(1)[0], LocalGaussian(GaspariCohn(1.0), 2, 0.1)
    fitted = changed(SMALL, training_steps=0, axis="site", base=local).fit(x, None, RING)
    exact = local.fit(x, None, RING)
    noise = torch.tensor([[0.1, torch.inf, 1.0, 3.0, 0.2, torch.inf, 0.5, 0.7]])
    u = torch.where(noise < torch.inf, x[:5] + 0.3, 0.0).double()
    assert_close(fitted.denoise(u, noise.double()), exact.denoise(u, noise.double()))
    each = torch.rand(5, 8, generator=rng.seeded(4)).double() + 0.1
    assert_close(fitted.denoise(u, each), exact.denoise(u, each))
    assert_close(fitted.var, exact.var)


@pytest.mark.slow
def test_a_network_over_local_gaussians_learns_in_a_run_and_from_many_forecasts():
    local = LocalGaussian(GaspariCohn(1.0), 2, 0.1)
    prior = changed(SMALL, axis="site", base=local)
    tuned = prior.fit(rings(1, 40)[0], None, RING)
    assert tuned.report["loss"] <= tuned.report["gaussian_loss"]
    trained = amortised(prior, rings(40, 15), RING)
    again = trained.fit(rings(1, 10, 9)[0], None, RING)
    assert again.network.context.shape == (8, 1, 2)
    with pytest.raises(ValueError, match="along an axis"):
        changed(prior, axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("base", [Gaussian(), LocalGaussian(GaspariCohn(1.0), 2, 0.1)])
def test_a_prior_trains_with_its_weighting(base):
    """In a run and from many forecasts, over both kinds of Gaussians."""
    tuned, trained = [], []
    for weighting in ("noise", "state"):
        prior = changed(SMALL, axis="site", base=base, training_steps=20, weighting=weighting)
        tuned.append(prior.fit(rings(1, 12)[0], None, RING).report["gaussian_loss"])
        weights = amortised(prior, rings(), RING).weights
        trained.append(torch.cat([w.flatten().double() for w in weights.values()]))
    assert tuned[0] != tuned[1] and not torch.equal(*trained)


def test_observing_networks_are_of_all_kinds():
    """Shares within five standard errors; errors alike in a sample and within their range."""
    precision = observing_networks((4000, 12, 1), 0.75, rng.seeded(0))[..., 0]
    seen = precision > 0
    top = precision.amax(1)
    assert ((precision == 0) | (precision == top[:, None])).all()
    assert 1e-2 <= top[top > 0].min() < 0.02 and 50 < top.max() <= 1e2
    # A half of the entries at random and of an arc, 0.34 on strides of 1 to 8, of three quarters.
    assert abs(seen.double().mean() - 0.75 * (0.5 + 0.5 + 0.34) / 3) < 0.025
    some = seen[seen.any(1) & ~seen.all(1)]
    assert ((some != some.roll(1, 1)).sum(1) == 2).double().mean() > 0.25  # Arcs.
    assert (observing_networks((400, 3, 4), 1.0, rng.seeded(0)) == 0).all(1).any()


def test_observing_networks_on_a_grid_are_strides_and_boxes():
    """A third each of entries at random, of strides of both axes, and of boxes."""
    precision = observing_networks((6000, 48, 1), 1.0, rng.seeded(0), (8, 6))[..., 0]
    seen = (precision > 0).view(-1, 8, 6)
    rows, columns = seen.any(2), seen.any(1)
    # Strides and boxes are products of what is seen along each axis; random entries hardly ever.
    product = (seen == rows[:, :, None] & columns[:, None]).all((1, 2))
    some = seen.any((1, 2)) & ~seen.all((1, 2))
    # Five standard errors.
    assert product[some].double().mean() == pytest.approx(2 / 3, abs=0.035)
    # Of n points an arc has (n + 1) / 2 on average; a stride k has 1 / k^2 of the grid.
    strides = sum(1 / k**2 for k in range(1, 9)) / 8
    expected = (1 / 2 + strides + 9 / 16 * 7 / 12) / 3
    assert seen.double().mean() == pytest.approx(expected, abs=0.023)


@pytest.mark.slow
def test_one_network_serves_many_forecasts_and_observing_networks():
    """On fresh forecasts, one entry or the other observed: a sixth of what is there to gain.

    That is what the kernel density on 2000 members gains on the Gaussian of 40; after 300 steps
    0.34 of it was found, in six forecasts together.
    """
    prior = online(training_steps=300, width=32, blocks=1, rate=1e-2, validation_interval=100)
    trained = amortised(prior, bent(300, 50))
    gained = there = 0.0
    for ensemble in bent(6, 2540, 5):
        x, fresh, rest = ensemble.split((40, 500, 2000))
        priors = Gaussian().fit(x), trained.fit(x), Kernel(0.1).fit(rest)
        for noise in torch.tensor([[[0.3, torch.inf]], [[torch.inf, 0.3]]]):
            u = fresh + noise.nan_to_num(posinf=0.0) * rng.normal(500, (2,), rng.seeded(9))
            u = torch.where(noise.isfinite(), u, 0.0)
            plain, found, best = ((p.denoise(u, noise) - fresh).square().mean() for p in priors)
            gained, there = gained + plain - found, there + plain - best
    assert gained > there / 6


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({}, None),
        ({"base": None}, ObservationModel(Select([0, 3]), std=0.5)),
        ({"base": LocalGaussian(GaspariCohn(1.0), 2, 0.1), "axis": "site"}, None),
        ({"base": Gaussian(GaspariCohn(2.0)), "axis": "site"}, None),
        ({"base": Gaussian(GaspariCohn(math.inf))}, None),
    ],
)
def test_what_was_amortised_is_kept_in_a_file(tmp_path, options, model):
    """The same settings, tensors and bits; and the same bytes when it is saved again."""
    trained = amortised(changed(SMALL, **options), rings(), RING, model)
    trained.save(tmp_path / "net.safetensors")
    again = AmortisedNetwork.load(tmp_path / "net.safetensors")
    assert again == trained and again.report == trained.report
    assert again.shape == (8,) and again.axes == ("site",)
    assert again.tensors().keys() == trained.tensors().keys()
    assert all(torch.equal(again.tensors()[name], w) for name, w in trained.tensors().items())
    x, noise = rings()[0], torch.tensor([[0.5]])
    found, expected = (p.fit(x, None, RING).denoise(x, noise) for p in (again, trained))
    assert torch.equal(found, expected)
    again.save(tmp_path / "again.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("net", "again")]
    assert files[0] == files[1]


def test_a_run_of_a_network_is_that_of_fits_of_their_own():
    """It is built once: each cycle has its own Gaussian, and what came before stays as it was."""
    options = {"base": Gaussian(GaspariCohn(2.0)), "axis": "site"}
    trained = amortised(changed(SMALL, **options), rings(), RING)
    (x, y), noise = rings()[:2], torch.tensor([[0.5]])
    run = trained.begin(None)
    first, second = run.fit(x, None, RING), run.fit(y, None, RING)
    for fitted, members in ((second, y), (first, x)):
        expected = trained.fit(members, None, RING).denoise(members, noise)
        assert torch.equal(fitted.denoise(members, noise), expected)
    assert first.network.correction is second.network.correction


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    amortised(changed(SMALL, training_steps=0), rings(), RING).save(path)
    tensors, header = read_tensors(path)
    for change, words in (
        ({"kind": "trajectory prior"}, "holds a trajectory prior, not an amortised network"),
        ({"base": {"name": "Unknown"}}, "lacks localization"),
        ({"training": {"depth": 3}}, "unknown fields, depth"),
    ):
        write_tensors(path, tensors, {**header, **change})
        with pytest.raises(ValueError, match=words):
            AmortisedNetwork.load(path)
    write_tensors(path, {"centre": tensors["centre"]}, {"kind": "amortised network", "axis": None})
    with pytest.raises(ValueError, match="lacks base, training, space, report"):
        AmortisedNetwork.load(path)
    with pytest.raises(FileNotFoundError):
        AmortisedNetwork.load(tmp_path / "none.safetensors")


def test_it_keeps_its_weights_and_says_what_it_cannot_do():
    x = rings()
    prior = amortised(changed(SMALL, axis="site"), x, RING)
    with pytest.raises(ValueError, match="entries of the state"):
        prior.fit(x[0], ObservationModel(Average(2), std=1.0).modes((8,)), RING)
    with pytest.raises(ValueError, match="width, number of blocks"):
        changed(prior, width=8).fit(x[0], None, RING)
    with pytest.raises(ValueError, match="width, blocks"):
        OnlineNetwork("site", training=changed(prior, width=8).training, start=prior)
    dense = amortised(changed(SMALL, training_steps=0), x, RING)
    with pytest.raises(ValueError, match=r"states of shape \(8,\) for states of shape \(9,\)"):
        dense.check(StateSpace((9,)))
    before = prior.fit(x[0], None, RING)
    assert before.report == {} and before.network.corrects
    tuned = OnlineNetwork("site", training=prior.training, fine_tuning_steps=5, start=prior)
    report = tuned.fit(x[0], None, RING).report
    assert report["training_steps"] <= 5 and "centre" in report["carried"]


def test_the_context_is_mean_and_spread_in_units_of_the_climate():
    x = 3 + 2 * rings()
    fitted = Gaussian().fit(x[1])
    context = Climate.of(x, (0,)).context(fitted, (0,))
    expected = (x[1].mean(0) - x.mean()) / x.reshape(-1).std()
    assert_close(context[:, 0, 0], expected)
    assert_close(context[:, 0, 1], (x[1].std(0) / x.reshape(-1).std()).log())
    dense = Climate.of(x, ())
    assert_close(dense.centre[:, 0], x.mean((0, 1)))
    assert DenseCorrection(8, 4, 1, 5)(torch.zeros(2, 8, 1, 5)).shape == (2, 8, 1)


@pytest.mark.parametrize(
    ("forecasts", "says"),
    [
        (np.zeros((4, 10, 8)), "a tensor"),
        (torch.zeros(10, 8), "a tensor"),
        (torch.zeros(0, 10, 8), "0 cycles"),
        (torch.zeros(4, 2, 8), "2 members"),
        (torch.zeros(4, 10, 7), "last axes"),
        (torch.full((4, 10, 8), torch.nan), "not finite"),
    ],
)
def test_forecasts_that_are_none_are_refused(forecasts, says):
    with pytest.raises(ValueError, match=says):
        checked(forecasts, RING)
