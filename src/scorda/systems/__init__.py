"""Dynamical systems are Markov chains of states; they know nothing of diffusion."""

from scorda.core.distributions import LogNormal, Normal, Uniform
from scorda.core.transforms import Circular, Log, Logit, NormalScores
from scorda.systems.base import AdditiveNoise, System
from scorda.systems.executable import Executable
from scorda.systems.function import FunctionSystem
from scorda.systems.kolmogorov import KolmogorovFlow
from scorda.systems.linear import LinearGaussian
from scorda.systems.load import load_system
from scorda.systems.lorenz import Lorenz63, Lorenz96
from scorda.systems.mapped import Mapped
from scorda.systems.parameters import WithParameters

__all__ = [
    "AdditiveNoise",
    "Circular",
    "Executable",
    "FunctionSystem",
    "KolmogorovFlow",
    "LinearGaussian",
    "Log",
    "LogNormal",
    "Logit",
    "Lorenz63",
    "Lorenz96",
    "Mapped",
    "Normal",
    "NormalScores",
    "System",
    "Uniform",
    "WithParameters",
    "load_system",
]
