import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from scorda.assimilation.cycle import Cycle
from scorda.core.errors import ModelFailure
from scorda.core.space import StateSpace
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.store.identity import identity
from scorda.systems.executable import Executable
from scorda.systems.function import FunctionSystem
from scorda.systems.mapped import Mapped

# The mean of a member's restart file counts its steps, which no state holds.
PROGRAM = """
import pathlib, sys
import numpy as np

member, step, seed = map(int, sys.argv[1:])
print("member", member, "step", step)
restart = pathlib.Path("restart.txt")
age = int(restart.read_text()) if restart.exists() else 0
assert age == step, (age, step)
if member == 1 and step == 3 and pathlib.Path("../../fails").exists():
    sys.exit("no convergence")
restart.write_text(str(age + 1))
noise = np.random.default_rng(seed).normal(size=3)
np.save("forecast.npy", 0.9 * np.load("state.npy") + 0.1 * noise + age)
"""


def drawn(members, seed):
    return np.random.default_rng(seed).normal(size=(members, 3))


def in_python(x, *, member, step, seed):
    return 0.9 * x + 0.1 * np.random.default_rng(seed).normal(size=3) + step


def problem(step, **options):
    system = FunctionSystem(step, drawn, StateSpace((3,), 0.1), per_member=True)
    model = ObservationModel(Select([0]), std=torch.tensor(0.5))
    values = torch.zeros(2, 1)
    return Problem(Mapped(system, **options), Observations(model, [2, 4], values), 5)


@pytest.fixture
def executable(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), "{member}", "{step}", "{seed}"]
    return Executable(command, tmp_path / "members")


@pytest.mark.slow
def test_a_program_gives_the_bits_of_the_function_and_resumes_with_its_restart_files(executable):
    expected = list(EnKF().run(problem(in_python), 3, 0))
    found = list(EnKF().run(problem(executable), 3, 0))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.ensemble, b.ensemble)
    last = executable.folder / "member-000002" / "step-000005"
    assert (last / "output.txt").read_text() == "member 2 step 4\n"
    # As after a kill in the middle of a step.
    (last.parent / "step-000004.running").mkdir()
    again = list(EnKF().run(problem(executable), 3, 0, start=Cycle(3, found[3].ensemble)))
    assert torch.equal(again[-1].ensemble, expected[-1].ensemble)


@pytest.mark.slow
def test_a_program_that_fails_is_told_with_its_last_words_and_can_be_dropped(executable):
    executable.folder.mkdir()
    (executable.folder / "fails").touch()
    with pytest.raises(ModelFailure, match=r"member 1.*status 1 .*output.txt.*no convergence"):
        list(EnKF().run(problem(executable), 3, 0))
    assert (
        "no conv"
        in (executable.folder / "member-000001" / "step-000004.running" / "output.txt").read_text()
    )
    with pytest.warns(UserWarning, match="member 1 is dropped"):
        last = list(EnKF().run(problem(executable, on_failure="drop"), 3, 0))[-1]
    assert last.ensemble.isnan().all(1).tolist() == [False, True, False]


def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path):
    """Folders of steps are replaced and removed, so they must be Scorda's."""
    mine = tmp_path / "member-000000" / "step-000001"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years")
    step = Executable(["true"], tmp_path)
    with pytest.raises(FileExistsError, match="member-000000 holds what Scorda did not write"):
        step(np.zeros(3), member=0, step=0, seed=1)
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["thesis.txt"]


def test_a_program_that_takes_too_long_is_killed_with_what_it_has_started(tmp_path):
    step = Executable(["sh", "-c", "sleep 61.7 & wait"], tmp_path)
    system = FunctionSystem(step, drawn, StateSpace((3,), 0.1), per_member=True)
    begin = time.monotonic()
    with pytest.raises(ModelFailure, match=r"member 0: .*more"):
        Mapped(system, timeout=0.2).step(torch.zeros(1, 3), 0)
    assert time.monotonic() - begin < 5
    time.sleep(0.1)
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 61.7" not in found


CLIENT = """
import numpy as np
from scorda.systems.executable import Executable

Executable(["sh", "-c", "sleep 62.3 & sleep 62.3; wait"], "members")(
    np.zeros(3), member=0, step=0, seed=0
)
"""


def sleeping(seconds):
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return found.splitlines().count(f"sleep {seconds}")


def wait_for(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_program_ends_with_a_client_that_is_killed(tmp_path):
    client = subprocess.Popen([sys.executable, "-c", CLIENT], cwd=tmp_path)
    wait_for(lambda: sleeping(62.3) == 2)
    client.kill()
    client.wait()
    wait_for(lambda: sleeping(62.3) == 0)


def test_a_relative_folder_is_that_of_the_client(tmp_path, monkeypatch):
    """A worker may run elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "members" / "start").mkdir(parents=True)
    (tmp_path / "members" / "start" / "grid").write_text("g")
    monkeypatch.chdir(tmp_path)
    packed = pickle.dumps(Executable(["cp", "state.npy", "forecast.npy"], "members"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    step = pickle.loads(packed)
    step(np.zeros(3), member=0, step=0, seed=0)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "members" / "member-000000" / "step-000001" / "grid").exists()


def test_a_run_may_be_moved_with_its_folder_of_members(tmp_path, monkeypatch):
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        found.append(identity(system=Executable(["true"], "members"))["sha256"])
    assert found[0] == found[1]
    assert identity(system=Executable(["true"], "others"))["sha256"] != found[0]


def test_restart_files_begin_with_those_of_start_and_old_ones_go(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "grid").write_text("g")
    step = Executable(["cp", "state.npy", "forecast.npy"], tmp_path, keep=2)
    x = np.arange(3.0)
    for k in range(4):
        assert np.array_equal(step(x + k, member=7, step=k, seed=0), x + k)
    home = tmp_path / "member-000007"
    assert sorted(p.name for p in home.iterdir()) == ["member.json", "step-000003", "step-000004"]
    assert (home / "step-000004" / "grid").read_text() == "g"
    with pytest.raises(FileNotFoundError, match="restart files of member 7"):
        step(x, member=7, step=1, seed=0)


def test_a_program_that_leaves_no_state_is_told_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"left no .*forecast.npy"):
        Executable(["true"], tmp_path)(np.zeros(3), member=0, step=0, seed=0)
