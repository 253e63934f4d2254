"""Figures of posteriors; each function returns a matplotlib figure and shows or saves nothing.

Only `animate` writes a file.

Truth is black, observations are vermilion, ensembles are blue where there is one and take one
colour per method where there are several. Times are in the units of the space.
"""

from scorda.plot.base import colours_of, component_name, style
from scorda.plot.comparison import comparison, means, sweep
from scorda.plot.flow import animate, is_flow, panels
from scorda.plot.maps import fields, hovmoller
from scorda.plot.reliability import rank_histograms, spread_skill
from scorda.plot.series import error_and_spread, trajectories
from scorda.plot.tradeoff import tradeoff

__all__ = [
    "animate",
    "colours_of",
    "comparison",
    "component_name",
    "error_and_spread",
    "fields",
    "hovmoller",
    "is_flow",
    "means",
    "panels",
    "rank_histograms",
    "spread_skill",
    "style",
    "sweep",
    "tradeoff",
    "trajectories",
]
