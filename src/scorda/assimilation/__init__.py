"""The forecast/analysis cycle, and what the methods share of it."""

from scorda.assimilation.base import REQUIREMENTS, Assimilator, Cost, check_members, check_needs
from scorda.assimilation.filter import Cycle, Filter, collect
from scorda.assimilation.kalman_algebra import check_inflation, inflate

__all__ = [
    "REQUIREMENTS",
    "Assimilator",
    "Cost",
    "Cycle",
    "Filter",
    "check_inflation",
    "check_members",
    "check_needs",
    "collect",
    "inflate",
]
