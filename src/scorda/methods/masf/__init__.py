"""MASF: the bridge, and the samplers as published."""

from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.nonlinear import ProjectionSDE
from scorda.methods.masf.published import PublishedSDE

__all__ = ["MASF", "ProjectionSDE", "PublishedSDE"]
