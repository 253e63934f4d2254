"""The commands: real processes for the way in, the same function in this process for the rest."""

import csv
import importlib
import inspect
import io
import json
import math
import os
import pkgutil
import runpy
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import xarray
from cyclopts import App, Parameter

import scorda
from scorda.assimilation.base import Assimilator
from scorda.assimilation.free import Forecast
from scorda.cli import catalogue, main
from scorda.cli.catalogue import settings_class
from scorda.cli.settings import flags_of, to_toml
from scorda.core import rng
from scorda.methods.sda import WindowForecast

EVERY = Parameter(name="*")
SOURCE = Path(__file__).parents[2] / "src"


def scorda_process(*arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "scorda", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A folder with a short simulation of Lorenz-63 in it."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate --steps 24 --every 4 --observe x --std 0.5 --out sim".split()) == 0
    return tmp_path


def failed(capsys, command):
    """The one sentence that a command ends with after a mistake of the caller."""
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("scorda: ") and "Traceback" not in error
    return error


ASSIMILATE = "assimilate --observations sim/observations.csv --system lorenz63 --members 12"


@pytest.mark.slow
def test_from_simulation_to_report_in_processes_of_their_own(tmp_path):
    done = scorda_process(
        *"simulate --system lorenz96 --system.dim 8 --steps 12 --every 3 --out sim".split(),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    command = "assimilate --observations sim/observations.csv --truth sim/truth.nc"
    command += " --system lorenz96 --system.dim 8 --method etkf --rotation --members 10"
    done = scorda_process(*command.split(), "--out", "run.zarr", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RMSE" in done.stdout and "past data only" in done.stdout and done.stderr == ""
    done = scorda_process("report", "run.zarr", folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000
    done = scorda_process(*command.split(), "--metod", "enkf", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "scorda: Unknown option: --metod. Did you mean --method?\n"


@pytest.mark.slow
def test_version_and_help_are_printed(tmp_path):
    done = scorda_process("--version", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == scorda.__version__
    done = scorda_process("assimilate", "--help", folder=tmp_path)
    assert done.returncode == 0 and "Number of members" in done.stdout


@pytest.mark.slow
def test_anything_unexpected_ends_with_one(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import scorda\ndef make() -> scorda.systems.System:\n    raise RuntimeError('inside')\n"
    )
    (tmp_path / "o.csv").write_text("time,value,std\n1,1,1\n")
    command = "assimilate --observations o.csv --system broken:make"
    done = scorda_process(*command.split(), folder=tmp_path)
    assert done.returncode == 1 and "RuntimeError: inside" in done.stderr


@pytest.mark.slow
def test_simulate_writes_truth_table_and_settings(simulated):
    with xarray.open_dataset("sim/truth.nc") as truth:
        assert list(truth) == ["x", "y", "z"] and truth.sizes == {"time": 25}
        x = truth["x"].values
    rows = list(csv.DictReader(open("sim/observations.csv")))
    assert [float(row["time"]) for row in rows] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    errors = np.array([float(row["value"]) for row in rows]) - x[4::4]
    assert 0.05 < errors.std() < 1.5
    settings = tomllib.loads(Path("sim/simulate.toml").read_text())
    assert settings["observe"] == ["x"] and settings["system"] == {"name": "lorenz63"}


@pytest.mark.slow
def test_a_simulation_is_made_again_from_its_settings(simulated):
    before = Path("sim/observations.csv").read_bytes()
    assert main("simulate --config sim/simulate.toml --out again".split()) == 0
    assert Path("again/observations.csv").read_bytes() == before


def test_stations_and_strides_choose_what_is_observed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, count in (("--stride 3", 4), ("--stations 5", 5)):
        command = f"simulate --system lorenz96 --system.dim 10 --steps 2 --every 2 {flags}"
        command += " --overwrite"
        assert main(command.split()) == 0
        assert len(list(csv.DictReader(open("simulation/observations.csv")))) == count


@pytest.mark.slow
def test_a_run_is_that_of_the_library_and_is_made_again_from_its_settings(simulated):
    command = f"{ASSIMILATE} --inflation 1.05 --seed 3 --threads 1 --out a.zarr"
    assert main(command.split()) == 0
    observations = scorda.Observations.from_table(
        "sim/observations.csv", scorda.systems.Lorenz63().space
    )
    problem = scorda.Problem(scorda.systems.Lorenz63(), observations, 24)
    expected = scorda.EnKF(1.05).assimilate(problem, 12, rng.seeded(3))
    posterior = scorda.open_posterior("a.zarr")
    assert torch.equal(posterior.analysis.states, expected.states)
    assert posterior.configuration["method"] == {"name": "enkf", "inflation": 1.05}
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    metadata = [(Path(name) / "zarr.json").read_bytes() for name in ("a.zarr", "b.zarr")]
    assert metadata[0] == metadata[1]


@pytest.mark.slow
def test_flags_win_over_the_file(simulated):
    Path("run.toml").write_text(
        'observations = ["sim/observations.csv"]\nmembers = 10\nseed = 5\n'
        '[system]\nname = "lorenz63"\nnoise_std = 0.2\n'
        '[method]\nname = "etkf"\nrotation = true\ninflation = 1.1\n'
    )
    assert main("assimilate --config run.toml --members 8 --inflation 1.2".split()) == 0
    configuration = scorda.open_posterior("run.zarr").configuration
    assert configuration["members"] == 8 and configuration["seed"] == 5
    assert configuration["method"] == {"name": "etkf", "inflation": 1.2, "rotation": True}
    assert configuration["system"]["noise_std"] == "0.2"


@pytest.mark.slow
def test_withheld_observations_are_scored_and_not_used(simulated, capsys):
    command = f"{ASSIMILATE} --withhold 0.4 --withhold-seed 1 --truth sim/truth.nc --netcdf a.nc"
    assert main(command.split()) == 0
    assert "chi²" in capsys.readouterr().out
    posterior = scorda.open_posterior("run.zarr")
    held = posterior.group("withheld").sizes["observation"]
    assert held > 0 and held + posterior.observations.sizes["observation"] == 6
    assert Path("a.nc").exists()


@pytest.mark.slow
def test_quick_tries_few_members_on_a_part(simulated):
    assert main([*ASSIMILATE.replace("12", "40").split(), "--quick"]) == 0
    assert scorda.open_posterior("run.zarr").to_xarray().sizes == {"ensemble": 16, "time": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("assimlate", "Did you mean"),
        ("assimilate --system lorenz63", "Give --observations"),
        ("assimilate --observations sim/observations.csv", "Give --system"),
        (f"{ASSIMILATE} --method enkff", "did you mean 'enkf'"),
        (f"{ASSIMILATE} --inflaton 1.1", "Did you mean --inflation"),
        (
            f"{ASSIMILATE} --inflation much",
            "choose adaptive, additive, multiplicative, rtpp, rtps",
        ),
        (f"{ASSIMILATE} --inflation 0.5", "at least 1"),
        (f"{ASSIMILATE} --method particle-filter --scheme some", '"systematic", "multinomial"'),
        (f"{ASSIMILATE} --localization 4", "Methods that can do without"),
        (f"{ASSIMILATE} --dtype float16", "float32 or float64"),
        (f"{ASSIMILATE[:-2]}0", "Got --members 0"),
        ("demo --members 0", "Got --members 0"),
        (
            "assimilate --observations far.csv --prior lorenz63 --method sda --members 2",
            "far from the climate of",
        ),
        (f"{ASSIMILATE} --withhold 2", "between 0 and 1"),
        (f"{ASSIMILATE} --truth nothing.nc", "There is no file or store nothing.nc"),
        (f"{ASSIMILATE} --out run.nc", r"end in .zarr"),
        (f"{ASSIMILATE} --method sda", "sda needs --prior"),
        (f"{ASSIMILATE} --method letkf", "letkf needs --localization"),
        (f"{ASSIMILATE} --prior p.safetensors", "takes no --prior"),
        (f"{ASSIMILATE} --method masf --prior lorenz63", "Unknown value of --prior"),
        (f"{ASSIMILATE} --method masf --prior mixtur", "did you mean 'mixture'"),
        (
            f"{ASSIMILATE} --method masf --prior local-gaussian",
            "local-gaussian needs --prior.localization",
        ),
        (
            f"{ASSIMILATE} --method masf --prior local-gaussian --prior.blok 2",
            "Did you mean --prior.block",
        ),
        (
            f"{ASSIMILATE} --method published-masf --sampler.prior-scale 1 2",
            "requires 3",
        ),
        (f"{ASSIMILATE} --method masf --prior json:JSONDecoder", "derived from EnsemblePrior"),
        (f"{ASSIMILATE} --method json:JSONDecoder", "derived from Assimilator"),
        (f"{ASSIMILATE} --method nowhere:Filter", "Could not import 'nowhere'"),
        (f"{ASSIMILATE} --config code.toml", "Could not import 'nowhere'"),
        ("assimilate --observations far.csv --method masf", "Give --system"),
        (
            "assimilate --observations far.csv --method masf --prior gaussian",
            "Give --system, the model: the method 'masf' needs one",
        ),
        (f"{ASSIMILATE} --config nothing.toml", "There is no file nothing.toml"),
        (f"{ASSIMILATE} --config bad.toml", "no TOML file"),
        (f"{ASSIMILATE} --config typo.toml", "Did you mean --members"),
        ("assimilate --observations no.csv --system lorenz63", "There is no file or store no.csv"),
        ("assimilate --observations sim/observations.csv --system lorenz64", "Unknown system"),
        ("report", "at least one store"),
        ("report nothing.zarr", "There is no nothing.zarr"),
        ("bench lorenz63-sakof", "did you mean 'lorenz63-sakov'"),
        ("bench lorenz63-sakov --prior x.safetensors", "uses no prior"),
        ("train", "either --system"),
        ("train --data nothing.nc", "There is no file or store nothing.nc"),
        ("train --system lorenz63 --modes 3", "goes with --data of fields only"),
        ("train --system lorenz63 --out p.pt", "end in .safetensors"),
        ("train --system lorenz63 --architecture unet", "two periodic axes"),
        ("train --system lorenz63 --architecture ring-conv", "one periodic axis of equal steps"),
        ("train --system lorenz63 --device tpu", "cpu or cuda"),
        ("methods enkff", "did you mean 'enkf'"),
        ("simulate --observe w", "Unknown variable 'w'"),
        ("simulate --std -1", "std"),
    ],
)
def test_mistakes_end_with_one_sentence_and_leave_nothing(simulated, capsys, command, words):
    Path("bad.toml").write_text("members = = 3")
    Path("typo.toml").write_text("membrs = 3")
    Path("code.toml").write_text('method = {name = "masf", prior = {name = "nowhere:Prior"}}')
    Path("far.csv").write_text("time,variable,value,std\n0,x,5000,1\n0.025,x,5000,1\n")
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert words in failed(capsys, command)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_a_taken_name_is_refused_and_an_interrupted_run_is_resumed(simulated, capsys):
    assert main(ASSIMILATE.split()) == 0
    assert "--resume" in failed(capsys, ASSIMILATE)
    assert main([*ASSIMILATE.split(), "--resume"]) == 0
    assert main([*ASSIMILATE.split(), "--overwrite", "--seed", "9"]) == 0
    assert scorda.open_posterior("run.zarr").configuration["seed"] == 9


BLOW_UP = """
import torch
from scorda import systems


class Fragile(systems.Lorenz63):
    steps = 0

    def prior(self, members, generator=None):
        x = super().prior(members, generator)
        self.steps = 0
        return x

    def step(self, x, generator=None):
        self.steps += 1
        x = super().step(x, generator)
        if self.steps > 13:
            x[5] = float("inf")
        return x


def make() -> Fragile:
    return Fragile(spinup=0.25)
"""


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_three_and_stays_readable(simulated, capsys):
    """Member 5 in step 14, between the analyses of steps 12 and 16."""
    Path("fragile.py").write_text(BLOW_UP)
    command = ASSIMILATE.replace("lorenz63", "fragile:make")
    assert main(f"{command} --truth sim/truth.nc --unit 4".split()) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "EnKF stopped at step 14 (cycle 3): 1 of 12 members" in error and "member 5" in error
    assert error.endswith("run.zarr.\n")
    posterior = scorda.open_posterior("run.zarr")
    assert posterior.analysis.states.shape == (12, 14, 3)
    assert posterior.analysis.states.isfinite().all()
    assert posterior.configuration == tomllib.loads(Path("run.zarr.toml").read_text()) | {
        "sha256": posterior.configuration["sha256"]
    }
    assert main(["report", "run.zarr"]) == 0
    assert "EnKF stopped at step 14" in Path("report.html").read_text()


@pytest.mark.slow
def test_a_truth_in_other_units_than_it_says_is_refused(simulated, capsys):
    with xarray.open_dataset("sim/truth.nc") as truth:
        (truth + 1000).to_netcdf("far.nc", engine="h5netcdf")
    command = "assimilate --observations sim/observations.csv --prior lorenz63 --method sda"
    assert main(f"{command} --members 2 --truth far.nc".split()) == 2
    assert "far.nc has x of" in capsys.readouterr().err and not Path("run.zarr").exists()


@pytest.mark.slow
def test_gross_errors_are_rejected_from_the_shell(simulated):
    """The third of six values of x is 200 standard deviations off."""
    rows = list(csv.DictReader(open("sim/observations.csv")))
    rows[2]["value"] = str(float(rows[2]["value"]) + 100)
    with open("sim/observations.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main(f"{ASSIMILATE} --method.gross-error-check 5 --gross-error-check off".split()) == 0
    posterior = scorda.open_posterior("run.zarr")
    assert posterior.info["report"]["rejected"] == [0, 0, 1, 0, 0, 0]
    assert posterior.configuration["method"]["gross_error_check"] == 5.0


TRAINING_FREE = {
    "ensf --form mixture --euler-steps 200 --scale spread --clip none": scorda.EnSF(
        "mixture", euler_steps=200, scale="spread", clip=None
    ),
    "closed-form-filter --relative-bandwidth 0.2 --draw coupled --observation-bandwidth 0.5"
    " --flow-tolerance 0.01": scorda.ClosedFormFilter(
        0.2, observation_bandwidth=0.5, draw="coupled", flow_tolerance=0.01
    ),
    "sf --prior gaussian --euler-steps 50": scorda.SF(scorda.priors.Gaussian(), euler_steps=50),
    "masf --prior mixture --prior.kernel-factor 0.2 --prior.gaussian-weight 0.05"
    " --inflation 1.02": scorda.MASF(scorda.priors.Mixture(0.2, 0.05), inflation=1.02),
    "ssls --prior online-network --prior.training.training-steps 5 --prior.training.width 8"
    " --prior.fine-tuning-steps 2 --langevin-steps 10": scorda.SSLS(
        scorda.priors.OnlineNetwork(
            training=scorda.priors.NetworkTraining(5, width=8), fine_tuning_steps=2
        ),
        langevin_steps=10,
    ),
    "score-filter --prior kernel --prior.std 0.3 --guidance mmps"
    " --guidance.iterations 1 --no-coupled --sampler ancestral --sampler.noise-levels 16"
    " --sampler.corrections 0": scorda.ScoreFilter(
        scorda.priors.Kernel(0.3),
        guidance=scorda.diffusion.MMPS(1),
        coupled=False,
        sampler=scorda.diffusion.Ancestral(16, corrections=0),
    ),
    "score-filter --no-coupled --sampler stochastic-multistep --sampler.noise-levels 16"
    " --sampler.corrections 0 --sampler.min-noise 0.005": scorda.ScoreFilter(
        coupled=False,
        sampler=scorda.diffusion.StochasticMultistep(16, corrections=0, min_noise=0.005),
    ),
    "closed-form-filter --relative-bandwidth likelihood": scorda.ClosedFormFilter("likelihood"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "method"), TRAINING_FREE.items(), ids=TRAINING_FREE.keys())
def test_training_free_filters_are_those_of_the_library(simulated, text, method):
    assert main(f"{ASSIMILATE} --seed 3 --threads 1 --method {text}".split()) == 0
    system = scorda.systems.Lorenz63()
    observations = scorda.Observations.from_table("sim/observations.csv", system.space)
    problem = scorda.Problem(system, observations, 24)
    expected = method.assimilate(problem, 12, rng.seeded(3))
    assert torch.equal(scorda.open_posterior("run.zarr").analysis.states, expected.states)


def test_methods_are_shown_with_what_they_need(capsys):
    assert main(["methods", "--table"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (kalman,) = (line for line in lines if line[:1] == ["kalman-filter"])
    assert kalman[1:] == ["linear-Gaussian", "linear", "no", "no"]
    (letkf,) = (line for line in lines if line[:1] == ["letkf"])
    assert letkf[1:] == ["simulator", "black", "box", "robust", "yes"]
    assert main(["methods", "--table", "--format", "csv"]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head[1] == "uses" and head[-1] == "N ≥" and all(len(r) == len(head) for r in rows)
    posteriors = {r[0]: r[head.index("posterior")] for r in rows}
    assert {name for name, of in posteriors.items() if of == "climatological"} == {"sda"}
    assert set(posteriors.values()) == {"climatological", "forecast"}
    assert main(["methods", "EnKF"]) == 0
    shown = capsys.readouterr().out
    assert "exact for: linear-Gaussian, N → ∞" in shown
    assert "--inflation  (default 1.0)" in shown and "--gross-error-check  (default None)" in shown


def test_methods_are_listed_in_a_sentence_each(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in catalogue.methods())
    assert "Deterministic ensemble Kalman filter." in out
    assert out.index("filters: past data") < out.index("letkf") < out.index("smoothers: all data")


@pytest.mark.slow
def test_the_list_read_from_the_files_is_that_of_the_classes():
    """A public class of `scorda.methods` that can be made declares `exact` in its own body."""
    kinds = [Assimilator]
    for module in pkgutil.walk_packages(scorda.methods.__path__, "scorda.methods."):
        importlib.import_module(module.name)
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    own = {k for k in kinds if k.__module__.startswith("scorda.") and k.__name__[0] != "_"}
    made = {kind for kind in own if not inspect.isabstract(kind)}
    # What `scorda forecast` runs; nobody names them.
    made -= {Forecast, WindowForecast}
    assert set(catalogue.methods().values()) == made
    for name, kind in catalogue.methods().items():
        assert catalogue.listed()[name].smoother == kind.smoother
        assert catalogue.listed()[name].module == kind.__module__


@pytest.mark.parametrize("name", catalogue.methods())
def test_a_method_is_described_without_latex(name, capsys):
    assert main(["methods", name]) == 0
    shown = capsys.readouterr().out
    assert "\\" not in shown and ":math:" not in shown and "{" not in shown.split("Settings")[0]


def test_the_documentation_and_the_public_names_are_those_of_the_methods():
    """After a change: make methods"""
    script = runpy.run_path(str(SOURCE.parent / "docs" / "methods.py"))
    for path, write in (("PAGE", "page"), ("NAMES", "names")):
        text = script[path].read_text(encoding="utf-8")
        assert script[write](text) == text, "run `make methods`"


@pytest.mark.slow
def test_masf_takes_the_prior_that_it_makes_of_its_ensemble(simulated, capsys):
    command = f"{ASSIMILATE} --method masf --prior kernel --prior.std 0.5"
    command += (
        " --sampler bridge-ode --sampler.noise-levels 5 --sampler.no-coupled --inflation 1.02"
    )
    command += " --seed 3 --threads 1 --out a.zarr"
    assert main(command.split()) == 0
    observations = scorda.Observations.from_table(
        "sim/observations.csv", scorda.systems.Lorenz63().space
    )
    problem = scorda.Problem(scorda.systems.Lorenz63(), observations, 24)
    sampler = scorda.diffusion.BridgeODE(5, coupled=False)
    method = scorda.MASF(scorda.priors.Kernel(0.5), sampler=sampler, inflation=1.02)
    expected = method.assimilate(problem, 12, rng.seeded(3))
    posterior = scorda.open_posterior("a.zarr")
    assert torch.equal(posterior.analysis.states, expected.states)
    settings = posterior.configuration["method"]
    assert settings["prior"] == {"name": "Kernel", "std": 0.5, "scale": "spread"}
    assert settings["sampler"]["name"] == "BridgeODE"
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    assert scorda.open_posterior("b.zarr").configuration == posterior.configuration
    capsys.readouterr()
    assert main(["methods", "masf"]) == 0
    described = capsys.readouterr().out
    flags = "--prior.localization --prior.block --prior.diagonal\n"
    assert f"--prior local-gaussian: {flags}" in described
    assert "--prior.patience" in described and "--prior.weights" not in described
    assert "--prior FILE.safetensors: AmortisedNetwork" in described
    assert main(["methods", "sda"]) == 0
    described = capsys.readouterr().out
    assert "dps: --guidance.zeta\n" in described and "gaussian-trajectory" not in described


def chosen(text):
    """The method that `assimilate` makes of flags."""
    made = []
    app = App(result_action="return_value")
    flags = flags_of(text.split())
    kind, make = settings_class(catalogue.find_method(flags["method"]), flags)

    @app.default
    def command(
        *, method: Annotated[str, "its name"], given: Annotated[kind | None, EVERY] = None
    ):
        made.append(make(given))

    app(text.split(), exit_on_error=False)
    return made[0]


PARTS = {
    "--method masf --prior online-network --prior.axis y x --prior.fine-tuning-steps 7"
    " --prior.base local-gaussian --prior.base.localization 4 --prior.base.block 2": scorda.MASF(
        scorda.priors.OnlineNetwork(
            ("y", "x"),
            scorda.priors.LocalGaussian(scorda.GaspariCohn(4.0), block=2),
            fine_tuning_steps=7,
        )
    ),
    "--method masf --prior online-network --prior.axis site": scorda.MASF(
        scorda.priors.OnlineNetwork("site")
    ),
    "--method masf --prior LocalGaussian --prior.localization.radius 4 --prior.diagonal=0.1": (
        scorda.MASF(scorda.priors.LocalGaussian(scorda.GaspariCohn(4.0), diagonal=0.1))
    ),
    "--method masf --prior.localization.radius 3": scorda.MASF(
        scorda.priors.Gaussian(scorda.GaspariCohn(3.0))
    ),
    # One setting of the sampler that is the default, and all else as there.
    "--method score-filter --sampler.corrections 1 --no-coupled": scorda.ScoreFilter(
        sampler=replace(scorda.ScoreFilter().sampler, corrections=1), coupled=False
    ),
    "--method enkf --localization none": scorda.EnKF(),
}


@pytest.mark.parametrize(("text", "method"), PARTS.items(), ids=PARTS)
def test_parts_are_chosen_by_name_and_set_by_flags_with_dots(text, method):
    assert chosen(text) == method


@pytest.mark.slow
def test_parts_of_a_file_are_tables(tmp_path, monkeypatch):
    """As `assimilate` writes them; another part on the command line drops the table."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate lorenz96 --system.dim 8 --steps 4 --every 4 --out sim".split()) == 0
    Path("a.toml").write_text(
        """
        observations = ["sim/observations.csv"]
        members = 6
        [system]
        name = "lorenz96"
        dim = 8
        [method]
        name = "masf"
        [method.prior]
        name = "OnlineNetwork"
        fine_tuning_steps = 2
        [method.prior.training]
        training_steps = 5
        width = 8
        [method.prior.base]
        name = "Gaussian"
        localization.radius = 9.0
        """
    )
    assert main("assimilate --config a.toml --out a.zarr".split()) == 0
    prior = scorda.open_posterior("a.zarr").configuration["method"]["prior"]
    assert (prior["name"], prior["fine_tuning_steps"]) == ("OnlineNetwork", 2)
    assert prior["training"].items() >= {"training_steps": 5, "width": 8, "seed": 0}.items()
    taper = {"name": "GaspariCohn", "radius": 9.0}
    assert prior["base"] == {"name": "Gaussian", "localization": taper}
    other = "assimilate --config=a.toml --prior kernel --prior.std 0.5 --out b.zarr"
    assert main(other.split()) == 0
    prior = scorda.open_posterior("b.zarr").configuration["method"]["prior"]
    assert prior == {"name": "Kernel", "std": 0.5, "scale": "spread"}


@pytest.mark.slow
def test_settings_of_a_method_that_the_command_has_too_are_named_with_it(simulated):
    """`tolerance` is one of matching times; that of 4D-Var is --method.tolerance, or its table."""
    command = f"{ASSIMILATE} --method fourdvar --iterations 2"
    assert main(f"{command} --method.tolerance 0.5 --system.noise_std 0.3".split()) == 0
    assert scorda.open_posterior("run.zarr").configuration["method"]["tolerance"] == 0.5
    assert main("assimilate --config run.zarr.toml --out b.zarr".split()) == 0
    assert scorda.open_posterior("b.zarr").configuration["method"]["tolerance"] == 0.5


def test_a_file_has_infinity_as_toml_does():
    assert tomllib.loads(to_toml({"radius": math.inf, "low": -math.inf, "x": 1.5})) == {
        "radius": math.inf,
        "low": -math.inf,
        "x": 1.5,
    }


@pytest.mark.slow
def test_a_setting_of_several_numbers_is_kept(tmp_path, monkeypatch):
    """Also in the file that repeats the run."""
    monkeypatch.chdir(tmp_path)
    assert main("simulate lorenz96 --steps 4 --every 4 --out sim".split()) == 0
    command = "assimilate --observations sim/observations.csv --system lorenz96 --members 5"
    command += " --method published-masf --out a.zarr --threads 1"
    command += " --sampler.noise-levels 5 --sampler.prior-scale 0.9 1.5 2"
    assert main(command.split()) == 0
    assert scorda.open_posterior("a.zarr").configuration["method"]["sampler"]["prior_scale"] == [
        0.9,
        1.5,
        2,
    ]
    assert main("assimilate --config a.zarr.toml --out b.zarr".split()) == 0
    assert (
        scorda.open_posterior("b.zarr").configuration
        == scorda.open_posterior("a.zarr").configuration
    )


@pytest.mark.slow
def test_a_trained_prior_serves_the_smoother(simulated, capsys):
    train = "train --system lorenz63 --quick --width 8 --blocks 1 --segment 17 --threads 1"
    assert main([*train.split(), "--out", "p.safetensors"]) == 0
    assert "validation" in capsys.readouterr().out
    command = "assimilate --observations sim/observations.csv --truth sim/truth.nc --method sda"
    command += " --prior p.safetensors --members 5 --unit 2 --threads 1"
    command += " --guidance mmps --guidance.iterations 1"
    command += " --sampler multistep --sampler.noise-levels 4 --sampler.corrections 0"
    assert main(command.split()) == 0
    posterior = scorda.open_posterior("run.zarr")
    assert posterior.smoother and posterior.analysis.states.shape == (5, 25, 3)
    assert posterior.configuration["method"]["sampler"]["noise_levels"] == 4
    assert main("assimilate --config run.zarr.toml --out b.zarr --unit 5".split()) == 0
    # Members in blocks of 2 and of 5: alike to rounding in single precision.
    torch.testing.assert_close(
        posterior.analysis.states,
        scorda.open_posterior("b.zarr").analysis.states,
        atol=1e-3,
        rtol=1e-4,
    )


@pytest.mark.benchmark
@pytest.mark.slow
def test_a_scenario_of_a_flow_leaves_pictures_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("bench kolmogorov-extrapolation --quick --out out".split()) == 0
    stem = "out/kolmogorov-extrapolation-quick.trajectories"
    text = Path("out/gallery.html").read_text()
    assert "scorda bench kolmogorov-extrapolation --quick" in text
    for ending, head in ((".png", b"\x89PNG"), (".gif", b"GIF8")):
        assert Path(stem + ending).read_bytes().startswith(head)
        assert Path(stem + ending).name in text
    assert "gallery" in capsys.readouterr().out


def test_a_benchmark_is_short_when_quick_and_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from dataclasses import replace

    from scorda.bench import filtering, problems

    small = problems.PROBLEMS["lorenz96-sakov"]()
    small = replace(small, entries=small.entries[:2])
    monkeypatch.setitem(problems.PROBLEMS, "lorenz96-sakov", lambda: small)
    monkeypatch.setattr(filtering, "QUICK_CYCLES", 3)
    assert main("bench lorenz96-sakov --quick".split()) == 0
    rows = list(csv.DictReader(open("bench/lorenz96-sakov-quick.csv")))
    labels = list(dict.fromkeys(row["entry"] for row in rows))
    assert labels == [entry.label for entry in small.entries]
    runs = Path("bench/lorenz96-sakov-quick.runs.csv")
    kept = runs.read_text().splitlines()[:2]
    runs.write_text("\n".join([kept[0], kept[1].replace(kept[1].split(",")[-1], "77.0")]) + "\n")
    assert main("bench lorenz96-sakov --quick --resume".split()) == 0
    rows = list(csv.DictReader(open("bench/lorenz96-sakov-quick.csv")))
    seconds = {row["entry"]: float(row["seconds"]) for row in rows}
    assert seconds[labels[0]] == 77 and seconds[labels[1]] < 77
    assert main(["bench", "lorenz96-sakov", "--quick", "--resume", "--only", labels[1]]) == 0
    rows = list(csv.DictReader(open("bench/lorenz96-sakov-quick.csv")))
    assert {row["entry"] for row in rows} == {labels[1]}
    assert {row["entry"] for row in csv.DictReader(open(runs))} == set(labels)
    assert main(["bench", "lorenz96-sakov", "--quick", "--only", labels[1]]) != 0
    assert "would be lost" in capsys.readouterr().err and runs.exists()
    assert main(["bench", "lorenz96-sakov", "--quick", "--only", "none"]) != 0
    assert "No row matches 'none'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_writes_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--quick", "--threads", "2"]) == 0
    out = capsys.readouterr().out
    assert "past data only" in out and "all data" in out and "W1" in out
    assert "report: demo/report.html" in out
    page = Path("demo/report.html").read_text()
    assert "Particle smoother" in page
    info = json.loads(Path("demo/enkf.zarr.json").read_text())
    assert info["seconds"] > 0 and info["client_peak_memory_mb"] > 0
