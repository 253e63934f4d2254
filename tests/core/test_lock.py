"""One output, one writer: in threads, in processes, and after a kill."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scorda.core.lock import check_unlocked, claimed, locked

HOLDER = """
import sys, time
from scorda.core.lock import locked

with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def holder(path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


def test_another_process_is_refused_at_once_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "run.zarr"
    process = holder(path)
    try:
        begin = time.monotonic()
        with pytest.raises(ValueError, match=rf"process {process.pid} of \S+, since 2"):
            with locked(path):
                pass
        assert time.monotonic() - begin < 1
        with pytest.raises(ValueError, match="being written"):
            check_unlocked(path)
        # A link names what it names.
        (tmp_path / "link.zarr").symlink_to(path)
        with pytest.raises(ValueError, match="being written"), locked(tmp_path / "link.zarr"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    file = tmp_path / ".run.zarr.lock"
    assert json.loads(file.read_text())["pid"] == process.pid
    with locked(path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert not file.exists()
    check_unlocked(path)
    assert not list(tmp_path.glob(".*"))


def test_threads_exclude_each_other(tmp_path):
    """Four threads add to one number, reading and writing it apart."""
    count, refused = [0], [0]

    def add():
        done = 0
        while done < 20:
            try:
                with locked(tmp_path / "a"):
                    now = count[0]
                    time.sleep(0.0001)
                    count[0] = now + 1
                    done += 1
            except ValueError:
                refused[0] += 1
                time.sleep(0.001)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == [80] and refused[0] > 0
    assert not list(tmp_path.iterdir())


def test_a_lock_is_released_by_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "deep" / "a"):
        raise KeyboardInterrupt
    with locked(tmp_path / "deep" / "a"):
        pass
    assert not list((tmp_path / "deep").iterdir())


def test_a_file_of_somebody_else_is_no_lock(tmp_path):
    file = tmp_path / ".a.lock"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"\.a\.lock is no lock"), locked(tmp_path / "a"):
        pass
    assert file.read_text() == "mine"
    # A cut of power leaves zeros.
    file.write_bytes(b"\0" * 40)
    with locked(tmp_path / "a"):
        pass


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named(reason, tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match=rf"^The file system of {tmp_path} has no locks"):
        with locked(tmp_path / "run.zarr"):
            pass
    assert not list(tmp_path.glob("*.zarr"))


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_lock_that_was_left_on_a_disk_to_read_from_stays(reason, tmp_path, monkeypatch):
    """Nobody writes there; any other error is told."""
    (tmp_path / ".run.zarr.lock").touch()

    def refused(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "open", refused)
    if reason == errno.EIO:
        with pytest.raises(OSError, match="Input"):
            check_unlocked(tmp_path / "run.zarr")
    else:
        check_unlocked(tmp_path / "run.zarr")


def test_a_lock_that_a_block_has_is_not_asked_for_again_but_by_other_threads(tmp_path):
    path, said = tmp_path / "run.zarr", []

    def other():
        try:
            with locked(path):
                said.append("has it")
        except ValueError as error:
            said.append(str(error))

    with claimed(path):
        with locked(path):
            pass
        # The inner block has not released it.
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "being written by another run" in said[0]
    other()
    assert said[1] == "has it"
    assert not list(tmp_path.iterdir())


def test_a_claim_in_a_folder_that_is_not_there_makes_nothing(tmp_path):
    with claimed(tmp_path / "new" / "run.zarr"):
        pass
    assert not list(tmp_path.iterdir())
