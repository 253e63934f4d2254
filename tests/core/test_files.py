"""Files are whole or not there, and foreign ones are refused in one sentence."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scorda.core import files
from scorda.core.rng import normal, seeded
from scorda.reading.opening import open_data


class Stopped(BaseException):
    """Stands for a kill: not even an Exception."""


def test_atomic_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("old", "new"):
        with files.atomic(path) as partial:
            partial.write_text(text)
            assert partial.parent == tmp_path
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, Stopped])
def test_stopping_in_the_middle_leaves_the_old_file(tmp_path, stop):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(stop), files.atomic(path) as partial:
        partial.write_text("ne")
        raise stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_keeps_the_permissions_a_new_file_has(tmp_path):
    (tmp_path / "plain").write_text("")
    with files.atomic(tmp_path / "a") as partial:
        partial.write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


KILLED = """
import sys
from scorda.core import files
from scorda.reading.opening import open_data
text = sys.argv[2] * 1_000_000
while True:
    with files.atomic(sys.argv[1]) as partial:
        with partial.open("w") as file:
            for part in range(10):
                file.write(text[part::10])
                file.flush()
    print(flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    for letter, delay in zip("abc", (0.0, 0.004, 0.013), strict=True):
        command = [sys.executable, "-c", KILLED, str(path), letter]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert path.read_text() == letter * 1_000_000


def test_a_missing_directory_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"no directory .*nowhere: make it first"),
        files.atomic(tmp_path / "nowhere" / "a"),
    ):
        pass


def tensors():
    return {
        "weight": normal(3, (4,), seeded(0)),
        "bias": torch.zeros(3, dtype=torch.float32),
        "count": torch.tensor(7),
    }


HEADER = {"architecture": {"width": 64, "kernel": [5, 5]}, "seed": 3, "scale": 0.1, "note": "é"}


def test_tensors_and_header_come_back_exactly(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, tensors(), HEADER)
    read, header = files.read_tensors(path)
    assert header == HEADER
    assert read.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype


def test_the_same_content_gives_the_same_bytes(tmp_path):
    backwards = dict(reversed(HEADER.items()))
    files.write_tensors(tmp_path / "a", tensors(), HEADER)
    files.write_tensors(tmp_path / "b", tensors(), backwards)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_views_and_gradients_are_written_as_plain_values(tmp_path):
    whole = normal(4, (4,), seeded(0)).requires_grad_()
    files.write_tensors(tmp_path / "a", {"all": whole, "view": whole[:, ::2].T}, {})
    read, _ = files.read_tensors(tmp_path / "a")
    assert torch.equal(read["view"], whole.detach()[:, ::2].T)


def test_a_failed_write_leaves_the_old_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, tensors(), HEADER)
    for bad in ({"x": float("nan")}, {"x": torch.zeros(1)}):
        with pytest.raises(ValueError, match="cannot be written as JSON"):
            files.write_tensors(path, tensors(), bad)
    assert files.read_tensors(path)[1] == HEADER and os.listdir(tmp_path) == [path.name]


def cut(path):
    files.write_tensors(path, tensors(), HEADER)
    path.write_bytes(path.read_bytes()[:-5])


def cut_in_header(path):
    files.write_tensors(path, tensors(), HEADER)
    path.write_bytes(path.read_bytes()[:200])


def pickled(path):
    path.write_bytes(pickle.dumps({"weight": [1, 2]}))


def torch_file(path):
    torch.save(tensors(), path)


def other_header(path):
    save_file(tensors(), path, metadata={"format": "pt"})


def no_header(path):
    save_file(tensors(), path)


def no_checksum(path):
    save_file(tensors(), path, metadata={"scorda": "{}"})


def flipped(path):
    files.write_tensors(path, tensors(), HEADER)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (cut, r"is truncated: it has \d+ bytes, and its beginning speaks of \d+; copy"),
        (cut_in_header, "is truncated: it has 200 bytes"),
        (flipped, "is damaged: its bytes are not those that were written; copy"),
        (pickled, "is damaged or no safetensors file"),
        (torch_file, "is damaged or no safetensors file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (other_header, r"without a header of Scorda \(metadata: \['format'\]\)"),
        (no_header, "without a header of Scorda"),
        (no_checksum, "has no checksum"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, make, match):
    make(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=match) as error:
        files.read_tensors(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(error.value)


def test_every_damaged_byte_is_noticed(tmp_path):
    """Each byte is changed, and the file is cut, halved and zeroed at each place."""
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, tensors(), HEADER)
    whole = path.read_bytes()
    for at in range(len(whole)):
        flip = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        gone, zero = whole[:at] + whole[at + 1 :], whole[:at] + bytes(9) + whole[at + 9 :]
        for damaged in (flip, whole[:at], gone, *([zero] if zero[: len(whole)] != whole else [])):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"a\.safetensors (is|has) ") as error:
                files.read_tensors(path)
            truncated = "truncated" in str(error.value)
            assert not truncated or len(damaged) < len(whole) or at < 8 or damaged is flip
    path.write_bytes(whole)
    assert files.read_tensors(path)[1] == HEADER


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, tensors(), {})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["scorda"])
    blank = content.replace(header["checksum"].encode(), b"0" * 64)
    assert header == {"checksum": hashlib.sha256(blank).hexdigest()}


def test_numbers_that_are_not_finite_are_named(tmp_path):
    files.check_finite_tensors("a", tensors())
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match=r"a holds numbers that are not finite, in x"):
            files.check_finite_tensors("a", tensors() | {"x": torch.tensor([0.0, bad])})


def left_by(process):
    return f".a.txt.{process:06x}0a.partial"


def test_what_a_kill_left_is_removed_by_the_next_write(tmp_path):
    """A temporary file of a process that runs is left, and so are all other names."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    stale = [left_by(gone.pid), left_by(os.getpid())]
    kept = [
        left_by(os.getppid()), ".a.txt.partial", ".a.txt.0000000.partial",
        "a.txt.0000000a.partial", f".b.txt.{gone.pid:06x}0a.partial",
        f".xa.txt.{gone.pid:06x}0a.partial",
        f".a_txt.{gone.pid:06x}0a.partial",
    ]  # fmt: skip
    for name in stale + kept:
        (tmp_path / name).touch()
    with files.atomic(tmp_path / "a.txt") as outer, files.atomic(tmp_path / "a.txt") as inner:
        # Two writers of one process leave each other alone.
        inner.write_text("inner")
        outer.write_text("outer")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a.txt"])
    assert (tmp_path / "a.txt").read_text() == "outer"


def test_data_are_on_the_disk_before_their_name(tmp_path, monkeypatch):
    """The order is that of a power cut that loses nothing: file, rename, directory."""
    done = []
    synced, replaced = os.fsync, os.replace

    def fsync(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        synced(descriptor)

    def replace(source, target):
        done.append("renamed")
        replaced(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with files.atomic(tmp_path / "a") as partial:
        partial.write_text("")
    assert done == [partial, "renamed", tmp_path]


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    link.symlink_to(target)
    for text in ("first", "second"):
        with files.atomic(link) as partial:
            partial.write_text(text)
        assert link.is_symlink() and not target.is_symlink() and target.read_text() == text
    assert os.listdir(tmp_path / "folder") == ["target"]


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        files.read_tensors(tmp_path / "a")
    assert not (tmp_path / "unpickled").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*: check the path"):
        files.read_tensors(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"no file or store .*: check the path"):
        open_data(tmp_path / "a.nc")


def test_the_header_is_json_under_one_key(tmp_path):
    """The layout of the format: 8 bytes of length, then JSON with `__metadata__`."""
    files.write_tensors(tmp_path / "a", tensors(), HEADER)
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["scorda"])
    assert list(metadata) == ["scorda"] and next(iter(header)) == "checksum"
    assert {k: v for k, v in header.items() if k != "checksum"} == HEADER
