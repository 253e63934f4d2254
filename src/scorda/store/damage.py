"""Damage of a store: what is missing or not as it was written, found before it is read as whole.

Opening lists the files, and compares their sizes and the metadata with the record of the run. The
bytes of each chunk are checked where they are read, by the checksum at their end.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scorda.core.ownership import real_path
from scorda.store.seals import broken, files_in, read_json

__all__ = [
    "check_files",
    "check_hashes",
    "info_path",
    "read_record",
    "seals_by_unit",
    "telling",
]

# Chunks of an array: far more than a file system takes in one folder.
MOST = 10**7
# Length of a chunk that a shard does not have.
ABSENT = 2**64 - 1


def info_path(path: Path) -> Path:
    """Return the record of a store, of timings and seals: ``run.zarr.json`` of ``run.zarr``."""
    real = real_path(path)
    return real.with_name(f"{real.name}.json")


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a store; it is empty where there is none.

    Raises:
        ValueError: If it is damaged.
    """
    file = info_path(path)
    advice = f"remove {file.name} to read {path.name} without its timings and checksums."
    return read_json(file, advice) or {}


def check_files(path: Path, record: Mapping[str, Any]) -> None:
    """Check that all files of a store are there, and what can be told without reading it.

    Arguments:
        path: The store.
        record: Record of its run; empty where there is none.

    Raises:
        ValueError: If a file is missing or damaged; the sentence names it and its unit.
    """
    lost: Iterator[str] = iter(())
    if "parts" in record:
        known = seals_by_unit(record)
        sealed = {name: entry for name, (entry, _) in known.items()}
        metadata = {n: entry for n, entry in sealed.items() if n.endswith("zarr.json")}
        lost = itertools.chain(broken(path, sealed, hashes=False), broken(path, metadata))
    stopped = record.get("stopped")
    for name in itertools.chain(lost, _missing(path, stopped)):
        raise ValueError(_sentence(path, record, name))


def check_hashes(path: Path) -> None:
    """Check all bytes of a store: by the record of its run, or by the checksums of its chunks.

    Raises:
        ValueError: If a file is damaged; the sentence names it and its unit.
    """
    record = read_record(path)
    if "parts" in record:
        lost = iter(broken(path, {n: entry for n, (entry, _) in seals_by_unit(record).items()}))
    else:
        lost = (name for name in files_in(path) if not _is_whole(path, name))
    for name in lost:
        raise ValueError(_sentence(path, record, name))


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell which file is damaged, if something in the block cannot be read."""
    try:
        yield
    except (ValueError, RuntimeError, OSError):
        check_hashes(path)
        raise


def seals_by_unit(record: Mapping[str, Any]) -> dict[str, tuple[list[Any], int | None]]:
    """Return the seal of each file of a complete store, and its unit, if it belongs to one."""
    known: dict[str, tuple[list[Any], int | None]] = {}
    for number, part in [(None, record["created"]), *enumerate(record["parts"])]:
        known |= {name: (entry, number) for name, entry in part["files"].items()}
    return known | {name: (entry, None) for name, entry in record["closing"].items()}


def _sentence(path: Path, record: Mapping[str, Any], name: str) -> str:
    unit = seals_by_unit(record).get(name, (None, None))[1] if "parts" in record else None
    state = "damaged" if (path / name).exists() else "missing"
    where = "" if unit is None else f" (unit {unit} of {len(record['parts'])})"
    return (
        f"{path / name}{where} is {state}: the command that made the store does it again with "
        "--resume."
    )


def _missing(path: Path, stopped: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield metadata that cannot be read, and chunks that are not there.

    Of a run that was stopped there are those of the steps before, and none of the last step.
    """
    names = set(files_in(path))
    for name in sorted(n for n in names if n.endswith("zarr.json")):
        try:
            metadata = json.loads((path / name).read_bytes())
            folder = name.removesuffix("zarr.json")
            # Of a run that was stopped, units without weights have none yet; elsewhere than in a
            # store of a part, "last" is a variable.
            late = ("weight/", "last/") if "kept" in (stopped or {}) else ("weight/",)
            absent = stopped is not None and folder.startswith(late)
            if metadata["node_type"] == "array" and not absent:
                chunks = _chunks(metadata, stopped)
                yield from (folder + chunk for chunk in chunks if folder + chunk not in names)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            yield name


def _chunks(metadata: Mapping[str, Any], stopped: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the names of the chunks that the shape of an array implies."""
    made, cuts = {}, []
    if stopped is not None:
        # Of the steps some may be kept.
        states = int(stopped["states"])
        made = {"step": states, "time": int(stopped.get("kept", states))}
    lengths = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    names = metadata.get("dimension_names") or [None] * len(lengths)
    for axis, length, chunk in zip(names, metadata["shape"], lengths, strict=True):
        cuts.append(range(-(-min(length, made.get(axis, length)) // chunk)))
    if math.prod(map(len, cuts)) > MOST:
        raise ValueError("more chunks than a folder holds")
    return ("/".join(map(str, ("c", *place))) for place in itertools.product(*cuts))


def _is_whole(path: Path, name: str) -> bool:
    """Return whether a chunk, or each chunk of a shard, ends with its checksum.

    Metadata have none. A shard ends with the places of its chunks, an offset and a length each,
    and the checksum of these.
    """
    if name.endswith("zarr.json"):
        return True
    content, folder = (path / name).read_bytes(), path / name.split("/c/")[0]
    if not _sums_up(content):
        number = _chunks_in_shard(folder / "zarr.json") if folder.is_dir() else 0
        places = content[-16 * number - 4 :]
        if not number or len(places) < 16 * number + 4 or not _sums_up(places):
            return False
        pairs = np.frombuffer(places[:-4], "<u8").reshape(-1, 2).tolist()
        # Chunks beyond the end of the array have no place.
        return all(_sums_up(content[a : a + n]) for a, n in pairs if n != ABSENT)
    return True


def _chunks_in_shard(metadata: Path) -> int:
    """Return how many chunks a file of an array holds, 0 where it has no shards."""
    content = json.loads(metadata.read_bytes())
    inner = [c["configuration"] for c in content["codecs"] if c["name"] == "sharding_indexed"]
    outer = content["chunk_grid"]["configuration"]["chunk_shape"]
    pieces = (zip(outer, c["chunk_shape"], strict=True) for c in inner)
    return sum(math.prod(n // chunk for n, chunk in pairs) for pairs in pieces)


def _sums_up(content: bytes) -> bool:
    """Return whether bytes end with their checksum."""
    import google_crc32c

    return google_crc32c.value(content[:-4]).to_bytes(4, "little") == content[-4:]
