"""Files are whole or not there, and foreign ones are refused in one sentence."""

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


def pickled(path):
    path.write_bytes(pickle.dumps({"weight": [1, 2]}))


def torch_file(path):
    torch.save(tensors(), path)


def other_header(path):
    save_file(tensors(), path, metadata={"format": "pt"})


def no_header(path):
    save_file(tensors(), path)


def broken_header(path):
    save_file(tensors(), path, metadata={"scorda": "{"})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (cut, "truncated or no safetensors file"),
        (pickled, "truncated or no safetensors file"),
        (torch_file, "truncated or no safetensors file"),
        (lambda path: path.write_bytes(b""), "truncated or no safetensors file"),
        (other_header, r"without a header of Scorda \(metadata: \['format'\]\)"),
        (no_header, "without a header of Scorda"),
        (broken_header, "without a header of Scorda"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, make, match):
    make(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=match) as error:
        files.read_tensors(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="truncated or no safetensors"):
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
    assert list(metadata) == ["scorda"] and json.loads(metadata["scorda"]) == HEADER
