"""Observations: what is observed, when and with what error; and the problem that they pose."""

from scorda.observations.analysis import Analysis
from scorda.observations.fluid import Difference, Speed, Vorticity
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Function, Linear, Operator, Pointwise, Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.observations.spatial import Average, Blur, Interpolate, Stride

__all__ = [
    "Analysis",
    "Average",
    "Blur",
    "Chain",
    "Difference",
    "Function",
    "Interpolate",
    "Linear",
    "Mask",
    "Modes",
    "ObservationModel",
    "Observations",
    "Operator",
    "Pointwise",
    "Problem",
    "Select",
    "Speed",
    "Stride",
    "Vorticity",
    "twin_experiment",
]
