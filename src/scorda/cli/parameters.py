"""Unknown parameters from the shell: ``--parameter rho=uniform:20,35``."""

from __future__ import annotations

from collections.abc import Sequence

from scorda.cli.settings import UserError
from scorda.core.distributions import Distribution, Value, distribution_of
from scorda.systems.base import System
from scorda.systems.parameters import WithParameters

__all__ = ["with_parameters"]

FORM = "name=LAW, as rho=uniform:20,35, name=LAW~WALK, or name=LAW@POSITION"


def with_parameters(system: System, given: Sequence[str], values: bool) -> WithParameters:
    """Return a system with parameters that are given as text.

    A text is ``name=LAW``, with a law of `distribution_of`; ``~0.01`` behind it lets the parameter
    walk at random, and ``@12`` or ``@48.1,11.6`` gives it a position for localization.

    Arguments:
        system: The system.
        given: The texts.
        values: Whether a number may stand in place of a law.

    Raises:
        UserError: If one does not fit.
    """
    laws: dict[str, Distribution] = {}
    walks: dict[str, float] = {}
    positions: dict[str, list[float]] = {}
    for text in given:
        name, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not name or name in laws:
            again = f": {name} is there twice" if name in laws else f": give {FORM}"
            raise UserError(f"Got --parameter {text}{again}.")
        law, at, place = rest.partition("@")
        law, walks_by, walk = law.partition("~")
        try:
            laws[name] = distribution_of(law)
            if walks_by:
                walks[name] = float(walk)
            if at:
                positions[name] = [float(number) for number in place.split(",")]
        except ValueError as error:
            why = f" {error}" if str(error).startswith("Got ") else f" Give {FORM}."
            raise UserError(f"--parameter {text} does not fit.{why}") from error
        if isinstance(laws[name], Value) and not values:
            raise UserError(
                f"Got --parameter {text}, a value: give its prior, as {name}=uniform:LOWER,UPPER; "
                f"a setting that is known is --system.{name}."
            )
    try:
        evolution = "random-walk" if walks else "constant"
        return WithParameters(system, laws, evolution, walks, positions)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"--parameter: {error}") from error
