"""The scripts of the gallery are numbered, and each shows a picture that is told in words."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = sorted((DOCS / "gallery").glob("*/*.py"), key=lambda script: script.name)


def test_scripts_are_numbered_in_the_order_of_their_sections():
    assert [int(script.name[:2]) for script in SCRIPTS] == list(range(1, len(SCRIPTS) + 1))
    assert [script.parent.name for script in SCRIPTS] == sorted(s.parent.name for s in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_has_one_picture_with_a_text_for_those_who_do_not_see_it(script):
    source = script.read_text(encoding="utf-8")
    blocks = [block for block in source.split("\n# %%") if re.search(r"^ *figure\b", block, re.M)]
    assert len(blocks) == 1
    assert len(re.findall(r'^# sphinx_gallery_alt = ".+"$', blocks[0], re.M)) >= 1


def test_links_of_the_site_to_scripts_name_some_that_are_there():
    pages = [*DOCS.rglob("*.md"), *SCRIPTS]
    named = {
        name for page in pages for name in re.findall(r"/examples/(\d\w*/\w+)", page.read_text())
    }
    assert named <= {f"{script.parent.name}/{script.stem}" for script in SCRIPTS}
    assert named
