"""What Scorda did not write stays, and a stopped training goes on with its own inputs."""

import os
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
import xarray

import scorda
from scorda.cli import main
from scorda.core.lock import locked
from scorda.core.ownership import made_by_scorda
from scorda.diffusion.checkpoint import Checkpoint
from scorda.report import Record, add_record

SIMULATE = "simulate lorenz96 --system.dim 8 --steps 4 --every 2 --threads 1 --out sim"
TRAIN = "train --system lorenz63 --quick --width 4 --blocks 0 --segment 9 --threads 1"
FIELDS = "train --data t.nc --quick --width 4 --corrected 2 --segment 5 --threads 1"
NETWORK = (
    "train --prior gaussian --system lorenz96 --system.dim 8 --axis site --quick --threads 1 "
    "--training.width 4 --members 8"
)
ANALYSE = "analyse --ensemble e.nc --predicted p.nc --observations o.csv"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failed(capsys, command):
    """The one sentence that a command ends with."""
    capsys.readouterr()
    assert main(command.split()) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in error
    return error


def listed():
    return sorted(str(p) for p in Path().rglob("*"))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (SIMULATE, "sim/truth.nc"),
        (SIMULATE, "sim/observations.csv"),
        (SIMULATE, "sim/simulate.toml"),
        (TRAIN, "prior.safetensors"),
        (TRAIN, "prior.toml"),
        (TRAIN, "prior.checkpoint"),
        (NETWORK, "network.safetensors"),
        (NETWORK, "network.checkpoint"),
        (ANALYSE, "analysis.nc"),
        ("assimilate --observations o.csv --system lorenz63 --netcdf my.nc", "my.nc"),
        ("bench lorenz96-sakov --quick --out b", "b/lorenz96-sakov-quick.csv"),
        ("bench lorenz96-sakov --quick --out b", "b/lorenz96-sakov-quick.runs.csv"),
    ],
)
def test_a_foreign_file_is_refused_before_any_work(capsys, command, name):
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    overwrites = command.split()[0] not in ("assimilate", "bench")
    for content in ("years of work", ""):
        file.write_text(content)
        for more in ("", " --overwrite") if overwrites else ("",):
            said = failed(capsys, command + more)
            assert file.name in said and "only what Scorda wrote is replaced" in said
            assert file.read_text() == content
    assert set(listed()) <= {name, name.split("/")[0]}


def test_a_twin_replaces_its_own_files_alone(capsys):
    assert main(SIMULATE.split()) == 0
    names = ["observations.csv", "simulate.toml", "truth.nc"]
    assert sorted(os.listdir("sim")) == names
    assert all(made_by_scorda(Path("sim", name)) for name in names)
    before = {name: Path("sim", name).read_bytes() for name in names}
    assert "already there" in failed(capsys, SIMULATE)
    assert main(f"{SIMULATE} --overwrite".split()) == 0
    assert {name: Path("sim", name).read_bytes() for name in names} == before
    # Settings are read back with their mark, and an own file without its marked twin is foreign.
    assert main("simulate --config sim/simulate.toml --out again".split()) == 0
    assert Path("again/truth.nc").read_bytes() == before["truth.nc"]
    Path("sim/simulate.toml").unlink()
    assert "observations.csv" in failed(capsys, f"{SIMULATE} --overwrite")


def test_reports_and_galleries_keep_what_is_foreign():
    for name in ("r.gallery.json", "gallery.html"):
        Path(name).write_text("mine")
        with pytest.raises(ValueError, match="only what Scorda wrote"):
            add_record(".", Record("r", "Title", "scorda bench r", {}, {}))
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    for _ in range(2):
        add_record(".", Record("r", "Title", "scorda bench r", {}, {}))
    assert made_by_scorda("r.gallery.json") and made_by_scorda("gallery.html")


@pytest.mark.slow
def test_a_report_and_a_netcdf_file_keep_what_is_foreign(capsys):
    assert main(SIMULATE.split()) == 0
    run = "assimilate --system lorenz96 --system.dim 8 --members 6 --method enkf --threads 1"
    run += " --observations sim/observations.csv"
    assert main(f"{run} --netcdf a.nc".split()) == 0
    assert made_by_scorda("a.nc") and not list(Path().glob("*.partial"))
    posterior = scorda.open_posterior("run.zarr")
    Path("b.nc").write_text("mine")
    Path("link.nc").symlink_to("a.nc")
    with pytest.raises(ValueError, match="only what Scorda wrote"):
        posterior.to_netcdf("b.nc")
    posterior.to_netcdf("link.nc")
    assert Path("link.nc").is_symlink() and not Path("a.nc").is_symlink()
    Path("page.html").write_text("<!doctype html>\n<p>mine</p>")
    assert "page.html" in failed(capsys, "report run.zarr --out page.html")
    for _ in range(2):
        assert main("report run.zarr --out mine.html".split()) == 0
    assert made_by_scorda("mine.html")


class Killed(BaseException):
    pass


def stop_after(monkeypatch, writes):
    """Save after every step, and stop when so many checkpoints are there."""
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("scorda.diffusion.training.clock.monotonic", lambda: float(next(ticks)))
    write, count = Checkpoint.write, [0]

    def writing(self, tensors, header):
        write(self, tensors, header)
        count[0] += 1
        if count[0] == writes:
            raise Killed

    monkeypatch.setattr(Checkpoint, "write", writing)


def record():
    values = np.random.default_rng(0).normal(280, 2, (60, 4, 5)).astype("f4")
    times = np.datetime64("2020-01-01", "ns") + np.arange(60) * np.timedelta64(1, "h")
    data = {"t": (("time", "y", "x"), values, {"units": "K"})}
    return xarray.Dataset(data, {"time": times, "y": np.arange(4.0), "x": np.arange(5.0)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "settings"),
    [(TRAIN, "prior", True), (FIELDS, "prior", True), (NETWORK, "network", False)],
)
def test_a_stopped_training_leaves_the_bytes_of_one_that_was_not(
    capsys, monkeypatch, command, name, settings
):
    record().to_netcdf("t.nc", engine="h5netcdf")
    expected = {"w.safetensors", *(["w.toml"] if settings else [])}
    assert main(f"{command} --out whole/w.safetensors".split()) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Killed):
            main(f"{command} --out part/w.safetensors".split())
    assert os.listdir("part") == ["w.checkpoint"]
    assert "already begun" in failed(capsys, f"{command} --out part/w.safetensors")
    assert main(f"{command} --out part/w.safetensors --resume".split()) == 0
    assert set(os.listdir("part")) == expected
    weights = Path("whole/w.safetensors").read_bytes()
    assert Path("part/w.safetensors").read_bytes() == weights
    # Nothing is written of a complete one, not even a lock.
    before = Path("part").stat().st_mtime_ns
    assert main(f"{command} --out part/w.safetensors --resume".split()) == 0
    assert "is complete" in capsys.readouterr().out
    assert Path("part").stat().st_mtime_ns == before
    # But one that was killed at its very end may have left its lock.
    Path("part/.w.safetensors.lock").touch()
    assert main(f"{command} --out part/w.safetensors --resume".split()) == 0
    assert set(os.listdir("part")) == expected


@pytest.mark.slow
def test_a_training_goes_on_with_the_inputs_of_its_start_alone(capsys, monkeypatch):
    record().to_netcdf("t.nc", engine="h5netcdf")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Killed):
            main(FIELDS.split())
    original = Path("t.nc").read_bytes()
    (record() + 1.0).to_netcdf("t.nc", engine="h5netcdf")
    assert "differs in the t.nc" in failed(capsys, f"{FIELDS} --resume")
    Path("t.nc").write_bytes(original)
    assert "differs in seed" in failed(capsys, f"{FIELDS} --resume --seed 1")
    with monkeypatch.context() as patch:
        patch.setattr("scorda.store.identity.__version__", "0.0.9")
        assert "the version of Scorda (0.1.0" in failed(capsys, f"{FIELDS} --resume")
    assert main(f"{FIELDS} --resume".split()) == 0
    (record() + 1.0).to_netcdf("t.nc", engine="h5netcdf")
    assert "differs in the t.nc" in failed(capsys, f"{FIELDS} --resume")
    Path("t.nc").write_bytes(original)
    whole = Path("prior.safetensors").read_bytes()
    Path("prior.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "prior.safetensors is damaged" in failed(capsys, f"{FIELDS} --resume")
    Path("prior.safetensors").write_bytes(whole[:-40])
    assert "prior.safetensors is truncated" in failed(capsys, f"{FIELDS} --resume")


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (TRAIN, "prior.safetensors"),
        (NETWORK, "network.safetensors"),
        (SIMULATE, "sim"),
        ("assimilate --system lorenz63 --out run.zarr --observations no.csv", "run.zarr"),
        ("train --data no.nc --out prior.safetensors", "prior.safetensors"),
        # That there is a file is asked first; this one is none of observations.
        (f"compare --observations {__file__} --out c.html", "c.html"),
        (f"tune --observations {__file__} --grid inflation=1,1.1 --out t.toml", "t.toml"),
    ],
)
def test_one_output_has_one_writer(capsys, command, out):
    """Who comes second is refused before the input is read, which takes its time."""
    with locked_by_another(out):
        assert "is being written by" in failed(capsys, command)
    assert listed() == []


@contextmanager
def locked_by_another(out):
    """Hold a lock in a context of its own: in this one it would not be asked for again."""
    lock, other = locked(out), copy_context()
    other.run(lock.__enter__)
    yield
    other.run(lock.__exit__, None, None, None)


DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "flipped": lambda whole: whole[:-99] + bytes([whole[-99] ^ 1]) + whole[-98:],
    "header": lambda whole: whole.replace(b'"step', b'"stop', 1),
    # Nothing says any more that these are Scorda's.
    "mark": lambda whole: b"\xff" + whole[9:],
    "beginning": lambda whole: whole[:20],
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"my thesis",
}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), [(TRAIN, "prior"), (NETWORK, "network")])
def test_a_damaged_checkpoint_is_told_and_replaced_where_it_is_ours(
    capsys, monkeypatch, command, name
):
    assert main(f"{command} --out whole/w.safetensors".split()) == 0
    expected = Path("whole/w.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Killed):
            main(f"{command} --out part/w.safetensors".split())
    path = Path("part/w.checkpoint")
    whole = path.read_bytes()
    for kind, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        said = failed(capsys, f"{command} --out part/w.safetensors --resume")
        if kind in ("cut", "flipped", "header"):
            assert "part/w.checkpoint is " in said and "delete it, or use --overwrite" in said
            flags = "--resume --overwrite" if kind == "cut" else "--overwrite"
            assert main(f"{command} --out part/w.safetensors {flags}".split()) == 0
            assert Path("part/w.safetensors").read_bytes() == expected
            assert not path.exists()
            Path("part/w.safetensors").unlink()
        else:
            assert "only what Scorda wrote is replaced" in said and "or move it away" in said
            failed(capsys, f"{command} --out part/w.safetensors --overwrite")
            assert path.read_bytes() == damage(whole)
