"""A posterior that is read block by block has the scores and figures of one that is read whole."""

import numpy as np
import pytest
import torch
import xarray

from scorda import metrics
from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.report import maps, reliability, series
from scorda.store import members as parts, scores, sums, withheld as withheld_scores
from scorda.store.members import InMemory, Stored, blocks

PLANE = {"y": np.arange(5.0), "x": np.arange(4.0)}
LAND = np.ones((5, 4), dtype=bool)
LAND[1, 2] = LAND[4] = False
SPACES = {
    "entries": StateSpace((3,)),
    "line": StateSpace((7,), variables=("t",)),
    "plane": StateSpace((2, 5, 4), 1.0, ("t", "u"), PLANE, mask=LAND),
    "units": StateSpace((2, 5, 4), 1.0, ("t", "u"), PLANE, units={"t": "K", "u": "m"}),
}
NAMES = ("rmse", "spread", "spread_skill", "crps", "coverage")


def drawn(space, weighted):
    """Members and a truth that is absent at one step and at one more value."""
    states = 3 + 2 * rng.normal(6, (11, *space.shape), rng.seeded(0))
    truth = 3 + 2 * rng.normal(1, (11, *space.shape), rng.seeded(1))[0]
    truth[4], truth[2].view(-1)[1] = torch.nan, torch.nan
    weights = rng.normal(6, (11,), rng.seeded(2)).exp() if weighted else None
    weights = None if weights is None else weights / weights.sum(0)
    return Analysis(states, space, weights), space.masked(truth)


def stored(analysis, folder):
    """The same on disk, in chunks of three steps."""
    dataset = analysis.to_xarray()
    chunks = {n: {"chunks": (6, 3, *v.shape[2:])} for n, v in dataset.data_vars.items()}
    dataset.to_zarr(folder / "a.zarr", encoding=chunks, consolidated=False)
    opened = xarray.open_zarr(folder / "a.zarr", chunks=None, consolidated=False)
    return Stored(opened, analysis.space, folder / "a.zarr")


@pytest.mark.parametrize("largest", [1, 50, 200, 10**6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", SPACES)
def test_sums_over_blocks_of_any_size_give_the_scores_of_the_whole(
    kind, weighted, largest, monkeypatch, tmp_path
):
    """The oracle reads all at once; 1e-12: the order of sums."""
    space = SPACES[kind]
    analysis, truth = drawn(space, weighted)
    monkeypatch.setattr(parts, "LARGEST", largest)
    monkeypatch.setattr(sums, "TOGETHER", largest)
    for members in (InMemory(analysis), stored(analysis, tmp_path)):
        true = sums.as_members(truth, members.space)
        scale = sums.scales(true, 3)
        found = scores.states_by_variable(sums.state_sums(members, true), scale, 3)
        for name in NAMES:
            score, w = getattr(metrics, name), analysis.weights
            part = None if w is None else w[:, 3:]
            if scale is None:
                pair = {name: (analysis.states, truth)}
            else:
                pair = {
                    f"{name}[{v}]": (space.field(analysis.states, v), space.field(truth, v))
                    for v in space.variables
                }
                std = [space.field(truth[3:], v) for v in space.variables]
                std = torch.stack([v[~v.isnan()].std(correction=0) for v in std])
                unit = space.constant(std)
                pair[f"{name}[std]"] = analysis.states / unit, truth / unit
            for label, (x, y) in pair.items():
                assert found[label] == pytest.approx(
                    float(score(x[:, 3:], y[3:], part)), rel=1e-12
                )


@pytest.mark.parametrize("first", [0, 1, 3, 10])
def test_blocks_hold_each_number_once_and_begin_with_chunks(first, monkeypatch, tmp_path):
    analysis, _ = drawn(SPACES["units"], True)
    members = stored(analysis, tmp_path)
    monkeypatch.setattr(parts, "LARGEST", 6 * 20 * 7)
    found = {name: torch.full((6, 11, 20), torch.nan) for name in ("t", "u")}
    for block in blocks(members, first):
        # Two chunks of three steps fit, and seven steps do not begin with one.
        assert block.steps.start in (first, 6)
        place = found[block.name][:, block.steps, block.entries]
        assert place.isnan().all()
        place.copy_(block.states)
        assert torch.equal(block.weights, analysis.weights[:, block.steps])
    for name in ("t", "u"):
        whole = SPACES["units"].field(analysis.states, name).flatten(2)
        assert torch.equal(found[name][:, first:], whole[:, first:])


def test_a_member_that_diverged_shows_in_every_score():
    analysis, truth = drawn(SPACES["line"], False)
    analysis.states[2, 5, 3] = torch.nan
    members = InMemory(analysis)
    found = scores.scores_of(sums.state_sums(members, sums.as_members(truth, members.space)))
    assert all(np.isnan(value) for value in found.values())


def test_figures_do_not_depend_on_the_size_of_blocks(monkeypatch):
    """Maps, fields over time, one component, ranks, and error against spread."""
    line, plane = drawn(SPACES["line"], True), drawn(SPACES["plane"], False)

    def made():
        one, other = InMemory(line[0]), InMemory(plane[0])
        true = sums.as_members(plane[1], other.space)
        yield from maps._snapshot(other, 5, "u", 2)
        yield from maps._over_time(one, "t", 1)
        states, band = series._shown(one, 4, 2, 9)
        yield from (states, band.low, band.middle, band.high)
        yield reliability._ranks(one, sums.as_members(line[1], one.space), 1, 4).counts
        yield from map(torch.as_tensor, reliability._binned(other, true, 1, 3))

    whole = list(made())
    monkeypatch.setattr(parts, "LARGEST", 30)
    for before, now in zip(whole, made(), strict=True):
        torch.testing.assert_close(before, now, equal_nan=True)


def test_a_field_over_time_of_many_steps_shows_every_third(monkeypatch):
    analysis, _ = drawn(SPACES["line"], True)
    monkeypatch.setattr(parts, "LARGEST", 6 * 7 * 2)
    mean, spread = maps._over_time(InMemory(analysis), "t", 3)
    expected = maps.moments(analysis.states[:, ::3], analysis.weights[:, ::3])
    torch.testing.assert_close((mean, spread), expected)


def test_distances_and_scores_of_observations_do_not_depend_on_the_size_of_blocks(monkeypatch):
    weighted, equal = (drawn(SPACES["plane"], kind)[0] for kind in (True, False))
    draw = np.random.default_rng(0)
    held = xarray.Dataset(
        {
            "predicted": (("ensemble", "observation"), draw.normal(size=(6, 40))),
            "value": ("observation", draw.normal(size=40)),
            "std": ("observation", draw.uniform(0.5, 1, 40)),
            "step": ("observation", np.sort(draw.integers(0, 11, 40))),
            "instrument": ("observation", np.zeros(40, int)),
            "variable": ("observation", np.array(["t", "u"] * 20, dtype=object)),
        }
    )

    def made():
        found = withheld_scores.observations_by_variable(held, weighted.weights)
        return [*found.values(), scores.distance(weighted, equal, 2)]

    whole = made()
    for module in (scores, withheld_scores):
        monkeypatch.setattr(module, "LARGEST", 100)
    assert made() == pytest.approx(whole, rel=1e-12)
