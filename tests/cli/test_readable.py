"""Formulas of docstrings for a terminal."""

import pytest

from scorda.cli.readable import readable


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"\frac{\mathrm{cov}(x, z)}{v + r}", "(cov(x, z))/(v + r)"),
        (r"\Bigl( 1 + r \Bigr)^{-1}", "( 1 + r )^(-1)"),
        (r"1 + \tfrac1N", "1 + 1/N"),
        (r"\tfrac12 x_{t}", "1/2 x_t"),
    ],
)
def test_a_formula_has_no_latex_left(latex, plain):
    assert readable(f":math:`{latex}`") == plain
