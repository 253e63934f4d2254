"""The forecast/analysis cycle, and the algebra that methods share."""

from scorda.assimilation.base import REQUIREMENTS, Assimilator, Cost, check_members, check_needs
from scorda.assimilation.filter import Cycle, Filter, PreparedFilter, Run, collect
from scorda.assimilation.kalman_algebra import check_inflation, inflate

__all__ = [
    "REQUIREMENTS",
    "Assimilator",
    "Cost",
    "Cycle",
    "Filter",
    "PreparedFilter",
    "Run",
    "check_inflation",
    "check_members",
    "check_needs",
    "collect",
    "inflate",
]
