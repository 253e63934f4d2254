"""Figures of posteriors, and HTML pages that gather them.

Functions of figures return a matplotlib figure and neither show nor save it; only `animate` and
the functions of pages write files.

Truth is black, observations are vermilion, ensembles are blue where there is one and take one
colour per method where there are several. Times are in the units of the space.
"""

from scorda.report.base import colours_of, component_name, style
from scorda.report.choice import plot
from scorda.report.comparison import comparison, means, sweep
from scorda.report.errors import errors
from scorda.report.flow import animate, is_flow, panels
from scorda.report.gallery import Record, add_record, write_gallery
from scorda.report.html import write_report
from scorda.report.maps import fields, hovmoller
from scorda.report.parameters import parameters
from scorda.report.reliability import rank_histograms, spread_skill
from scorda.report.series import error_and_spread, trajectories
from scorda.report.tradeoff import tradeoff

__all__ = [
    "Record",
    "add_record",
    "animate",
    "colours_of",
    "comparison",
    "component_name",
    "error_and_spread",
    "errors",
    "fields",
    "hovmoller",
    "is_flow",
    "means",
    "panels",
    "parameters",
    "plot",
    "rank_histograms",
    "spread_skill",
    "style",
    "sweep",
    "tradeoff",
    "trajectories",
    "write_gallery",
    "write_report",
]
