"""Show the figures of tutorials and gallery: whatever a block names ``figure``.

Comments ``# sphinx_gallery_alt = "..."`` of the block are the text for those who do not see it.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from sphinx_gallery.scrapers import figure_rst

ALT = re.compile(r"^# sphinx_gallery_alt = (\".*\")$", re.MULTILINE)
_shown: list[Any] = []


def drawn(block: Any, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """Save the figure of a block, and return what shows it."""
    figure = variables["example_globals"].get("figure")
    if figure is None or any(figure is one for one in _shown):
        return ""
    from matplotlib import pyplot

    _shown.append(figure)
    path = next(variables["image_path_iterator"])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    alt = " ".join(ast.literal_eval(line) for line in ALT.findall(block.content))
    return str(figure_rst([path], settings["src_dir"], alt))


def _get_sg_image_scraper() -> Any:
    """Tell sphinx-gallery, which imports this module by its name, what saves figures."""
    return drawn
