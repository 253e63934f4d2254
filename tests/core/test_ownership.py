"""Only what says that Scorda wrote it is replaced."""

import json
import os
from pathlib import Path

import h5py
import pytest
import torch
import xarray
import zarr
from safetensors.torch import save_file

from scorda.core.fingerprint import fingerprint
from scorda.core.ownership import (
    SOURCE,
    check_output,
    made_by_scorda,
    named_as_given,
    real_path,
    toml_mark,
)


def netcdf(path, **attributes):
    xarray.Dataset({"x": 1.0}, attrs=attributes).to_netcdf(path, engine="h5netcdf")


def store(path, **attributes):
    zarr.open_group(path, mode="w", zarr_format=3).attrs.update(attributes)


def weights(path, **metadata):
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)


PAGE = '<!doctype html>\n<head>\n<meta name="generator" content="{}">\n'
OURS = {
    "a.zarr": lambda p: store(p, source=SOURCE),
    "a.nc": lambda p: netcdf(p, source=SOURCE),
    "a.safetensors": lambda p: weights(p, scorda="{}"),
    "a.html": lambda p: p.write_text(PAGE.format("Scorda 0.1.0")),
    "a.json": lambda p: p.write_text(json.dumps({"source": SOURCE, "other": 1})),
    "a.toml": lambda p: p.write_text(toml_mark() + "x = 1\n"),
    "a.png": lambda p: p.write_bytes(b"\x89PNG" + f"Written by {SOURCE}".encode()),
    "a.mp4": lambda p: p.write_bytes(
        b"....ftyp" + bytes(9999) + f"Written by {SOURCE}".encode() + bytes(9)
    ),
}
FOREIGN = {
    "a.zarr": lambda p: store(p, source="another model"),
    "b.zarr": lambda p: store(p),
    "c.zarr": lambda p: p.mkdir(),
    "d.zarr": lambda p: (store(p), (p / "zarr.json").write_text("[" * 10_000)),
    "a.nc": lambda p: netcdf(p, source="another model"),
    "b.nc": lambda p: netcdf(p, history="scorda 0.1.0"),
    "c.nc": lambda p: h5py.File(p, "w").close(),
    "d.nc": lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "a.safetensors": lambda p: weights(p, format="pt"),
    "b.safetensors": lambda p: p.write_bytes(b"\xff" * 8 + b"{}"),
    "a.html": lambda p: p.write_text(PAGE.format("Another 0.1.0")),
    "a.json": lambda p: p.write_text(json.dumps({"versions": {"scorda": "0.1.0"}})),
    "b.json": lambda p: p.write_text('{"source": ' * 100_000),
    "c.json": lambda p: p.write_text('{"source": ["scorda 0.1.0"]}'),
    "a.toml": lambda p: p.write_text("# scorda\nx = 1\n"),
    "a.png": lambda p: p.write_bytes(b"\x89PNG"),
    "a.csv": lambda p: p.write_text("time,value\n"),
    "empty.nc": lambda p: p.touch(),
    "empty.csv": lambda p: p.touch(),
    "binary": lambda p: p.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("name", OURS)
def test_what_bears_the_mark_is_ours(tmp_path, name):
    path = tmp_path / name
    OURS[name](path)
    assert made_by_scorda(path)
    assert check_output(path, overwrite=True) == path.resolve()
    with pytest.raises(ValueError, match="already there"):
        check_output(path, overwrite=False)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_lacks_the_mark_is_refused(tmp_path, name):
    path = tmp_path / name
    FOREIGN[name](path)
    assert not made_by_scorda(path)
    said = "an empty file" if name.startswith("empty") else "without the mark of Scorda"
    for overwrite in (True, False):
        with pytest.raises(ValueError, match=f"{name} is .*{said}.*choose another name"):
            check_output(path, overwrite)


def test_a_table_is_ours_where_our_settings_beside_it_name_it(tmp_path):
    table, settings = tmp_path / "o.csv", tmp_path / "simulate.toml"
    table.write_text("time,value\n")
    for text, ours in (
        (toml_mark(["truth.nc", "o.csv"]), True),
        (toml_mark(["truth.nc", "oo.csv"]), False),
        ('with = "o.csv"\n' + toml_mark(), False),
        (toml_mark(['"o.csv"']), False),
    ):
        settings.write_text(text)
        assert made_by_scorda(table) == ours


def test_an_unreadable_file_is_not_ours(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    OURS["a.json"](path)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert not made_by_scorda(path)


def test_devices_and_pipes_are_not_ours(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="only what Scorda wrote"):
            check_output(path, overwrite=True)


def test_links_are_followed(tmp_path):
    target, link = tmp_path / "there.nc", tmp_path / "link.nc"
    link.symlink_to(target)
    assert check_output(link, overwrite=False) == target
    netcdf(target)
    with pytest.raises(ValueError, match="without the mark"):
        check_output(link, overwrite=True)
    circle = tmp_path / "circle.nc"
    circle.symlink_to(circle)
    with pytest.raises(ValueError, match="leads to itself"):
        real_path(circle)


def test_folders_and_files_are_told_apart(tmp_path):
    (tmp_path / "a.nc").mkdir()
    (tmp_path / "a.zarr").write_text("")
    with pytest.raises(ValueError, match="which is a folder: give the name of a file"):
        check_output(tmp_path / "a.nc", overwrite=True)
    with pytest.raises(ValueError, match="which is a file: give the name of a folder"):
        check_output(tmp_path / "a.zarr", overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"no directory .*: make it first"):
        check_output(tmp_path / "none" / "a.nc", overwrite=True)
    assert check_output(tmp_path / "none" / "a.nc", True, make_parents=True).name == "a.nc"


def test_the_fingerprint_is_that_of_all_bytes_and_names(tmp_path):
    """SHA-256 of "abc" is the first test vector of the standard (FIPS 180-4)."""
    file = tmp_path / "file"
    file.write_text("abc")
    assert fingerprint(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    found = set()
    for names in (("a", "b"), ("b", "a"), ("a", "c/b"), ("a",)):
        folder = tmp_path / "-".join(names).replace("/", "_")
        for text, name in zip("12", names, strict=False):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        found.add(fingerprint(folder))
    assert len(found) == 4
    (folder / "a").rename(folder / "x")
    (folder / "x").rename(folder / "a")
    assert fingerprint(folder) in found
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")


@pytest.mark.parametrize("inside", [True, False])
def test_an_output_and_what_is_beside_it_are_named_as_given_and_nothing_else(
    tmp_path, monkeypatch, inside
):
    """Also in the root of all folders, with which every path begins."""
    folder = tmp_path if inside else Path("/")
    monkeypatch.chdir(folder)
    text = "{0}a.zarr/x, '{0}a.zarr.json' and {0}.a.zarr.progress, not /data/a.zarr or {0}in.nc"
    before, kept = f"{folder}/" if inside else "/", "not /data/a.zarr or "
    with pytest.raises(ValueError) as caught, named_as_given("a.zarr"):
        raise ValueError(text.format(before))
    assert str(caught.value) == (
        f"a.zarr/x, 'a.zarr.json' and .a.zarr.progress, {kept}{before}in.nc"
    )
