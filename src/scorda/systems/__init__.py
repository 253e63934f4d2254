"""Dynamical systems: Markov chains of states. They know nothing of diffusion."""

from scorda.systems.base import AdditiveNoise, System
from scorda.systems.lorenz import Lorenz63, Lorenz96

__all__ = ["AdditiveNoise", "Lorenz63", "Lorenz96", "System"]
