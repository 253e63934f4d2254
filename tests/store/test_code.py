"""The code that a run depends on: the module of a user and what it imports from its own folder."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from scorda import store
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Pointwise
from scorda.observations.problem import Problem
from scorda.store import code
from scorda.store.code import UNKNOWN, code_of
from scorda.store.identity import identity
from scorda.systems.lorenz import Lorenz63

FILES = {
    "ownmodel.py": "import ownhelper\nfrom ownpackage.inner import deep\nimport numpy, os\n"
    "def square(x):\n    return ownhelper.power(x)\n",
    "ownhelper.py": "def power(x):\n    import ownlate\n    return x**2\n",
    "ownlate.py": "",
    "ownpackage/__init__.py": "from . import beside\n",
    "ownpackage/beside.py": "",
    "ownpackage/inner/__init__.py": "",
    "ownpackage/inner/deep.py": "from ..beside import *\nfrom .deeper import y\n",
    "ownpackage/inner/deeper.py": "y = 1\n",
    "ownpackage/unused.py": "",
    "unused.py": "",
}
REACHED = {
    "ownmodel", "ownhelper", "ownlate", "ownpackage", "ownpackage.beside", "ownpackage.inner",
    "ownpackage.inner.deep", "ownpackage.inner.deeper",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("ownmodel")
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("own")]:
        del sys.modules[name]


def test_what_a_module_imports_from_its_own_folder_is_hashed(folder):
    found = code_of(["ownmodel"])
    assert set(found) == REACHED
    for name in REACHED:
        file = Path(sys.modules[name].__file__ if name in sys.modules else folder / f"{name}.py")
        kept = file.read_text()
        file.write_text(f"{kept}# changed\n")
        changed = code_of(["ownmodel"])
        assert {n for n in found if changed[n] != found[n]} == {name}
        file.write_text(kept)
    (folder / "unused.py").write_text("# changed\n")
    assert code_of(["ownmodel"]) == found


def test_a_package_is_of_the_folder_that_holds_it(folder):
    """What a package runs before its modules counts."""
    assert set(code_of(["ownpackage.inner.deeper"])) == {
        "ownpackage", "ownpackage.beside", "ownpackage.inner", "ownpackage.inner.deeper",
    }  # fmt: skip
    found = code_of(["ownpackage.inner.deep"])
    assert set(found) == {
        "ownpackage", "ownpackage.beside", "ownpackage.inner.deep", "ownpackage.inner.deeper",
        "ownpackage.inner",
    }  # fmt: skip


def test_installed_code_and_what_has_no_file_are_not_followed(folder, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "ownplugin.py").write_text("import ownneighbour\n")
    (site / "ownneighbour.py").write_text("")
    monkeypatch.syspath_prepend(site)
    importlib.import_module("ownplugin")
    assert set(code_of(["ownplugin"])) == {"ownplugin"}
    assert code_of(["typed_into_a_notebook"]) == {"typed_into_a_notebook": UNKNOWN}


def test_a_circle_and_a_broken_module_end(folder):
    (folder / "ownhelper.py").write_text("import ownmodel\nimport ownlate\n")
    (folder / "ownlate.py").write_text("def broken(:\n")
    assert {"ownmodel", "ownhelper", "ownlate"} <= set(code_of(["ownmodel"]))


def test_a_folder_without_init_in_a_package_that_is_not_imported_yet_is_followed(folder):
    (folder / "ownhelper.py").write_text("def late():\n    from ownother.folder import module\n")
    (folder / "ownother" / "folder").mkdir(parents=True)
    (folder / "ownother" / "__init__.py").write_text("")
    (folder / "ownother" / "folder" / "module.py").write_text("")
    found = code_of(["ownhelper"])
    assert set(found) == {"ownhelper", "ownother", "ownother.folder.module"}


def test_the_number_of_modules_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(code, "MOST", 3)
    assert len(code_of(["ownmodel"])) < len(REACHED)


def test_a_helper_that_has_changed_is_named_where_a_run_is_resumed(folder, tmp_path):
    square = sys.modules["ownmodel"].square
    model = ObservationModel(Pointwise(square), std=1.0)
    seen = Observations(model, [2, 4], torch.full((2, 3), 50.0))
    problem = Problem(Lorenz63(spinup=0.1), seen, 4)
    assert set(identity(operator=Pointwise(square))["code"]) == REACHED
    store.run(EnKF(), problem, 4, tmp_path / "a.zarr", 0)
    store.run(EnKF(), problem, 4, tmp_path / "a.zarr", 0, resume=True)
    (folder / "ownhelper.py").write_text("def power(x):\n    return x**2 + 1\n")
    with pytest.raises(ValueError, match=r"the code of ownhelper .*--trust-code"):
        store.run(EnKF(), problem, 4, tmp_path / "a.zarr", 0, resume=True)
    store.run(EnKF(), problem, 4, tmp_path / "a.zarr", 0, resume=True, trust_code=True)
