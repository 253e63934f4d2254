"""Records with land and gaps: exact laws, and what training makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorda as sc
from scorda.core import rng, scratch
from scorda.core.gaussian import gaussian_condition
from scorda.core.space import StateSpace
from scorda.diffusion.training import Training
from scorda.nn.spectral import TIMES
from scorda.priors import anomalies, from_fields, memory
from scorda.priors.from_fields import train_on_fields
from scorda.priors.gaps import Gappy, interpolated
from scorda.priors.held_back import Chosen, Points
from scorda.priors.trajectory import Standardisation
from scorda.reading.records import Fields

FEW = Training(training_steps=4, batch=4, segment=8, rate=1e-3, validation=0.2, every=2)
UNITS = {"time": "hours", "lat": "degrees_north", "lon": "degrees_east"}


@pytest.fixture(autouse=True)
def _few_radii(monkeypatch):
    """Laws are learned in a second: the choice among more radii has tests of its own."""
    monkeypatch.setattr("scorda.priors.held_back.RADII", (0.25, 0.5, 1.0))


def law(points=7, modes=4, rest=0.3):
    """Orthonormal modes, their variances, and the covariance that they make with the rest."""
    basis = torch.linalg.qr(torch.randn(points, modes, generator=rng.seeded(0))).Q
    spectrum = torch.tensor([5.0, 2.0, 1.0, 0.5])[:modes]
    cov = (basis * (spectrum - rest)) @ basis.T + rest * torch.eye(points)
    return basis, spectrum, rest, cov


def draws(cov, fields, seed=1):
    noise = torch.randn(fields, len(cov), generator=rng.seeded(seed))
    return noise @ torch.linalg.cholesky(cov).T


def gaps(fields, points, share=0.3, seed=2):
    return torch.rand(fields, points, generator=rng.seeded(seed)) < share


def test_missing_values_are_the_conditional_means():
    """Field by field, against the Gaussian conditioned on its present values."""
    basis, spectrum, rest, cov = law()
    z, gone = draws(cov, 30), gaps(30, 7)
    gone[3], gone[4] = True, False
    record = Gappy(z.masked_fill(gone, torch.nan))
    record.fill(basis, spectrum, rest)
    for k, missing in enumerate(gone):
        seen = (~missing).nonzero()[:, 0]
        if len(seen) in (0, 7):
            assert torch.equal(record.filled[k], z[k] if len(seen) else torch.zeros(7))
            continue
        mean, _, _ = gaussian_condition(
            torch.zeros(7), cov, torch.eye(7)[seen], z[k, seen], 1e-14 * torch.eye(len(seen))
        )
        # 1e-14 of error is what keeps the oracle's matrix regular.
        assert_close(record.filled[k], torch.where(missing, mean, z[k]), rtol=0, atol=1e-10)
    assert record.missing == int(gone.sum()) and not record.seen[3] and record.seen[4]


def test_the_error_of_the_filled_values_has_the_conditional_variance():
    """Its mean square over that variance is 1 within 4 standard errors of 4000 fields."""
    basis, spectrum, rest, cov = law()
    fields, missing = 4000, torch.tensor([True, False, True, False, False, True, False])
    z = draws(cov, fields)
    record = Gappy(z.masked_fill(missing, torch.nan))
    record.fill(basis, spectrum, rest)
    inner = cov[missing][:, ~missing] @ torch.linalg.inv(cov[~missing][:, ~missing])
    var = (cov[missing][:, missing] - inner @ cov[~missing][:, missing]).diagonal()
    ratio = (record.filled - z)[:, missing].square().mean(0) / var
    # The standard error of a mean square of Gaussians is (2 / n)^(1/2) of it.
    assert ((ratio - 1).abs() < 4 * (2 / fields) ** 0.5).all()


def test_the_covariance_of_pairs_is_that_of_the_fields_that_have_both():
    _, _, _, cov = law()
    z, gone = draws(cov, 40), gaps(40, 7)
    record, found = Gappy(z.masked_fill(gone, torch.nan)), torch.empty(7, 7)
    for i in range(7):
        for j in range(7):
            both = ~gone[:, i] & ~gone[:, j]
            found[i, j] = (z[both, i] * z[both, j]).mean()
    assert_close(record.covariance(slice(0, 7)), found)
    assert_close(record.covariance(slice(2, 4)), found[2:4])
    assert_close(record.variance(), found.diagonal())
    assert_close(Gappy(z).covariance(slice(0, 7)), z.T @ z / 40)


def test_the_covariance_of_pairs_is_without_bias():
    """That of fields whose gaps are filled by their means has too little variance."""
    basis, spectrum, rest, cov = law()
    z = draws(cov, 20_000)
    record = Gappy(z.masked_fill(gaps(20_000, 7, 0.5), torch.nan))
    record.fill(basis, spectrum, rest)
    # A quarter of the pairs are there: 5 standard errors of a product of two Gaussians.
    var = cov.diagonal()
    error = 5 * ((var[:, None] * var + cov.square()) / 5000).sqrt()
    assert ((record.covariance(slice(None)) - cov).abs() < error).all()
    assert (record.filled.square().mean(0) < 0.95 * var).all()


def test_a_field_that_is_missing_lies_between_its_neighbours():
    given = torch.arange(12.0).view(1, 6, 2).clone()
    seen = torch.tensor([[False, True, False, False, True, False]])
    made = interpolated(given.masked_fill(~seen[..., None], 0.0), seen)
    assert_close(made[0, :, 0], torch.tensor([2.0, 2.0, 4.0, 6.0, 8.0, 8.0]))
    assert torch.equal(interpolated(given, seen | True), given)
    assert not interpolated(given, seen & False)[0, 0, 0]


def test_missing_fields_lie_between_their_neighbours_as_numpy_has_it(monkeypatch):
    """To the last bit, in whatever parts, and those that are there stay as they are."""
    given = torch.randn(2, 40, 3, generator=rng.seeded(0), dtype=torch.float64)
    seen = torch.rand(2, 40, generator=rng.seeded(1)) < 0.5
    expected = given.clone()
    for k, known in enumerate(seen.numpy()):
        times, absent = np.flatnonzero(known), np.flatnonzero(~known)
        for mode in range(3):
            between = np.interp(absent, times, given[k, times, mode].numpy())
            expected[k, absent, mode] = torch.from_numpy(between)
    monkeypatch.setattr("scorda.priors.gaps.NUMBERS", 12)
    assert torch.equal(interpolated(given, seen), expected)


def test_the_better_half_of_the_fields_is_seen_well():
    z = torch.ones(6, 4)
    assert Gappy(z.clone()).seen_well.all()
    for field, missing in enumerate((0, 1, 1, 2, 4, 3)):
        z[field, :missing] = torch.nan
    # Of 4, 3, 3, 2 and 1 values, 3 or more; a field without any does not count.
    assert Gappy(z).seen_well.tolist() == [True, True, True, False, False, False]
    assert not Gappy(torch.full((3, 2), torch.nan)).seen_well.any()


def test_a_variable_that_is_missing_at_times_keeps_its_memory():
    """Filled in from another variable it jumps; its law has the memory of the fields that have it.

    A slow variable a, rho = 0.99, of which a quarter is missing, beside a fast one, rho = 0.3.
    The correlation of a with the next state, 0.76 of the record without gaps, is 0.03 off: its
    covariance is of other pairs. With the memory of all fields it would be 0.10 off.
    """
    noise = torch.randn(3000, 2, generator=rng.seeded(4))
    x, rho = torch.zeros(3000, 2), torch.tensor([0.99, 0.3])
    for k in range(1, 3000):
        x[k] = rho * x[k - 1] + (1 - rho**2).sqrt() * noise[k]
    x[:, 1] += 0.7 * x[:, 0]
    gone = gaps(3000, 1, 0.25)[:, 0]
    space = StateSpace((2,), 1.0, ("a", "b"))
    correlation = []
    for states in (x, x.index_put((gone, torch.tensor(0)), torch.tensor(torch.nan))):
        law = from_fields.law_of(Fields(states[None], space), 2)
        decay = torch.exp(-1 / torch.tensor(TIMES, dtype=torch.float64))
        share = law.basis.square() * law.spectrum[:-1]
        share = share[0] / share[0].sum()
        correlation.append(float(share @ (law.memory[:-1] @ decay)))
    assert abs(correlation[1] - correlation[0]) < 0.05


def record(seed=0, mask=None, columns=5, days=8):
    """Red noise on a grid of 4 latitudes with a daily cycle, every three hours."""
    rows, steps = np.random.default_rng(seed), days * 8
    places = np.stack(np.meshgrid(np.arange(4.0), np.arange(float(columns)), indexing="ij"), -1)
    flat = places.reshape(-1, 2)
    far = np.linalg.norm(flat[:, None] - flat, axis=-1)
    root = np.linalg.cholesky(np.exp(-far / 3) + 1e-9 * np.eye(len(flat)))
    x = np.zeros((steps, len(flat)))
    for k in range(1, steps):
        x[k] = 0.8 * x[k - 1] + 0.6 * root @ rows.standard_normal(len(flat))
    x += 280 + 5 * np.sin(2 * np.pi * np.arange(steps) / 8)[:, None]
    axes = {"lat": 50 + np.arange(4.0), "lon": np.arange(float(columns))}
    space = StateSpace((4, columns), 3.0, ("t",), axes, units=UNITS, mask=mask)
    states = torch.from_numpy(x.reshape(steps, 4, columns))
    return Fields(space.masked(states), space, "2020-01-01")


def test_a_record_with_land_has_the_law_of_its_sea():
    """Two columns of land beside three of sea, against the three alone: the same to rounding."""
    sea = record(columns=3)
    mask = np.repeat([[True, True, True, False, False]], 4, 0)
    axes = {"lat": sea.space.coordinates["lat"], "lon": np.arange(5.0)}
    space = StateSpace((4, 5), 3.0, ("t",), axes, units=UNITS, mask=mask)
    nothing = torch.full((1, 64, 4, 2), torch.nan)
    wide = Fields(torch.cat((sea.states, nothing), -1), space, sea.start)
    assert wide.missing == 0
    ours, exact = from_fields.law_of(wide, 300), from_fields.law_of(sea, 300)
    # No taper, the last one, has no radius.
    scores = [torch.tensor(law.found["radii"][:-1]) for law in (ours, exact)]
    assert_close(*scores)
    assert ours.found["radius"] == exact.found["radius"] and len(ours.spectrum) == 13
    inside = space.inside
    assert not ours.basis[~inside].any()
    # Modes have no sign.
    assert_close(ours.basis[inside].abs(), exact.basis.abs())
    assert_close(ours.coefficients.abs(), exact.coefficients.abs())
    assert_close(ours.spectrum, exact.spectrum)
    assert_close(ours.memory, exact.memory, rtol=0, atol=1e-6)
    prior = train_on_fields(wide, corrected=4, width=8, settings=FEW)
    drawn = prior.starting("2020-01-01", 4).sample(3, 3, rng.seeded(0))
    assert drawn[..., 3:].isnan().all() and drawn[..., :3].isfinite().all()


@pytest.mark.slow
def test_sda_on_a_record_with_land_is_the_gaussian_posterior_of_the_sea(tmp_path):
    """The file keeps the mask, and observations on the coast move the sea as they should."""
    mask = np.ones((4, 5), dtype=bool)
    mask[2:, 3:] = False
    fields = record(mask=mask)
    prior = train_on_fields(fields, corrected=4, width=8, settings=FEW)
    torch.nn.init.zeros_(prior.network.correction.last.weight)
    torch.nn.init.zeros_(prior.network.correction.last.bias)
    prior.network.double()
    prior.save(tmp_path / "p.safetensors")
    prior = sc.load(tmp_path / "p.safetensors")
    assert prior.space == fields.space and (prior.space.mask == mask).all()
    started, inside = prior.starting("2020-01-03", 2), fields.space.inside
    seen, members = [0, 7, 12], 400
    values = fields.states[0, 16:18].flatten(1)[:, seen]
    data = sc.Observations(sc.ObservationModel(sc.Select(seen), std=0.5), [0, 1], values)
    analysis = sc.SDA(started, sc.diffusion.MMPS(iterations=6, solver="cg")).assimilate(
        sc.Problem(prior, data, 1), members, rng.seeded(0)
    )
    assert analysis.states.flatten(2)[..., ~inside].isnan().all()
    net, scale = prior.network, float(prior.standardisation.std.flatten()[0])
    basis = net.basis[inside]
    spatial = [net.spectrum[j] * torch.outer(e, e) for j, e in enumerate(basis.T)]
    spatial.append(net.spectrum[-1] * (torch.eye(16) - basis @ basis.T))
    pairs = zip(net.correlation(2), spatial, strict=True)
    cov = sum(torch.kron(r, s) for r, s in pairs) * scale**2
    index = torch.full((20,), -1)
    index[inside] = torch.arange(16)
    pick = torch.cat([index[seen], 16 + index[seen]])
    mean = started.standardisation.mean.flatten(1)[:, inside].flatten()
    total = cov[pick][:, pick] + 0.25 * torch.eye(6)
    gain = torch.linalg.solve(total, cov[pick]).T
    mean = mean + gain @ (values.flatten() - mean[pick])
    std = (cov - gain @ cov[pick]).diagonal().sqrt()
    sea = analysis.states.flatten(2)[..., inside].flatten(1)
    # 5 standard errors of 400 members, and 3% for 24 steps of the sampler.
    assert ((sea.mean(0) - mean).abs() / std).max() < 5 / members**0.5 + 0.03
    assert (sea.std(0) / std - 1).abs().max() < 5 / (2 * members) ** 0.5 + 0.03


def test_a_record_with_gaps_is_filled_and_says_so():
    """A tenth at random, a part of the grid for a day, and a field that is missing."""
    fields = record(days=20)
    gone = torch.rand(fields.states.shape, generator=rng.seeded(0)) < 0.1
    gone[0, 16:24, :, :2] = True
    gone[0, 40] = True
    holes = replace(fields, states=fields.states.masked_fill(gone, torch.nan))
    assert holes.missing == int(gone.sum())
    prior = train_on_fields(holes, corrected=4, width=8, settings=FEW)
    assert prior.provenance["filled"] == holes.missing
    with pytest.raises(ValueError, match=f"{holes.missing} values are missing"):
        train_on_fields(holes, corrected=4, width=8, settings=FEW, fill=False)
    ours, whole = from_fields.law_of(holes, 300), from_fields.law_of(fields, 300)
    # A tenth less data moves the largest variances by a few of their own percent; the mean of
    # 160 correlated fields, 20 a phase, is known to .3 of the std at best.
    assert_close(ours.spectrum[:3], whole.spectrum[:3], rtol=0.1, atol=0)
    assert ((ours.cycle - whole.cycle) / whole.std).abs().max() < 0.3
    error = (ours.coefficients - whole.coefficients)[0, :, 0].square().mean()
    assert error < 0.05 * whole.coefficients[0, :, 0].square().mean()


def test_a_point_that_is_never_seen_at_some_time_of_the_day_has_its_other_mean():
    fields = record()
    states = fields.states.clone()
    states[0, 3::8, 1, 1] = torch.nan
    law = from_fields.law_of(replace(fields, states=states), 300)
    kept = states[0, :, 1, 1]
    other = torch.stack([kept[p::8].mean() for p in range(8) if p != 3]).mean()
    assert_close(law.cycle[3, 1, 1], other)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_law_of_a_record_is_the_same_in_any_unit(factor):
    """Two variables of which one is multiplied: the law of standardised anomalies stays."""
    fields = record()
    states = torch.stack((fields.states, fields.states.flip(1) ** 2), 2)
    shape = (2, *fields.space.shape)
    space = StateSpace(shape, 3.0, ("a", "b"), fields.space.coordinates, units=UNITS)
    unit = torch.tensor([1.0, factor]).view(2, 1, 1)
    ours = from_fields.law_of(Fields(states * unit, space, fields.start), 300)
    same = from_fields.law_of(Fields(states, space, fields.start), 300)
    assert_close(ours.std, same.std * unit)
    assert ours.found["radius"] == same.found["radius"]
    assert_close(ours.spectrum, same.spectrum)
    assert_close(ours.memory, same.memory, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_posterior_is_the_same_in_any_unit():
    """Humidity in kg/kg beside pressure in Pa or kPa, observed where both vary: to 1e-5."""
    fields = record()
    states = torch.stack((1e-3 * (fields.states - 275), 1e5 + 80 * fields.states.flip(1)), 2)
    shape, found = (2, *fields.space.shape), {}
    for factor in (1.0, 1e-3):
        space = StateSpace(shape, 3.0, ("q", "p"), fields.space.coordinates, units=UNITS)
        unit = torch.tensor([1.0, factor]).view(2, 1, 1)
        made = Fields(states * unit, space, fields.start)
        prior = train_on_fields(made, corrected=4, width=8, settings=FEW)
        values = (states * unit)[0, 16:18].flatten(1)[:, [3, 12, 25]]
        std = torch.tensor([1e-4, 1e-4, 50.0 * factor])
        model = sc.ObservationModel(sc.Select([3, 12, 25]), std=std)
        problem = sc.Problem(prior, sc.Observations(model, [0, 1], values), 1)
        method = sc.SDA(prior.starting("2020-01-03", 2))
        found[factor] = method.assimilate(problem, 8, rng.seeded(0)).states / unit
    first, second = found.values()
    spread = first.std(0).mean((0, 2, 3))
    # In standard deviations of what is left of each variable.
    assert ((first - second).abs() < 1e-5 * spread[:, None, None]).all()


def test_a_standardisation_is_that_of_each_variable_at_sea():
    mask = torch.tensor([[True, False], [True, True]])
    space = StateSpace((2, 2, 2), variables=("a", "b"), mask=mask.numpy())
    states = (
        torch.randn(6, 3, 2, 2, 2, generator=rng.seeded(0))
        * torch.tensor([1.0, 1e5])[:, None, None]
    )
    made = Standardisation.of(space.masked(states), space)
    for i in range(2):
        sea = states[:, :, i][..., mask]
        assert_close(made.mean[i, 0, 0], sea.mean())
        assert_close(made.std[i, 0, 0], sea.std())
    assert made.mean.shape == (2, 1, 1)


def test_the_law_of_a_large_record_is_made_of_some_fields_at_once(monkeypatch):
    """In parts as in one; and in single precision as in double, to the digits that it has."""
    fields = record()
    gone = gaps(64 * 20, 1, 0.1).view(fields.states.shape)
    fields = replace(fields, states=fields.states.masked_fill(gone, torch.nan))
    whole = from_fields.law_of(fields, 300)
    single = from_fields.law_of(replace(fields, states=fields.states.float()), 300)
    monkeypatch.setattr(anomalies, "NUMBERS", 70)
    monkeypatch.setattr("scorda.priors.gaps.NUMBERS", 70)
    parts = from_fields.law_of(fields, 300)
    assert parts.found["radius"] == single.found["radius"] == whole.found["radius"]
    for made, digits in ((parts, 1e-10), (single, 1e-4)):
        assert_close(made.std, whole.std, rtol=digits, atol=0)
        assert_close(made.cycle, whole.cycle, rtol=digits, atol=0)
        assert_close(made.spectrum, whole.spectrum, rtol=10 * digits, atol=0)
    assert_close(parts.coefficients.abs(), whole.coefficients.abs())


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_record_on_disk_has_the_law_of_the_same_record_in_memory(monkeypatch, share):
    """To the last bit: only the place of the arrays differs."""
    fields = record(days=10)
    states = fields.states.masked_fill(
        gaps(80 * 20, 1, share).view(fields.states.shape), torch.nan
    )
    fields = replace(fields, states=states)
    inside = from_fields.law_of(fields, 300)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    onto = scratch.scratch(tuple(states.shape), states.dtype)
    onto.copy_(states)
    outside = from_fields.law_of(replace(fields, states=onto), 300)
    for name in ("cycle", "std", "basis", "spectrum", "memory", "coefficients"):
        assert torch.equal(getattr(inside, name), getattr(outside, name)), name


@pytest.mark.parametrize("days", [1, 10])
def test_rows_of_a_large_covariance_are_computed_once_in_a_long_record(monkeypatch, days):
    """A matrix larger than the record is computed again in each of the five iterations."""
    looked = []
    covariance = Gappy.covariance
    monkeypatch.setattr(Gappy, "covariance", lambda *a: looked.append(a[1]) or covariance(*a))
    z = torch.randn(8 * days, 20, generator=rng.seeded(0), dtype=torch.float64)
    places = torch.arange(20.0, dtype=torch.float64)[:, None]
    space = StateSpace((20,), 1.0, coordinates={"x": np.arange(20.0)})
    points = Points(places, torch.zeros(20, dtype=torch.long), space)
    chosen = Chosen(4.0, 1.0, (0,), [], [])
    dense, _ = from_fields._modes(Gappy(z), points, chosen, 20)
    monkeypatch.setattr(from_fields, "DENSE", 10)
    looked.clear()
    found, _ = from_fields._modes(Gappy(z), points, chosen, 20)
    assert len(looked) == (5 if days == 1 else 1)
    assert_close(found, dense, rtol=1e-9, atol=1e-9)


def test_lagged_products_in_blocks_are_those_of_the_whole(monkeypatch):
    coefficients = torch.randn(2, 50, 3, generator=rng.seeded(0))
    both = torch.rand(2, 47, generator=rng.seeded(1)).numpy() < 0.7
    products = (coefficients[:, :47] * coefficients[:, 3:]).numpy()[both]
    monkeypatch.setattr(scratch, "NUMBERS", 40)
    made = memory._lagged(coefficients, both, 3)
    np.testing.assert_allclose(made, products.mean(0), rtol=1e-12)
