"""A short form of the fuzzers, which run in thousands by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import common
import netcdf
import settings
import tables


@pytest.mark.slow
@pytest.mark.parametrize("module", [tables, settings, netcdf], ids=lambda m: m.__name__)
def test_malformed_input_ends_with_one_sentence_and_leaves_nothing(module, tmp_path):
    prepare = getattr(module, "prepare", None)
    _, failures = common.tried(module.KINDS, 1000, 2 * len(module.KINDS), tmp_path, prepare)
    assert not failures, failures[0]
