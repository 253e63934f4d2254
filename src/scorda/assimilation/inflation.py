r"""Inflation: what keeps an ensemble from becoming narrower than its error.

Sampling errors, localization and a model without error make the spread of an ensemble too small;
without a remedy a filter then ignores its observations. With the members of a forecast,
:math:`x_i^b`, and of an analysis, :math:`x_i^a`, and standard deviations :math:`s^b, s^a` of each
component, an `Inflation` changes the one before the analysis or the other after it. A number
stands for `Multiplicative`.

State of an inflation, such as that of `Adaptive`, travels with the run (`Cycle.carried`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

import torch

from scorda.assimilation.kalman_algebra import inflate
from scorda.core import rng
from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = [
    "RTPP",
    "RTPS",
    "Inflation",
    "Multiplicative",
    "Stage",
    "check_inflation",
    "check_stage",
]

Stage = Literal["analysis", "forecast"]

# Of the tensors of an inflation, among those that a run carries.
PREFIX = "inflation."
# The stream of an inflation, beside that of the analysis.
STREAM = 1


class Inflation(ABC):  # noqa: B024 (each writes `before`, `after` or both)
    """Settings of an inflation, and, where it has no state, what inflates in a run.

    One with a state returns an object of its own from `begin`. `gaussian` says whether it takes
    Gaussian errors of observation alone.
    """

    gaussian: ClassVar[bool] = False

    def begin(self, problem: Problem) -> Inflation:
        """Return what inflates the cycles of one run.

        Raises:
            ValueError: If the problem lacks what it needs.
        """
        return self

    def before(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the forecast that is analysed; by default, as it is.

        Arguments:
            forecast: Members, which must not be changed.
            y: Flat and complete observation.
            model: Model of the observation.
            generator: That of the analysis. An inflation draws from `stream_of` it, so that the
                draws of the method do not depend on the inflation.
        """
        return forecast

    def after(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        analysis: Float[Tensor, "ensemble ..."],
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        """Return the analysis that the run goes on with; by default, as it is.

        Arguments:
            forecast: Members that `before` returned.
            analysis: Members of the method's analysis, which must not be changed.
            generator: As in `before`.
        """
        return analysis

    @property
    def carried(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs to go on from here."""
        return {}

    def restore(self, carried: Mapping[str, Tensor]) -> None:  # noqa: B027 (most carry nothing)
        """Take up what an earlier cycle carried, where a run is continued."""

    def report(self) -> dict[str, Any]:
        """Return numbers about this cycle."""
        return {}


@dataclass(frozen=True)
class Multiplicative(Inflation):
    r"""Multiply anomalies about the mean, :math:`x_i \leftarrow \bar x + \lambda (x_i - \bar x)`.

    The variance grows by :math:`\lambda^2`. On the analysis it is, bit for bit, what the number
    :math:`\lambda` is as `inflation` of a filter: a method that multiplies within its own formula
    does so (the `LETKF` only where it sees anything).

    Source: Anderson & Anderson (1999), Mon. Wea. Rev. 127, 2741-2758.

    Arguments:
        factor: :math:`\lambda`, at least 1.
        stage: Whether the "analysis" or the "forecast" before it is inflated.

    Example:
        With `problem` as in `twin_experiment`:

        >>> method = sc.EnKF(inflation=sc.Multiplicative(1.05, stage="forecast"))
        >>> analysis = method.assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    factor: float
    stage: Stage = "analysis"

    def __post_init__(self) -> None:
        check_inflation(self.factor)
        check_stage(self.stage)

    def before(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        return inflate(forecast, self.factor) if self.stage == "forecast" else forecast

    def after(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        analysis: Float[Tensor, "ensemble ..."],
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        return inflate(analysis, self.factor) if self.stage == "analysis" else analysis


@dataclass(frozen=True)
class RTPS(Inflation):
    r"""Relax the spread of the analysis to that of the forecast, component by component.

    .. math:: x_i^a \leftarrow \bar x^a + \left[ 1 + \alpha \, \frac{s^b - s^a}{s^a} \right]
        (x_i^a - \bar x^a),

    so that the standard deviation becomes :math:`(1 - \alpha) s^a + \alpha s^b`, exactly. It acts
    where observations have narrowed the ensemble, in the pattern of the analysis. A component that
    the analysis left as it was, or without any spread, stays bit for bit.

    Source: Whitaker & Hamill (2012), Mon. Wea. Rev. 140, 3078-3089 ("relaxation to prior spread").

    Arguments:
        relaxation: :math:`\alpha`, at least 0; 0: none, 1: the spread of the forecast. Values of
            0.3 to 1 are common.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF(inflation=sc.RTPS(0.5)).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    relaxation: float

    def __post_init__(self) -> None:
        if not 0 <= self.relaxation < float("inf"):
            raise ValueError(
                f"Got relaxation = {self.relaxation}: give RTPS a number of at least 0, such as "
                "0.9."
            )

    def after(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        analysis: Float[Tensor, "ensemble ..."],
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        wide, narrow = component_std(forecast), component_std(analysis)
        share = torch.where(narrow > 0, (wide - narrow) / narrow, 0.0)
        # As an increment: where it is zero no bit changes.
        return analysis + self.relaxation * share * (analysis - analysis.mean(0))


@dataclass(frozen=True)
class RTPP(Inflation):
    r"""Relax the anomalies of the analysis to those of the forecast.

    .. math:: x_i^a \leftarrow \bar x^a + (1 - \alpha) (x_i^a - \bar x^a)
        + \alpha (x_i^b - \bar x^b)

    It returns a share of the pattern of the forecast, where `RTPS` returns its amplitude alone.
    What the analysis left as it was stays bit for bit.

    Source: Zhang, Snyder & Sun (2004), Mon. Wea. Rev. 132, 1238-1253, equation 5 ("relaxation to
    prior perturbations").

    Arguments:
        relaxation: :math:`\alpha` in [0, 1]; 0: none, 1: the anomalies of the forecast.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.EnKF(inflation=sc.RTPP(0.5)).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    relaxation: float

    def __post_init__(self) -> None:
        if not 0 <= self.relaxation <= 1:
            raise ValueError(
                f"Got relaxation = {self.relaxation}: give RTPP a share between 0 and 1."
            )

    def after(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        analysis: Float[Tensor, "ensemble ..."],
        generator: torch.Generator,
    ) -> Float[Tensor, "ensemble ..."]:
        gap = (forecast - forecast.mean(0)) - (analysis - analysis.mean(0))
        return analysis + self.relaxation * gap


def check_inflation(inflation: float | Inflation) -> None:
    """Check the setting `inflation` of a filter.

    Raises:
        ValueError: If a number is below 1 or not finite, or it is something else.
    """
    if isinstance(inflation, Inflation):
        return
    if not isinstance(inflation, Real):
        raise ValueError(
            f"Got inflation = {inflation!r}: give a number of at least 1, or an inflation such as "
            "sc.RTPS(0.9)."
        )
    if not 1 <= inflation < float("inf"):
        raise ValueError(
            f"Got inflation = {inflation}: it multiplies the anomalies of the analysis, so give a "
            "number of at least 1."
        )


def check_stage(stage: str) -> None:
    """Check the setting `stage` of an inflation.

    Raises:
        ValueError: If it is not known.
    """
    if stage not in get_args(Stage):
        raise ValueError(f"Got stage = {stage!r}: choose 'analysis' or 'forecast'.")


def factor_of(inflation: float | Inflation) -> float:
    """Return the factor of the analysis anomalies that is all of an inflation, else 1."""
    if not isinstance(inflation, Inflation):
        return inflation
    if isinstance(inflation, Multiplicative) and inflation.stage == "analysis":
        return inflation.factor
    return 1.0


def stream_of(generator: torch.Generator) -> torch.Generator:
    """Return the generator of an inflation, of that of the analysis of the step."""
    return rng.at((generator.initial_seed(), STREAM), 0)


def parted(carried: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what a run carries of its method, and of its inflation."""
    both = carried or {}
    own = {n.removeprefix(PREFIX): t for n, t in both.items() if n.startswith(PREFIX)}
    return {n: t for n, t in both.items() if not n.startswith(PREFIX)}, own
