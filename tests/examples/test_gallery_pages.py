"""Scripts of the gallery are numbered; they and the tutorials tell their pictures in words."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
SCRIPTS = sorted((DOCS / "gallery").glob("*/*.py"), key=lambda script: script.name)


def test_scripts_are_numbered_in_the_order_of_their_sections():
    assert [int(script.name[:2]) for script in SCRIPTS] == list(range(1, len(SCRIPTS) + 1))
    assert [script.parent.name for script in SCRIPTS] == sorted(s.parent.name for s in SCRIPTS)


@pytest.mark.parametrize("script", [*TUTORIALS, *SCRIPTS], ids=lambda script: script.stem)
def test_each_picture_has_a_text_for_those_who_do_not_see_it(script):
    source = script.read_text(encoding="utf-8")
    blocks = [block for block in source.split("\n# %%") if re.search(r"^ *figure\b", block, re.M)]
    assert blocks
    assert script in TUTORIALS or len(blocks) == 1
    for block in blocks:
        assert re.search(r'^# sphinx_gallery_alt = ".+"$', block, re.M)


def test_links_of_the_site_to_scripts_name_some_that_are_there():
    pages = [*DOCS.rglob("*.md"), *SCRIPTS]
    named = {
        name for page in pages for name in re.findall(r"/examples/(\d\w*/\w+)", page.read_text())
    }
    assert named <= {f"{script.parent.name}/{script.stem}" for script in SCRIPTS}
    assert named


def test_downloaded_notebooks_have_words_in_the_place_of_roles():
    spec = importlib.util.spec_from_file_location(
        "notebook_words", DOCS / "extensions" / "notebook_words.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for script in [*TUTORIALS, *SCRIPTS]:
        folder = "learn" if script in TUTORIALS else f"examples/{script.parent.name}"
        text = module.in_words(script.read_text(encoding="utf-8"), folder)
        assert not re.search(r":(?!math)[a-z:]+:`", text), script
    said = ":doc:`03_stations`, :doc:`/data`, :cite:t:`hunt2007`, :class:`~scorda.EnKF`"
    known = module.in_words(said, "learn", "https://example.org/scorda/")
    assert "[Your files](https://example.org/scorda/data.html)" in known
    assert "[Hunt et al. (2007)](https://" in known
    assert known.endswith("`scorda.EnKF`")
    assert "*Your files*" in module.in_words(said, "learn")
