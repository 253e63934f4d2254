"""A page of all figures in a folder, each with the command that made it, its budget and its seed.

Whoever makes figures leaves a record beside them (`add_record`), ``NAME.gallery.json``;
`write_gallery` makes one page of all records of a folder. Pictures are linked, not embedded, so
the page belongs to its folder.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from scorda.core.files import atomic

__all__ = ["Record", "add_record", "write_gallery"]

ENDING = ".gallery.json"
PAGE = "gallery.html"


@dataclass(frozen=True)
class Record:
    """Figures that one command made.

    Arguments:
        name: Name of what was run; records of the same name replace each other.
        title: What it is, in a sentence.
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
    """Write a record and, anew, the page of the folder; returns the page.

    Raises:
        FileNotFoundError: If a picture of the record is not in the folder.
    """
    folder = Path(folder)
    for name in record.pictures:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"There is no {folder / name}: save the picture first.")
    with atomic(folder / f"{record.name}{ENDING}") as partial:
        partial.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return write_gallery(folder)


def write_gallery(folder: str | Path) -> Path:
    """Write one page of all records in a folder whose pictures are still there.

    Raises:
        FileNotFoundError: If there are no records.
        ValueError: If a record cannot be read.
    """
    folder = Path(folder)
    records = [_read(path) for path in sorted(folder.glob(f"*{ENDING}"))]
    if not records:
        raise FileNotFoundError(f"There are no records (*{ENDING}) in {folder}: run a benchmark.")
    css = files("scorda.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(_section(record, folder) for record in records)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Scorda: gallery</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        '<header><p class="kicker">Scorda</p><h1>Gallery</h1>'
        f'<p class="lead">{_contents(records)}</p></header>\n{body}\n</body>\n</html>\n'
    )
    with atomic(folder / PAGE) as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / PAGE


def _read(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a record of figures ({error}): remove it.") from error


def _contents(records: Sequence[Record]) -> str:
    links = (
        f'<a href="#{html.escape(r.name, quote=True)}">{html.escape(r.name)}</a>' for r in records
    )
    return " · ".join(links)


def _section(record: Record, folder: Path) -> str:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in record.facts.items()
    )
    figures = "\n".join(
        f'<figure><img src="{html.escape(name, quote=True)}" style="max-width:60rem" '
        f'alt="{html.escape(text, quote=True)}" loading="lazy">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for name, text in record.pictures.items()
        if (folder / name).is_file()
    )
    name = html.escape(record.name)
    return (
        f'<section id="{html.escape(record.name, quote=True)}">\n<h2>{name}</h2>\n'
        f"<p>{html.escape(record.title)}</p>\n<pre>{html.escape(record.command)}</pre>\n"
        f'<dl class="facts">{facts}</dl>\n{figures}\n</section>'
    )
