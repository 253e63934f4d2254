"""The forecast/analysis cycle, and the algebra that methods share."""

from scorda.assimilation.adaptive_inflation import Adaptive
from scorda.assimilation.additive_inflation import Additive
from scorda.assimilation.base import REQUIREMENTS, Assimilator, Cost, check_members, check_needs
from scorda.assimilation.climatology import Climatology
from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.assimilation.correlations import (
    CorrelationTaper,
    CorrelationThreshold,
    SamplingError,
)
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.diagnostics import collect
from scorda.assimilation.filter import Filter, PreparedFilter, Run
from scorda.assimilation.hybrid import Hybrid
from scorda.assimilation.inflation import (
    RTPP,
    RTPS,
    Inflation,
    Multiplicative,
    check_inflation,
)
from scorda.assimilation.innovations import Consistency, desroziers
from scorda.assimilation.kalman_algebra import inflate
from scorda.assimilation.localization import ByVariable, Layered, Localization, Taper
from scorda.assimilation.one_analysis import Predicted, analyse

__all__ = [
    "REQUIREMENTS",
    "RTPP",
    "RTPS",
    "Adaptive",
    "Additive",
    "Assimilator",
    "ByVariable",
    "Climatology",
    "ConditionalSMC",
    "Consistency",
    "CorrelationTaper",
    "CorrelationThreshold",
    "Cost",
    "Cycle",
    "Filter",
    "Hybrid",
    "Inflation",
    "Layered",
    "Localization",
    "Multiplicative",
    "Predicted",
    "PreparedFilter",
    "Run",
    "SamplingError",
    "Taper",
    "analyse",
    "check_inflation",
    "check_members",
    "check_needs",
    "collect",
    "desroziers",
    "inflate",
]
