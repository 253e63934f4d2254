"""Examples of docstrings run as they stand, and every everyday name has one."""

import doctest
import inspect

import numpy as np
import pandas as pd
import pytest
import torch

import scorda as sc

SPACES = ("metrics", "observations", "priors", "report", "systems")
EVERYDAY = {name: getattr(sc, name) for name in sc.__all__ if callable(getattr(sc, name))}
OTHERS = {
    f"{space}.{name}": getattr(getattr(sc, space), name)
    for space in SPACES
    for name in getattr(sc, space).__all__
}
EXAMPLES = {
    name: inspect.getdoc(thing) or ""
    for name, thing in (EVERYDAY | OTHERS).items()
    if callable(thing) and ">>>" in (inspect.getdoc(thing) or "")
}


@pytest.fixture(scope="module")
def given():
    """Names that an example need not define."""
    seen = sc.ObservationModel(sc.Select([0]), std=0.5)
    truth, problem = sc.twin_experiment(sc.systems.Lorenz63(), seen, 16, 8, generator=0)
    return {"sc": sc, "np": np, "pd": pd, "torch": torch, "truth": truth, "problem": problem}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run_as_they_stand(name, given, tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    parsed = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(given), name, name, 0)
    told = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed, out=told.append)
    assert parsed.examples and not told, "".join(told)


def test_every_everyday_name_has_an_example():
    assert sorted(EVERYDAY.keys() - EXAMPLES.keys()) == []
