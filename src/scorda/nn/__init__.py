"""Networks map noisy trajectories and their noise levels to targets of unit variance."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from scorda.nn.ring_temporal import RingTemporalConv
from scorda.nn.spectral import ModeNetwork
from scorda.nn.steps import StepModes, StepRing, StepUNet
from scorda.nn.temporal import TemporalConv, WindowMLP
from scorda.nn.unet import UNet

__all__ = [
    "ARCHITECTURES",
    "ModeNetwork",
    "RingTemporalConv",
    "StepModes",
    "StepRing",
    "StepUNet",
    "TemporalConv",
    "UNet",
    "WindowMLP",
    "build",
]

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "modes": ModeNetwork,
    "ring-conv": RingTemporalConv,
    "step-modes": StepModes,
    "step-ring": StepRing,
    "step-unet": StepUNet,
    "temporal-conv": TemporalConv,
    "unet": UNet,
    "window-mlp": WindowMLP,
}


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a network from its name and arguments, as kept in the header of a prior.

    Raises:
        ValueError: If the name is unknown or the arguments do not fit.
    """
    arguments = dict(architecture)
    name = arguments.pop("name", None)
    if name not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {name!r}: Scorda has {sorted(ARCHITECTURES)}.")
    try:
        return ARCHITECTURES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"Arguments of architecture {name!r} do not fit: {error}.") from error
