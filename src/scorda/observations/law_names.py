"""Names of the laws of observations, as the command line and tables write them."""

from __future__ import annotations

from collections.abc import Sequence

from scorda.observations.laws import Law
from scorda.observations.robust_laws import Huber, Laplace, Normal, StudentT
from scorda.observations.value_laws import (
    Bernoulli,
    Censored,
    LogNormal,
    NegativeBinomial,
    Poisson,
)

__all__ = ["law_named", "laws_named"]

NAMED: dict[str, type[Law]] = {
    "gaussian": Normal,
    "student": StudentT,
    "laplace": Laplace,
    "huber": Huber,
    "lognormal": LogNormal,
    "censored": Censored,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "bernoulli": Bernoulli,
}
NUMBERED = (StudentT, Huber, Censored, NegativeBinomial)


def laws_named(given: Sequence[str], variables: Sequence[str]) -> dict[str, Law]:
    """Return laws by variable, "" for all others, of ``student:4`` or ``wind=student:4``.

    Raises:
        ValueError: If there is no such law or variable.
    """
    found: dict[str, Law] = {}
    for text in given:
        variable, equals, name = text.rpartition("=")
        if equals and variable not in variables:
            raise ValueError(f"Got the law {text!r}: the variables are {', '.join(variables)}.")
        found[variable] = law_named(name)
    return found


def law_named(text: str) -> Law:
    """Return the law of a name and its number, such as ``laplace`` or ``student:4``.

    Raises:
        ValueError: If there is none.
    """
    name, colon, number = text.strip().lower().partition(":")
    kind = NAMED.get(name)
    try:
        if kind is not None and bool(colon) <= (kind in NUMBERED):
            return kind(*([float(number)] if colon else []))
    except TypeError:
        pass  # a law that needs its number, without one
    except ValueError as error:
        if str(error).startswith("Got"):
            raise
    raise ValueError(
        f"Got the law {text!r}: give gaussian, student:4 (degrees of freedom), laplace, "
        "huber:1.345 (where the tails begin), lognormal, censored:0.5 (detection limit), "
        "poisson, negative-binomial:5 (dispersion) or bernoulli."
    )
