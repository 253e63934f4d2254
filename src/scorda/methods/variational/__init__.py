"""3D-Var, and weak-constraint 4D-Var: the cost of a trajectory and its minimiser."""

from scorda.methods.variational.filter import FourDVar
from scorda.methods.variational.threedvar import ThreeDVar

__all__ = ["FourDVar", "ThreeDVar"]
