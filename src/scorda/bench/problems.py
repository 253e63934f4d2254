"""The named benchmarks, and the scores expected of them.

Each function of `PROBLEMS` returns one; the scores expected of its entries stand in
``expected.toml`` under the same names and labels. To try one more method on a problem, add an
`Entry` to the function that makes it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from scorda.bench.bimodal import lorenz63_bimodal
from scorda.bench.classical import lorenz63_sakov, lorenz96_arctan, lorenz96_sakov
from scorda.bench.entry import Benchmark
from scorda.bench.exact import linear_gaussian
from scorda.bench.kolmogorov import (
    kolmogorov_assimilation,
    kolmogorov_extrapolation,
    kolmogorov_loop,
    kolmogorov_ring,
    kolmogorov_saturation,
    kolmogorov_subsampling,
)
from scorda.bench.measured import (
    lorenz63_masf,
    lorenz96_masf_dim,
    lorenz96_masf_forcing,
    lorenz96_masf_gap,
)
from scorda.bench.nonlinear import lorenz96_10, lorenz96_20
from scorda.bench.prior import lorenz63_prior
from scorda.bench.smoothing import lorenz63_sda
from scorda.bench.turbulence import (
    kolmogorov_masf,
    kolmogorov_masf_64,
    kolmogorov_masf_operators,
    kolmogorov_masf_operators_128,
    kolmogorov_masf_size,
)

__all__ = ["PROBLEMS", "expected_scores"]

PROBLEMS: dict[str, Callable[..., Benchmark]] = {
    "linear-gaussian": linear_gaussian,
    "lorenz63-sda": lorenz63_sda,
    "lorenz63-prior": lorenz63_prior,
    "lorenz63-sakov": lorenz63_sakov,
    "lorenz63-bimodal": lorenz63_bimodal,
    "lorenz63-masf": lorenz63_masf,
    "lorenz96-sakov": lorenz96_sakov,
    "lorenz96-arctan": lorenz96_arctan,
    "lorenz96-10": lorenz96_10,
    "lorenz96-20": lorenz96_20,
    "lorenz96-masf-dim": lorenz96_masf_dim,
    "lorenz96-masf-forcing": lorenz96_masf_forcing,
    "lorenz96-masf-gap": lorenz96_masf_gap,
    "kolmogorov-assimilation": kolmogorov_assimilation,
    "kolmogorov-extrapolation": kolmogorov_extrapolation,
    "kolmogorov-saturation": kolmogorov_saturation,
    "kolmogorov-subsampling": kolmogorov_subsampling,
    "kolmogorov-ring": kolmogorov_ring,
    "kolmogorov-loop": kolmogorov_loop,
    "kolmogorov-masf": kolmogorov_masf,
    "kolmogorov-masf-64": kolmogorov_masf_64,
    "kolmogorov-masf-operators": kolmogorov_masf_operators,
    "kolmogorov-masf-operators-128": kolmogorov_masf_operators_128,
    "kolmogorov-masf-size": kolmogorov_masf_size,
}


def expected_scores(problem: str) -> dict[str, dict[str, Any]]:
    """Expected scores of a problem: score, ``tolerance`` and ``source`` per label.

    Where options are chosen, also those that the scores belong to.
    """
    text = files("scorda.bench").joinpath("expected.toml").read_text()
    return tomllib.loads(text).get(problem, {})
