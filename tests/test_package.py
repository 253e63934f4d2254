"""The page of the package: every link and picture leads to a file that is in the repository."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOME = "https://example.org/owner/scorda"


@pytest.fixture
def built(monkeypatch):
    """The module that makes the page; it derives from a class of the tool that builds."""
    interface = types.ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = type("MetadataHookInterface", (), {"root": str(ROOT)})
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(built, monkeypatch, **environment):
    for name in ("SERVER_URL", "REPOSITORY"):
        monkeypatch.setenv(f"GITHUB_{name}", environment.get(name, ""))
    metadata = {}
    built.Page().update(metadata)
    return metadata


def test_links_and_pictures_of_the_page_are_absolute(built, monkeypatch):
    told = {"SERVER_URL": "https://example.org", "REPOSITORY": "owner/scorda"}
    metadata = page(built, monkeypatch, **told)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", metadata["readme"]["text"])
    assert all(link.startswith("https://") for _, link in links)
    own = [(picture, link) for picture, link in links if link.startswith(HOME)]
    assert ("!", f"{HOME}/raw/main/docs/demo.png") in own
    for picture, link in own:
        path = link.removeprefix(f"{HOME}/{'raw' if picture else 'blob'}/main/").split("#")[0]
        assert (ROOT / path).is_file(), link
    assert metadata["urls"]["Documentation"] == "https://owner.github.io/scorda/"


def test_elsewhere_the_page_is_the_readme(built, monkeypatch):
    metadata = page(built, monkeypatch)
    assert metadata["urls"] == {}
    assert metadata["readme"]["text"] == (ROOT / "README.md").read_text()
