"""The named benchmarks and the scores expected of them are found in the set-ups."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pkgutil import iter_modules
from typing import Any

from scorda.bench.entry import Benchmark

__all__ = ["PROBLEMS", "expected_scores"]

SETUPS = "scorda.bench.setups"


def _problems() -> dict[str, Callable[..., Benchmark]]:
    """Find the functions in ``__all__`` of the set-ups: ``lorenz63_sda`` is ``lorenz63-sda``."""
    paths = import_module(SETUPS).__path__
    modules = [import_module(f"{SETUPS}.{found.name}") for found in iter_modules(paths)]
    makers = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name.replace("_", "-"): makers[name] for name in sorted(makers)}


PROBLEMS = _problems()


def expected_scores(problem: str) -> dict[str, dict[str, Any]]:
    """Return the scores expected of a problem: score, ``tolerance`` and ``source`` per label.

    Where the options of an entry are chosen, these are also given: the scores belong to them.
    """
    text = files(SETUPS).joinpath("expected.toml").read_text(encoding="utf-8")
    return tomllib.loads(text).get(problem, {})
