"""Circular variables: methods, means and scores go the short way round."""

import math

import numpy as np
import pytest
import torch

import scorda as sc
from scorda import store
from scorda.assimilation.base import check_needs
from scorda.assimilation.innovations import desroziers
from scorda.bench.predictive import predict
from scorda.cli import catalogue
from scorda.core import rng
from scorda.metrics import pointwise_crps
from scorda.observations import OverTime, remembering
from scorda.observations.circular import predicted
from scorda.observations.operators import Chain, Function, Linear, Pointwise, Select
from scorda.observations.robust_laws import StudentT
from scorda.observations.spatial import Average, Interpolate
from scorda.store.in_memory import analysis_scores
from scorda.store.scores import scores as scores_of_store
from scorda.systems import Circular, FunctionSystem, Log

METHODS = {name: entry.load() for name, entry in catalogue.listed().items()}
DEGREES = Circular(360.0)
SITES = 6


def space_of(circles, sites=SITES):
    names = ("direction", "speed")
    return sc.StateSpace((2, sites), 1.0, names, {"x": np.arange(sites)}, transforms=circles)


CIRCLE, LINE = space_of({"direction": DEGREES}), space_of({})


def system(space, turn=0.0):
    """Directions that veer with the speed and are smoothed: a model of differences alone."""

    def model(x):
        direction, speed = x[..., 0, :], x[..., 1, :]
        gap = space.shortest(torch.stack([direction.roll(1, -1) - direction, speed], -2))
        turned = direction + 0.2 * gap[..., 0, :] + 3.0 * torch.tanh(speed)
        return torch.stack([turned, 0.9 * speed], -2)

    def first(members, seed):
        noise = rng.normal(members, space.shape, rng.seeded(seed))
        field = torch.stack([turn + 10 * noise[:, 0], noise[:, 1]], 1)
        return space.within(field) if space.circular else field

    return FunctionSystem(model, first, space, noise_std=0.5, library="torch")


def operator(space):
    return Interpolate(
        torch.tensor([[0.25], [1.5], [3.0], [4.75], [2.5]]), space, ("direction",) * 4 + ("speed",)
    )


VALUES = torch.tensor([12.0, -9.0, 4.0, 7.0, 0.5])


def problem(space, turn=0.0, seen=None, law=None):
    """A problem about a direction: the one on a line, turned, is that on the circle."""
    model = sc.ObservationModel(seen or operator(space), torch.tensor([4.0] * 4 + [0.5]), law=law)
    y = VALUES + torch.tensor([turn] * 4 + [0.0])
    if space.circular:
        y[:4] = DEGREES.within(y[:4])
    steps = [0, 2, 3]
    drawn = system(space, turn).prior(20, 5)
    return sc.Problem(
        system(space, turn), sc.Observations(model, steps, y.expand(3, -1)), 4, drawn
    )


def assert_turned(circle, line, turn):
    """States on the circle are those on the line, turned."""
    assert (circle[..., 0, :] >= 0).all() and (circle[..., 0, :] < 360).all()
    gap = circle - line
    gap[..., 0, :] -= turn
    gap = CIRCLE.shortest(gap)
    assert gap.abs().max() < 1e-8 * 360


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_bits_of_the_problem_on_a_line(name):
    """Where nothing crosses the cut; or it is refused, with the methods that are not."""
    kind = METHODS[name]
    seen = Select([0, 1, 2, 3, SITES]) if kind is sc.PublishedMASF else None
    task = problem(CIRCLE, 180.0, seen)
    if not kind.circular:
        with pytest.raises(ValueError, match=r"needs .*without circular variables.*ETKF"):
            check_needs(object.__new__(kind), task)
        return
    method = kind.example(task)
    line = method.assimilate(problem(LINE, 180.0, seen), 20, 1)
    circle = method.assimilate(task, 20, 1)
    # Of an error that is small beside the spread PublishedMASF scatters its members all around.
    steps = 1 if kind is sc.PublishedMASF else 5
    assert torch.equal(circle.states[:, :steps], line.states[:, :steps])
    assert torch.equal(circle.mean[:steps], line.mean[:steps])
    if steps > 1:
        assert torch.equal(circle.info["spread"], line.info["spread"])


KALMAN = [
    sc.EnKF(),
    sc.ETKF(inflation=sc.RTPS(0.5)),
    sc.EnSRF(localization=sc.GaspariCohn(2.0)),
    sc.DEnKF(gross_error_check=3.0),
    sc.LETKF(localization=sc.GaspariCohn(2.0)),
    sc.EnKFN(),
    sc.EnKS(),
    sc.ParticleFilter(),
    sc.RankHistogramFilter(),
    sc.GaussianMixtureFilter(),
]


@pytest.mark.parametrize("method", KALMAN, ids=lambda method: method.name)
@pytest.mark.parametrize("turn", [0.0, 90.0])
def test_across_the_cut_a_method_is_that_of_the_line(method, turn):
    """All directions lie around 0: on the line, on both sides; rounding grows over 4 steps.

    Turned by 90 degrees nothing changes but the direction.
    """
    line = method.assimilate(problem(LINE), 20, 1)
    circle = method.assimilate(problem(CIRCLE, turn), 20, 1)
    assert_turned(circle.states, line.states, turn)
    assert_turned(circle.mean, line.mean, turn)
    assert_turned(circle.quantile(0.3), line.quantile(0.3), turn)
    for name in ("spread", "innovation"):
        torch.testing.assert_close(circle.info[name], line.info[name], rtol=1e-8, atol=0)


def test_robust_errors_and_climatologies_are_those_of_the_line():
    for method, law in ((sc.ETKF(), StudentT(4.0)), (sc.ThreeDVar(), None)):
        line = method.assimilate(problem(LINE, law=law), 20, 1)
        circle = method.assimilate(problem(CIRCLE, law=law), 20, 1)
        assert_turned(circle.states, line.states, 0.0)


def test_scores_are_those_of_the_line():
    """Against a truth, withheld values, by predictive scores and Desroziers' diagnostics."""
    scores = {}
    for space in (LINE, CIRCLE):
        task = problem(space)
        found = sc.ETKF().assimilate(task, 20, 1)
        truth = task.system.trajectory(task.system.prior(1, 9), 4, 3)[0]
        of = analysis_scores(found, truth, task.instruments)
        of = {k: v for k, v in of.items() if "[std]" not in k}
        of |= predict(sc.ETKF(), task, 20, 1)
        for one in desroziers(sc.ETKF(gross_error_check=4.0), task, 20, 1):
            of |= {f"{one.name} {k}": v for k, v in vars(one).items() if k != "kind"}
        scores[space is CIRCLE] = of
    assert len(scores[True]) > 20
    assert scores[True] == pytest.approx(scores[False], rel=1e-8, nan_ok=True)


def test_two_members_beside_the_cut():
    """350 and 10 degrees: mean 0, resultant .984808; CRPS of 0 is 5, fair 0 (methods, 32)."""
    x = torch.tensor([350.0, 10.0])
    assert abs(DEGREES.direction(x, None)) < 1e-12
    angle = x * math.pi / 180
    resultant = torch.hypot(angle.cos().mean(), angle.sin().mean())
    assert abs(float(resultant) - 0.984808) < 1e-6
    space = sc.StateSpace((1,), variables=("wind",), transforms={"wind": DEGREES})
    pair = sc.Analysis(x.view(2, 1, 1), space)
    assert float(pair.mean) == pytest.approx(0, abs=1e-12)
    truth = torch.zeros(1)
    assert float(pointwise_crps(x[:, None], truth, period=360.0)) == pytest.approx(0, abs=1e-12)
    twice = x.repeat(1000)[:, None]
    # The fair score of many copies is nearly the score of the law itself.
    assert float(pointwise_crps(twice, truth, period=360.0)) == pytest.approx(5, abs=0.01)


def test_the_crps_of_a_uniform_law_is_a_quarter_of_pi():
    members = torch.arange(400) * (2 * math.pi / 400)
    for y in (0.0, 1.0, 5.5):
        score = pointwise_crps(members[:, None], torch.tensor([y]), period=2 * math.pi)
        # The fair score of 400 even angles is less by 1/399 of E d(X, X') / 2.
        assert float(score) == pytest.approx(math.pi / 2 - math.pi / 4 * 400 / 399, abs=1e-4)


def test_the_crps_within_half_a_circle_is_the_other_one_however_it_is_turned():
    x, y = 40 * rng.normal(30, (7,), rng.seeded(0)).clamp(-2, 2), torch.linspace(-80, 80, 7)
    weights = torch.rand(30, generator=rng.seeded(1))
    for w in (None, weights):
        line = pointwise_crps(x[:, None], y[None], w)
        for turn in (0.0, 137.0):
            turned = (x + turn) % 360, (y + turn) % 360
            circle = pointwise_crps(turned[0][:, None], turned[1][None], w, 360.0)
            torch.testing.assert_close(circle, line, rtol=1e-10, atol=1e-9)


def test_observations_between_points_go_the_short_way():
    """350 and 10 degrees have 0 between them, also in a twin experiment and a block mean."""
    space = space_of({"direction": DEGREES}, 2)
    x = torch.tensor([[[350.0, 10.0], [1.0, 3.0]]])
    between = Interpolate(
        torch.tensor([[0.5], [0.75], [0.5]]), space, ("direction",) * 2 + ("speed",)
    )
    seen = predicted(between, x, space)
    torch.testing.assert_close(DEGREES.near(seen[0, :2], 0.0), torch.tensor([0.0, 5.0]))
    assert seen[0, 2] == 2
    mean = predicted(Average(2, channels=True), x, space)[0, 0]
    assert DEGREES.near(mean, 0.0).abs() < 1e-9
    near = predicted(between, x, space, torch.tensor([725.0, 364.0, 2.0]))
    torch.testing.assert_close(near[0], torch.tensor([720.0, 365.0, 2.0]))
    still = FunctionSystem(lambda x: x, lambda n, seed: x.expand(n, 2, 2), space, library="torch")
    _, task = sc.twin_experiment(still, sc.ObservationModel(between, std=0.01), 2, 1, 0)
    values = task.instruments[0].values
    assert ((values[:, :2] >= 0) & (values[:, :2] < 360)).all()
    assert DEGREES.near(values[:, 0], 0.0).abs().max() < 0.1


def test_what_is_no_mean_of_a_direction_is_refused():
    matrix = torch.zeros(1, 2 * SITES)
    for entries, match in (({0: 1.0, 1: -1.0}, "sum to 1"), ({0: 0.5, SITES: 0.5}, "mixes")):
        for entry, weight in entries.items():
            matrix[0, entry] = weight
        model = sc.ObservationModel(Linear(matrix), std=1.0)
        with pytest.raises(ValueError, match=match):
            sc.Problem(system(CIRCLE), sc.Observations(model, [1], [[1.0]]), 2)
        matrix.zero_()
    model = sc.ObservationModel(OverTime(Select([0])), std=1.0)
    with pytest.raises(ValueError, match="no mean over time"):
        sc.Problem(system(CIRCLE), sc.Observations(model, [(1, 2)], [[1.0]]), 2)
    speeds = sc.ObservationModel(OverTime(Select([SITES])), std=1.0)
    whole = remembering(sc.Problem(system(CIRCLE), sc.Observations(speeds, [(1, 2)], [[1.0]]), 2))
    assert "direction" in whole.space.circular
    assert sc.ETKF().assimilate(whole, 20, 0).states.isfinite().all()


def test_functions_get_directions_on_their_own_turn_beside_linear_observations():
    """A Function that fails elsewhere, a linear instrument and a bounded variable together."""
    space = space_of({"direction": DEGREES, "speed": Log()})

    def cosine(x):
        direction = x[:, 0, 0]
        assert ((direction >= 0) & (direction < 360)).all()
        return torch.cos(direction * math.pi / 180)[:, None]

    def model(x):
        return torch.stack([x[..., 0, :] + 5, x[..., 1, :] ** 0.9], -2)

    def first(members, seed):
        noise = rng.normal(members, space.shape, rng.seeded(seed))
        return torch.stack([DEGREES.within(10 * noise[:, 0]), noise[:, 1].exp()], 1)

    both = FunctionSystem(model, first, space, noise_std=0.2, library="torch")
    parts = [
        (Function(cosine), 0.1, 1.0),
        (Select([0, SITES]), 2.0, 5.0),
        (Chain(Pointwise(torch.log), Select([SITES])), 0.3, 0.5),
    ]
    instruments = [
        sc.Observations(
            sc.ObservationModel(h, std=std),
            [1, 2],
            torch.full((2, 2 if h == parts[1][0] else 1), y),
        )
        for h, std, y in parts
    ]
    states = (
        sc.ETKF(gross_error_check=6.0).assimilate(sc.Problem(both, instruments, 3), 30, 0).states
    )
    spread = space.unrolled(states)[:, 2, 0, 0].std()
    assert spread < 3
    assert (states[:, :, 1] > 0).all()


def test_networks_priors_and_gaussian_laws_refuse_circles():
    with pytest.raises(ValueError, match="no circular variables"):
        sc.train(torch.zeros(30, 2, SITES), CIRCLE)
    with pytest.raises(ValueError, match="LinearGaussian"):
        sc.systems.LinearGaussian(
            torch.eye(1), torch.eye(1), torch.zeros(1), torch.eye(1)
        ).with_transforms({"x0": DEGREES})
    for bad in ((0.0, 0.0), (math.inf, 0.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="positive period"):
            Circular(*bad)


def test_states_stay_on_the_turn_that_is_declared():
    half = Circular(360.0, -180.0)
    x = torch.tensor([-181.0, -180.0, 179.9, 180.0, 540.0, -1e-18])
    assert half.within(x).tolist() == [179.0, -180.0, 179.9, -180.0, -180.0, -1e-18]
    assert DEGREES.within(torch.tensor([-1e-18])).tolist() == [0.0]
    space = sc.StateSpace((1,), variables=("wind",), transforms={"wind": half})
    assert sc.StateSpace.from_json(space.as_json()) == space
    assert space.only("wind").circular == {"wind": half}


def test_reports_of_one_place_and_step_are_averaged_the_short_way(tmp_path):
    rows = ["time,variable,x,value,std"]
    rows += [f"1,direction,2,{value},1" for value in (350, 14, 2)] + [
        "1,speed,2,4,1",
        "1,speed,2,6,1",
    ]
    (tmp_path / "winds.csv").write_text("\n".join(rows) + "\n")
    found = sc.Observations.from_table(tmp_path / "winds.csv", CIRCLE)
    direction, speed = found.values[0].tolist()
    assert DEGREES.near(torch.tensor(direction), 0.0).item() == pytest.approx(2.0)
    assert speed == 5


def test_the_density_of_a_step_goes_the_short_way():
    chain = FunctionSystem(
        lambda x: x,
        lambda n, seed: torch.zeros(n, 1),
        space := sc.StateSpace((1,), variables=("wind",), transforms={"wind": DEGREES}),
        noise_std=2.0,
        library="torch",
    )
    assert space.circular
    far, near = (
        chain.log_transition(torch.tensor([359.0]), torch.tensor([y])) for y in (2.0, 356.0)
    )
    assert far == near


@pytest.mark.slow
def test_withheld_scores_go_the_short_way_from_the_weighted_mean(tmp_path):
    """Directions all around the circle, of which the weights of a particle filter leave a few."""
    space = sc.StateSpace((1,), variables=("d",), transforms={"d": DEGREES})

    def prior(members, seed):
        return np.random.default_rng(seed).uniform(0, 360, (members, 1))

    whole = FunctionSystem(lambda x: x, prior, space, noise_std=1.0)
    model = sc.ObservationModel(sc.Select([0]), std=20.0)
    seen = sc.Observations(model, [1], [[30.0]])
    values = torch.arange(0.0, 360.0, 45.0)[:, None] + 22.0
    held = sc.Observations(model, range(2, 10), values)
    problem, method = sc.Problem(whole, seen, 10), sc.ParticleFilter(resample=0.0)
    run = store.run(method, problem, 30, tmp_path / "all.zarr", 1, withheld=[held])
    found = run.analysis
    w, x = found.weights[:, 2:10], found.states[:, 2:10, 0]
    angle = torch.deg2rad(x)
    middle = torch.rad2deg(torch.atan2((w * angle.sin()).sum(0), (w * angle.cos()).sum(0)))
    mean = middle + (w * ((x - middle + 180) % 360 - 180)).sum(0)
    rmse = float(((values[:, 0] - mean + 180) % 360 - 180).square().mean().sqrt())
    kept = {"keep": store.Keep(statistics=("mean",))}
    part = store.run(method, problem, 30, tmp_path / "part.zarr", 1, withheld=[held], **kept)
    for scores in (
        analysis_scores(found, None, [held]),
        scores_of_store(run),
        scores_of_store(part),
    ):
        assert scores["observation_rmse"] == pytest.approx(rmse, rel=1e-9)
