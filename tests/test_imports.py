"""A module imports only from the layers below it, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "scorda"

# From the ground up: a module imports only what stands before it.
ORDER = (
    "shapes rng linalg whitening space files times fields metrics systems operators masks "
    "gridded flow tables modes likelihood observe problem process measurement_aware denoise "
    "condition nn observed parallel train sample krylov guide prior bridge published assimilate "
    "augment on_grid ensemble_prior mixture_prior local_prior prior_filter projection mixture "
    "network_denoiser pool network_heads fine_tuning network_prior learn emulate methods "
    "testing store weights bench plot report gallery cli"
).split()
HEIGHT = {name: height for height, name in enumerate(ORDER)}
# These use the library as its users do, through the package.
USERS = {"bench", "cli"}
EXEMPT = {"__init__", "__main__"}


def modules():
    """Every module as (path, dotted name below scorda)."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] not in EXEMPT:
            yield path, parts


def executed(node):
    """Every node of the tree outside ``if TYPE_CHECKING``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)


def imported(tree, parts):
    """Dotted names below scorda that a module imports anywhere, also inside functions.

    What only type checkers read, below ``if TYPE_CHECKING``, does not count. A bare ``scorda``
    is the empty name, except in ``from scorda import x``, which is x.
    """
    package = ("scorda", *parts[:-1])
    for node in executed(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        else:
            continue
        yield from (name[1:] for name in names if name[0] == "scorda")


def violations(parts, names):
    """What a module imports although it stands no higher, in words."""
    own, where = parts[0], ".".join(parts)
    for name in names:
        if not name or name[0] not in HEIGHT:
            if own not in USERS and name != ("__version__",):
                yield f"{where} imports {name[0] if name else 'scorda'} through the package"
        elif own == "methods" == name[0]:
            if parts[-1] != "__init__" and name[1:2] != parts[1:2]:
                yield f"{where} imports another method, {'.'.join(name)}"
        elif HEIGHT[name[0]] > HEIGHT.get(own, len(ORDER)):
            yield f"{where} imports {'.'.join(name)} from above"


def test_every_module_has_a_layer():
    unknown = {parts[0] for _, parts in modules()} - HEIGHT.keys()
    assert not unknown, f"add these to ORDER and to the design: {sorted(unknown)}"


def test_modules_import_only_from_below():
    found = [
        violation
        for path, parts in modules()
        for violation in violations(parts, imported(ast.parse(path.read_text()), parts))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("observe",), "from scorda.problem import Problem"),
        (("systems", "linear"), "def f():\n    import scorda.methods.enkf"),
        (("space",), "from . import guide"),
        (("systems", "linear"), "from ..observe import Select"),
        (("methods", "enkf"), "from scorda.methods.kalman import KalmanFilter"),
        (("methods", "enkf"), "from .kalman import KalmanFilter"),
        (("sample",), "from scorda.guide import Guidance"),
        (("process",), "import scorda"),
        (("process",), "from scorda import SDA"),
    ],
)
def test_a_forbidden_import_is_found(parts, source):
    assert list(violations(parts, imported(ast.parse(source), parts)))


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("observe",), "if TYPE_CHECKING:\n    from scorda.problem import Problem"),
        (("problem",), "from scorda.observe import Select\nimport torch"),
        (("systems", "linear"), "from .base import System"),
        (("methods", "__init__"), "from scorda.methods.kalman import KalmanFilter"),
        (("report",), "from scorda.plot import rank_histogram"),
        (("cli", "demo"), "import scorda as sc\nfrom scorda import SDA"),
    ],
)
def test_an_allowed_import_is_not(parts, source):
    assert not list(violations(parts, imported(ast.parse(source), parts)))


LIGHT = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("import scorda opened a socket")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import scorda

heavy = {"xarray", "matplotlib", "zarr", "pandas", "h5netcdf", "h5py", "scoringrules", "rich"}
heavy |= {"skimage", "PIL"}
print(*sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.skipif(not (SOURCE / "__init__.py").exists(), reason="no package yet")
def test_importing_scorda_stays_light():
    result = subprocess.run(
        [sys.executable, "-c", LIGHT],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE.parent), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
