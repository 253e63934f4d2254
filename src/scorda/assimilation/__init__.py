"""The forecast/analysis cycle, and the algebra that methods share."""

from scorda.assimilation.base import REQUIREMENTS, Assimilator, Cost, check_members, check_needs
from scorda.assimilation.cycle import Cycle
from scorda.assimilation.diagnostics import collect
from scorda.assimilation.filter import Filter, PreparedFilter, Run
from scorda.assimilation.kalman_algebra import check_inflation, inflate
from scorda.assimilation.one_analysis import Predicted, analyse

__all__ = [
    "REQUIREMENTS",
    "Assimilator",
    "Cost",
    "Cycle",
    "Filter",
    "Predicted",
    "PreparedFilter",
    "Run",
    "analyse",
    "check_inflation",
    "check_members",
    "check_needs",
    "collect",
    "inflate",
]
