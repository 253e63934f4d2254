"""MASF: the exact bridge, and the two filters as published."""

from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.nonlinear import NonlinearMASF, ProjectionSDE
from scorda.methods.masf.published import PublishedMASF, PublishedSDE

__all__ = ["MASF", "NonlinearMASF", "ProjectionSDE", "PublishedMASF", "PublishedSDE"]
