"""Observations: what is observed, when and with what error; and the problem that they pose."""

from scorda.observations.analysis import Analysis
from scorda.observations.fluid import Difference, Speed, Vorticity
from scorda.observations.laws import Density, Law
from scorda.observations.masks import Mask
from scorda.observations.memory import OverTime, newest, remembering
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Function, Linear, Operator, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.observations.robust_laws import Huber, Laplace, StudentT
from scorda.observations.spatial import Average, Blur, Interpolate, Stride
from scorda.observations.value_laws import (
    Bernoulli,
    Censored,
    LogNormal,
    NegativeBinomial,
    Poisson,
)

__all__ = [
    "Analysis",
    "Average",
    "Bernoulli",
    "Blur",
    "Censored",
    "Chain",
    "Density",
    "Difference",
    "Function",
    "Huber",
    "Interpolate",
    "Laplace",
    "Law",
    "Linear",
    "LogNormal",
    "Mask",
    "Modes",
    "NegativeBinomial",
    "ObservationModel",
    "Observations",
    "Operator",
    "OverTime",
    "Pointwise",
    "Poisson",
    "Problem",
    "Select",
    "Speed",
    "Stride",
    "StudentT",
    "Vorticity",
    "newest",
    "remembering",
    "twin_experiment",
]
