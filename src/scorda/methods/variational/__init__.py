"""Weak-constraint 4D-Var: the cost of a trajectory and its minimiser."""

from scorda.methods.variational.filter import FourDVar

__all__ = ["FourDVar"]
