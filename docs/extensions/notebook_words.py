"""Roles of Sphinx in the notebooks that readers download, where nothing else knows them.

A page or a paper becomes a link of Markdown, to the published site where its address is known
(`html_baseurl`), else the title of the page in italics. Names of code become code. Formulas are
left to sphinx-gallery, which calls this on the text of each cell.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
# Where the scripts are from which sphinx-gallery makes pages.
SCRIPTS = {"learn": "tutorials", "examples": "gallery"}
ROLE = re.compile(r":(?!math:)([a-z]+(?::[a-z]+)?):`~?([^`]+)`")


def in_words(text: str, folder: str, base: str = "") -> str:
    """Return the text of a cell without roles.

    Arguments:
        text: Text with roles.
        folder: Folder of its page, from the root of the site, such as ``learn``.
        base: Address of the published site, with a slash at its end, or "".
    """

    def word(found: re.Match[str]) -> str:
        role, target = found.groups()
        if role == "doc":
            page = target[1:] if target[0] == "/" else f"{folder}/{target}"
            title = title_of(page)
            return f"[{title}]({base}{page}.html)" if base else f"*{title}*"
        return paper(target) if role.startswith("cite") else f"`{target}`"

    return ROLE.sub(word, text)


def title_of(page: str) -> str:
    """Return the first heading of a page, named from the root of the site."""
    folder, _, name = page.partition("/")
    if folder in SCRIPTS:
        script = DOCS / SCRIPTS[folder] / f"{name}.py"
        text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        return text.splitlines()[0]
    (file,) = DOCS.glob(f"{page}.[mr]*")
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("# ") for line in lines if re.match(r"# |\w", line))


def paper(key: str) -> str:
    """Return authors and year of a paper of the bibliography, as a link."""
    text = (DOCS / "references.bib").read_text(encoding="utf-8")
    (entry,) = re.findall(rf"^@\w+\{{{re.escape(key)},\n(.*?)^\}}", text, re.M | re.S)
    told = dict(re.findall(r"^ *(\w+) = \{(.*)\},?$", entry, re.M))
    names = [name.split(",")[0].strip() for name in told["author"].split(" and ")]
    authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"[{authors} ({told['year']})]({told['url']})"


def setup(app: Any) -> dict[str, bool]:
    """Call `in_words` before sphinx-gallery makes Markdown of a cell, for which it has no hook."""
    from sphinx_gallery import notebook

    made = notebook.rst2md

    def in_markdown(text: str, conf: Any, target: Any, levels: Any) -> str:
        folder = Path(target).relative_to(conf["src_dir"]).as_posix()
        return made(in_words(text, folder, app.config.html_baseurl or ""), conf, target, levels)

    notebook.rst2md = in_markdown
    return {"parallel_read_safe": True}
