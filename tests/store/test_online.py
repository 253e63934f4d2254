"""A filter that waits has the bits of one that knows its data, saved or not."""

import json
from dataclasses import replace

import pytest
import torch

import scorda as sc
from scorda.assimilation.adaptive_inflation import Adaptive
from scorda.core.files import read_tensors, write_tensors
from scorda.observations.operators import Function, Select
from scorda.priors import Kernel
from scorda.systems import FunctionSystem
from scorda.systems.lorenz import Lorenz63, Lorenz96

STEPS, EVERY = 12, 3
MODEL = sc.ObservationModel(Select(range(0, 40, 2)), std=1.0)


def twin(system=None, model=MODEL, start=None):
    return sc.twin_experiment(system or Lorenz96(noise_std=0.1), model, STEPS, EVERY, 3, start)[1]


def followed(method, problem, path=None, members=16):
    """A run at each step of a problem, saved and resumed around each analysis."""
    run = method.start(problem.system, members, 5)

    def again():
        if path is None:
            return run
        run.save(path)
        return sc.resume(path)

    for step in range(problem.steps + 1):
        run.forecast(step)
        run = again()
        rows = [(o, o.steps.index(step)) for o in problem.instruments if step in o.steps]
        if rows:
            run.observe([o.values[k] for o, k in rows], [o.model for o, _ in rows])
            run = again()
        yield run


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        sc.EnKF(inflation=1.05),
        sc.ETKF(),
        sc.LETKF(localization=sc.GaspariCohn(8.0)),
        sc.ParticleFilter(jitter=0.1),
        pytest.param(sc.ScoreFilter(Kernel(0.3)), marks=pytest.mark.slow),
        sc.ETKF(gross_error_check=2.0),
        sc.ETKF(inflation=Adaptive()),
    ],
    ids=lambda m: m.name,
)
def test_a_run_that_waits_has_the_bits_of_assimilate(method, saved, tmp_path):
    problem = twin(start=0)
    expected = method.assimilate(problem, 16, 5)
    path = tmp_path / "run.safetensors" if saved else None
    reports = []
    for run in followed(method, problem, path):
        assert torch.equal(run.ensemble, expected.states[:, run.step])
        if expected.weights is not None:
            assert torch.equal(run.weights, expected.weights[:, run.step])
        if run.info and not saved:
            reports.append(run.info["innovation"])
    assert saved or [float(r) for r in reports] == expected.info["innovation"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", [sc.SF, sc.SSLS])
def test_a_network_that_learns_goes_on_from_the_file(method, tmp_path):
    problem = twin(Lorenz63(noise_std=0.1), sc.ObservationModel(Select([0]), std=1.0))
    expected = method().assimilate(problem, 8, 5)
    for run in followed(method(), problem, tmp_path / "run.safetensors", 8):
        assert torch.equal(run.ensemble, expected.states[:, run.step])


def test_values_that_are_absent_and_several_instruments_are_as_in_a_problem(tmp_path):
    problem = twin()
    one = problem.instruments[0]
    values = one.values.clone()
    values[0], values[1, 3:] = float("nan"), float("nan")
    other = sc.Observations(sc.ObservationModel(Select([1, 5]), std=0.5), [6], torch.ones(1, 2))
    problem = replace(problem, observations=[replace(one, values=values), other])
    expected = sc.EnKF().assimilate(problem, 16, 5)
    for run in followed(sc.EnKF(), problem, tmp_path / "run.safetensors"):
        assert torch.equal(run.ensemble, expected.states[:, run.step])


def test_members_that_are_given_and_a_system_of_ones_own():
    members = torch.randn(10, 3, generator=sc.rng.seeded(0))
    system = FunctionSystem(lambda x: 0.9 * x, members.numpy(), sc.StateSpace((3,)), 0.1)
    model = sc.ObservationModel(Select([0]), std=0.5)
    observations = sc.Observations(model, [2, 4], torch.ones(2, 1))
    expected = sc.ETKF().assimilate(sc.Problem(system, observations, 4, members), 10, 1)
    run = sc.ETKF().start(system, members, 1)
    for k in (2, 4):
        run.forecast(k)
        run.observe([1.0], model)
    assert torch.equal(run.ensemble, expected.states[:, -1])


def test_members_that_were_dropped_stay_away(tmp_path):
    class Failing(Lorenz63):
        drops = True

        def step(self, x, generator=None):
            made = super().step(x, generator)
            if len(x) == 9:
                made[4] = float("nan")
            return made

    problem = twin(Failing(noise_std=0.1), sc.ObservationModel(Select([0]), std=1.0))
    members = Lorenz63().prior(9, sc.rng.seeded(1))
    expected = sc.EnKF().assimilate(replace(problem, initial=members), 9, 5)
    run = sc.EnKF().start(problem.system, members, 5)
    path = tmp_path / "run.safetensors"
    for k, step in enumerate(problem.instruments[0].steps):
        run.forecast(step)
        run.observe(problem.instruments[0].values[k], problem.instruments[0].model)
        run.save(path)
        run = sc.resume(path, system=problem.system)
    assert run.ensemble[4].isnan().all()
    assert torch.equal(run.ensemble.nan_to_num(), expected.states[:, -1].nan_to_num())


def test_what_cannot_be_is_said_in_a_sentence():
    problem = twin()
    run = sc.ETKF().start(problem.system, 16, 5)
    run.forecast(3)
    with pytest.raises(ValueError, match="run is at step 3"):
        run.forecast(2)
    with pytest.raises(ValueError, match=r"must be \(cycle"):
        run.observe(torch.zeros(3), MODEL)
    with pytest.raises(ValueError, match="SF needs an observation operator with a gradient"):
        rounded = Function(lambda x: x[:, :1].round(), differentiable=False)
        sc.SF().start(problem.system, 16, 5).observe([0.0], sc.ObservationModel(rounded, std=1.0))
    run.observe(torch.zeros(20), MODEL)
    with pytest.raises(ValueError, match="Step 3 was analysed already"):
        run.observe(torch.zeros(20), MODEL)
    with pytest.raises(ValueError, match=r"\(ensemble, \*\(40,\)\)"):
        sc.ETKF().start(problem.system, torch.zeros(3))
    with pytest.raises(sc.RunError, match="needs at least 2"):
        sc.ETKF().start(problem.system, 1)
    with pytest.raises(ValueError, match="2 values for 1 models"):
        run.forecast(4)
        run.observe([torch.zeros(20)] * 2, [MODEL])
    assert "ETKF of 16 members at step 4, 1 analyses" in repr(run)


@pytest.mark.usefixtures("unchecked")
def test_a_step_that_is_no_number_and_no_model_are_refused():
    """A forecast to infinity would never end."""
    run = sc.ETKF().start(twin().system, 16, 5)
    for step in (0.5, float("inf"), float("nan"), "4"):
        with pytest.raises(ValueError, match="whole number"):
            run.forecast(step)
    with pytest.raises(TypeError, match="give an ObservationModel"):
        run.observe(torch.zeros(20), None)


def test_a_file_is_refused_that_is_damaged_or_of_something_else(tmp_path):
    path = tmp_path / "run.safetensors"
    run = sc.ETKF().start(Lorenz96(), 4, 5)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        run.save(tmp_path / "run.pkl")
    run.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"abc")
    with pytest.raises(ValueError, match="is damaged"):
        sc.resume(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="truncated"):
        sc.resume(path)
    path.write_bytes(b"my own notes")
    with pytest.raises(ValueError, match="only what Scorda wrote"):
        run.save(path)
    write_tensors(path, {"weight": torch.zeros(2)}, {"kind": "prior"})
    for act in (run.save, sc.resume):
        with pytest.raises(ValueError, match="holds no run of a filter, but 'prior'"):
            act(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        sc.resume(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("step", -1, "step"),
        ("streams", ["x"], "streams"),
        ("method", {"name": "os:system", "settings": {}}, "method os:system"),
        ("method", {"name": "ETKF", "settings": {"inflation": "a"}}, "give method="),
        ("method", {"name": 3}, "method"),
        ("system", {"name": "ExecutableSystem", "settings": {}}, "give system="),
        ("system", {"name": "Lorenz96", "settings": {"forcing": 7.0}}, "give system="),
        ("system", {"name": "Lorenz96", "settings": []}, "system"),
    ],
)
def test_a_record_that_somebody_has_written_names_no_code(key, value, words, tmp_path):
    path = tmp_path / "run.safetensors"
    sc.ETKF().start(Lorenz96(), 4, 5).save(path)
    tensors, header = read_tensors(path)
    record = json.loads(header["run"]) | {key: value}
    write_tensors(path, tensors, header | {"run": json.dumps(record)})
    with pytest.raises(ValueError, match=words):
        sc.resume(path)


def test_a_run_is_continued_with_its_own_method_and_system_alone(tmp_path):
    path = tmp_path / "run.safetensors"
    sc.ETKF(inflation=1.1).start(Lorenz96(), 4, 5).save(path)
    with pytest.raises(ValueError, match="method ETKF, whose settings differ"):
        sc.resume(path, method=sc.ETKF())
    with pytest.raises(ValueError, match="system Lorenz96, whose settings differ"):
        sc.resume(path, system=Lorenz96(forcing=7.0))
    assert sc.resume(path, sc.ETKF(inflation=1.1), Lorenz96()).step == 0
