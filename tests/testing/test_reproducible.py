"""Every method has the same bits, however its work is cut into parts."""

import pytest

from scorda.assimilation.filter import Filter
from scorda.testing.reproducible import check_reproducible
from testing.test_contracts import ASSIMILATORS, FILTERS, linear_problem, name


@pytest.mark.slow
@pytest.mark.parametrize("method", FILTERS, ids=name)
def test_a_filter_that_is_continued_has_the_same_bits(method):
    check_reproducible(method)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [m for m in ASSIMILATORS if not isinstance(m, Filter)], ids=name
)
def test_a_smoother_in_parts_has_the_same_bits(method):
    check_reproducible(method, linear_problem())
