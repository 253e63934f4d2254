"""How a command ends: what it says, its status, and what it leaves."""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from scorda.cli import main
from scorda.cli.common import make_system

SOURCE = Path(__file__).parents[2] / "src"
TABLE = "time,variable,value,std\n0.1,x,1,1\n0.2,x,1,1\n"
RUN = "assimilate --observations o.csv --system lorenz63 --members 4 --threads 1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("o.csv").write_text(TABLE)
    return tmp_path


def started(folder, *arguments, **more):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    environment |= more.pop("env", {})
    command = [sys.executable, "-m", "scorda", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, **(pipes | more))


def raised(monkeypatch, error):
    """Have the command `assimilate` raise an error in the middle of a library."""

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("scorda.store.run", fail)


def said(capsys, command, status):
    assert main(command.split()) == status
    text = capsys.readouterr().err
    assert text.startswith("scorda: ") and text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 7.45 GiB for an array"), ["7.45 GiB", "--members"]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                         "8000000000 bytes."),
            ["7.45 GiB", "--unit"],
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), ["2.00 GiB"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["run.zarr", "--resume goes on"]),
        (OSError(errno.EDQUOT, "Quota", "/d/.a.nc.00ff.partial"), ["/d/a.nc", "no room"]),
        (PermissionError(errno.EACCES, "Permission denied", "w.nc"), ["w.nc", "may not be"]),
        (OSError("Unable to write (errno = 28, error message = 'No space')"), ["no room"]),
        (RuntimeError("Can't decrement id ref count (errno = 27, 'File too large')"), ["no room"]),
        (ImportError("libx.so: failed to map segment from shared object"), ["does not hold"]),
        (RuntimeError("can't start new thread"), ["ulimit -u"]),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), ["ulimit -u"]),
        (BlockingIOError(errno.EAGAIN, "unable to lock file, errno = 11"), ["to lock file"]),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_sentence(folder, monkeypatch, capsys, error, words):
    raised(monkeypatch, error)
    text = said(capsys, f"{RUN} --out run.zarr", 2)
    assert all(word in text for word in words), text


def test_an_unforeseen_error_leaves_its_traceback(folder, monkeypatch, capsys):
    # Scorda's own code meets what it does not expect.
    monkeypatch.setattr("scorda.cli.console.HEADINGS", None)
    text = said(capsys, RUN, 1)
    assert "unforeseen" in text and "TypeError" in text and "report" in text
    (left,) = folder.glob("scorda-error-*.txt")
    assert str(left.name) in text and "Traceback" in left.read_text()


def test_debug_shows_where_a_mistake_was_found(folder, capsys):
    assert main(["assimilate", "--debug", "--system", "lorenz63"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("a file of observations.\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--members 2.5", "whole number"),
        ("--members 1e3", "whole number"),
        ("--seed -1", "not be negative"),
        ("--threads 0", "at least 1"),
        ("--std nan", "give a number"),
        ("--inflation nan", "give a number"),
        ("--netcdf no/a.nc", "make its folder first"),
        ("--out o.csv/run.zarr", "no folder"),
        ("--system.sigma x", "give a number"),
        ("--system.sigma 1" + 400 * "0", "below 1e308"),
    ],
)
def test_settings_that_cannot_work_fail_before_the_run(folder, capsys, unchecked, flags, words):
    usual = {"--members": "4", "--threads": "1"} | dict([flags.split()])
    run = RUN.partition(" --members")[0]
    command = " ".join([run, *(f"{flag} {value}" for flag, value in usual.items())])
    assert words in said(capsys, command, 2)
    assert os.listdir(folder) == ["o.csv"]


def test_an_empty_text_is_no_setting(folder, capsys):
    assert main([*RUN.split(), "--start", ""]) == 2
    assert "give a value" in capsys.readouterr().err


def test_a_method_in_a_file_of_settings_is_a_name_or_a_table(folder, capsys):
    Path("c.toml").write_text("method = 1\n")
    assert "method = 1: give its name, or a table" in said(capsys, f"{RUN} --config c.toml", 2)


@pytest.mark.parametrize(
    ("names", "shape", "command"),
    [
        (["x"], (8, 10**9), "train --data f.nc --quick --out p.safetensors"),
        (["x"], (2**40,), "analyse --ensemble f.nc --predicted f.nc --observations o.csv"),
        (["time", "value"], (2**40,), RUN.replace("o.csv", "f.nc")),
    ],
)
def test_what_is_too_large_is_refused_by_its_size(folder, capsys, names, shape, command):
    """Sparse files, of which almost nothing is on the disk: fields, and a table."""
    with h5py.File("f.nc", "w") as file:
        for name in names:
            file.create_dataset(name, shape=shape, dtype="f4", chunks=True)
    text = said(capsys, command, 2)
    assert str(math.prod(shape)) in text and "at most 268435456" in text


def test_a_mistyped_time_starts_no_run(folder, capsys):
    Path("o.csv").write_text("time,variable,value,std\n400,x,1,1\n400.1,x,1,1\n")
    text = said(capsys, RUN, 2)
    assert "of step 16000, at the time 400" in text and "--steps 16004" in text


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(tmp_path):
    done = started(tmp_path, "methods")
    done.stdout.close()
    assert done.stderr.read() == b"" and done.wait() == 141


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["20", "200"])
def test_output_is_ascii_where_nothing_else_can_be(tmp_path, columns):
    plain = {"PYTHONIOENCODING": "ascii", "LANG": "C", "TERM": "dumb", "COLUMNS": columns}
    for command in ("methods", "methods letkf", "--help"):
        done = started(tmp_path, *command.split(), env=plain)
        out, err = done.communicate()
        assert done.returncode == 0 and err == b"" and out.isascii()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [1, 2])
def test_closed_streams_leave_the_status(tmp_path, closed):
    for command, status in (("methods", 0), ("methids", 2)):
        done = started(tmp_path, command, preexec_fn=lambda: os.close(closed))
        done.communicate()
        assert done.returncode == status


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_at_any_moment(tmp_path, number):
    """Before, during and after the imports; in the run it says how far that is."""
    (tmp_path / "o.csv").write_text(TABLE + "".join(f"{k},x,1,1\n" for k in range(1, 300)))
    run = [*RUN.split(), "--unit", "20", "--overwrite"]
    for moment in (0.4, 1.3):
        process = started(tmp_path, *run)
        time.sleep(moment)
        process.send_signal(number)
        err = process.communicate()[1].decode()
        # The interpreter itself, before it runs the command, dies of the signal.
        assert process.returncode in (128 + number, -number), err
        assert "Traceback" not in err or "scorda/cli" not in err
    process = started(tmp_path, *run)
    while not (tmp_path / ".run.zarr.progress" / "unit-000001.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate()[1].decode()
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert process.returncode == 128 + number
    assert err.startswith(f"scorda: {word} at step ") and err.endswith("`--resume` continues.\n")


def test_whole_numbers_stand_for_others_of_any_size():
    assert type(make_system("lorenz96", {"forcing": "9", "dim": "6"}).forcing) is float
    assert make_system("lorenz96", {"forcing": 10**25}).forcing == 1e25
    assert make_system("lorenz96", {"dim": "6"}).dim == 6


def test_how_several_values_are_given_is_told(folder, capsys):
    assert main(f"{RUN} --method esmda --alphas 2,2".split()) == 2
    assert "Give several values apart by blanks." in capsys.readouterr().err
    assert main(f"{RUN} --method esmda --alphas 2 2".split()) == 0
