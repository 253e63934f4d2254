"""A gallery of the figures in a folder: an HTML page that links its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scorda.core.files import atomic
from scorda.core.ownership import SOURCE, check_output
from scorda.report.pages import write_page

__all__ = ["Record", "add_record", "write_gallery"]

# A record of figures lies beside them under its name and this ending.
ENDING = ".gallery.json"


@dataclass(frozen=True)
class Record:
    """Figures that one command made.

    Arguments:
        name: Name of what was run; records of the same name replace each other.
        title: One sentence that says what the figures show.
        command: The command.
        facts: What else a reader should know: seeds, seconds, machine.
        pictures: Captions by file name, in the folder of the record.
    """

    name: str
    title: str
    command: str
    facts: Mapping[str, str]
    pictures: Mapping[str, str]


def add_record(folder: str | Path, record: Record) -> Path:
    """Write a record of figures, write the gallery of its folder anew, and return its path.

    Raises:
        FileNotFoundError: If a picture of the record is not in the folder.
    """
    folder = Path(folder)
    for name in record.pictures:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"There is no {folder / name}: save the picture first.")
    text = json.dumps({"source": SOURCE} | asdict(record), indent=2) + "\n"
    with atomic(check_output(folder / f"{record.name}{ENDING}", overwrite=True)) as partial:
        partial.write_text(text, encoding="utf-8")
    return write_gallery(folder)


def write_gallery(folder: str | Path) -> Path:
    """Write one HTML page of all records in a folder, with the pictures that are still there.

    Raises:
        FileNotFoundError: If there are no records.
        ValueError: If a record cannot be read.
    """
    folder = Path(folder)
    records = [_read(path) for path in sorted(folder.glob(f"*{ENDING}"))]
    if not records:
        raise FileNotFoundError(f"There are no records (*{ENDING}) in {folder}: run a benchmark.")
    return write_page(folder / "gallery.html", "gallery.html.j2", records=records)


def _read(path: Path) -> Record:
    """Read a record without the pictures that are gone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("source")
        record = Record(**content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is not a record of figures ({error}): remove it.") from error
    there = {n: text for n, text in record.pictures.items() if (path.parent / n).is_file()}
    return replace(record, pictures=there)
