"""HTML pages are written from templates, each with the mark of Scorda in its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scorda.core.files import atomic
from scorda.core.ownership import check_output
from scorda.core.version import __version__

__all__ = ["write_page"]


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Write a page from a template of ``templates``, with its folder, and return its path.

    Raises:
        ValueError: If a file is there that Scorda did not write.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("scorda.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template(template).render(content, generator=__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(check_output(path, overwrite=True)) as partial:
        partial.write_text(page, encoding="utf-8")
    return path
