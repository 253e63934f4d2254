"""Scripts of the repository, imported by their path."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_script(path):
    """Import a script that is in no package, by its path below the root of the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
