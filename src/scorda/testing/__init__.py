"""Contracts: what every system, operator, method and diffusion piece promises, as checks.

Each check takes an object, runs it on small inputs, and raises an `AssertionError` of one sentence
that names the class and the broken promise. The library runs them on all of its own classes; run
them on yours::

    from scorda.testing import check_filter

    def test_my_filter_keeps_the_contract():
        check_filter(MyFilter())

They need no test framework and draw from seeds of their own.
"""

from scorda.testing.declared import check_declaration
from scorda.testing.diffusion import check_denoiser, check_guidance, check_process, check_sampler
from scorda.testing.methods import check_assimilator, check_filter
from scorda.testing.physics import check_operator, check_system
from scorda.testing.reproducible import check_reproducible
from scorda.testing.robust import check_robust
from scorda.testing.units import check_metric_units, check_prior_units, check_units

__all__ = [
    "check_assimilator",
    "check_declaration",
    "check_denoiser",
    "check_filter",
    "check_guidance",
    "check_metric_units",
    "check_operator",
    "check_prior_units",
    "check_process",
    "check_reproducible",
    "check_robust",
    "check_sampler",
    "check_system",
    "check_units",
]
