"""A package imports only from lower floors, and importing Scorda stays light."""

import ast
import builtins
import subprocess
import sys
from pathlib import Path

import pytest

import scorda
from scorda.cli.catalogue import listed

SOURCE = Path(__file__).parents[1] / "src" / "scorda"

# From the ground up: a package imports only from lower floors.
FLOORS = (
    {"core"},
    {"reading"},
    {"systems", "metrics", "nn"},
    {"observations"},
    {"diffusion", "assimilation"},
    {"priors", "testing", "store"},
    {"methods", "report"},
    {"bench"},
    {"cli"},
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS, 1) for name in names}
# These use the library as its users do, through the package.
USERS = {"bench", "cli"}


def modules():
    """Every module inside a package as (path, dotted name below scorda)."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if len(parts) > 1:
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
        if not name or name[0] not in FLOOR:
            if own not in USERS:
                yield f"{where} imports {name[0] if name else 'scorda'} through the package"
        elif own == "methods" == name[0]:
            if parts[1] != "__init__" and name[1:2] != parts[1:2]:
                yield f"{where} imports another method, {'.'.join(name)}"
        elif own != name[0] and FLOOR[name[0]] >= FLOOR[own]:
            yield f"{where} imports {'.'.join(name)}, which stands no lower"


def test_packages_are_those_of_the_floor_plan():
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == FLOOR.keys()
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_packages_import_only_from_lower_floors():
    found = [
        violation
        for path, parts in modules()
        for violation in violations(parts, imported(ast.parse(path.read_text()), parts))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("observations", "operators"), "from scorda.diffusion.process import ForwardProcess"),
        (("systems", "linear"), "def f():\n    import scorda.methods.enkf"),
        (("core", "space"), "from ..diffusion import guidance"),
        (("systems", "linear"), "from ..observations import Select"),
        (("systems", "linear"), "from scorda.metrics import rmse"),
        (("methods", "enkf"), "from scorda.methods.kalman import KalmanFilter"),
        (("methods", "enkf"), "from .kalman import KalmanFilter"),
        (("methods", "masf", "bridge"), "from scorda.methods.sda import SDA"),
        (("diffusion", "process"), "import scorda"),
        (("diffusion", "process"), "from scorda import SDA"),
    ],
)
def test_a_forbidden_import_is_found(parts, source):
    assert list(violations(parts, imported(ast.parse(source), parts)))


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("core", "times"), "if TYPE_CHECKING:\n    from scorda.observations import Problem"),
        (("diffusion", "process"), "from scorda.observations import Select\nimport torch"),
        (("systems", "linear"), "from .base import System"),
        (("methods", "__init__"), "from scorda.methods.kalman import KalmanFilter"),
        (("methods", "masf", "bridge"), "from scorda.methods.masf.published import PublishedSDE"),
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
heavy |= {"skimage", "PIL", "torch", "numpy"}
print(*sorted(heavy & sys.modules.keys()))
scorda.EnKF, scorda.load, scorda.open_posterior
heavy -= {"torch", "numpy"}
print(*sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.slow
def test_importing_scorda_stays_light():
    result = subprocess.run(
        [sys.executable, "-c", LIGHT],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE.parent), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


WITHOUT_TORCH = """
import sys
from scorda.cli import main

try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted({"torch", "numpy", "xarray"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["--help", "--version", "methods", "methids"])
def test_commands_that_only_print_do_not_import_torch(command):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, command],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE.parent), "OMP_NUM_THREADS": "1"},
    )
    *said, imported = result.stderr.splitlines()
    assert imported == "", result.stderr
    assert bool(said) == (command == "methids")
    assert command == "methids" or result.stdout


def test_the_public_names_exist_and_replace_no_builtin():
    # Methods come with `make methods`; all others are everyday names and stay few.
    others = set(scorda.__all__) - {method.name for method in listed().values()}
    assert 20 <= len(others) <= 40
    assert not set(scorda.__all__) & set(dir(builtins))
    for name in scorda.__all__:
        assert getattr(scorda, name) is not None
    with pytest.raises(AttributeError, match="EnKFF"):
        scorda.EnKFF
