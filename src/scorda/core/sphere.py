r"""Positions on the globe: which axes are latitude and longitude, and the distance between points.

.. math:: d = 2 R \, \mathrm{atan2}(\sqrt h, \sqrt{1 - h}), \quad
    h = \sin^2 \frac{\varphi_1 - \varphi_2}{2}
    + \cos \varphi_1 \cos \varphi_2 \sin^2 \frac{\lambda_1 - \lambda_2}{2}

This is the great circle by the haversine formula, which keeps its digits for near points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from scorda.core.shapes import Float, Tensor

__all__ = [
    "EARTH_RADIUS",
    "HALF_CIRCUMFERENCE",
    "great_circle",
    "horizontal",
    "is_latitude",
    "is_longitude",
    "unit_vectors",
]

# Mean radius of the Earth and the largest distance on it, in km.
EARTH_RADIUS = 6371.0
HALF_CIRCUMFERENCE = math.pi * EARTH_RADIUS

# Spellings of the CF conventions, in lower case.
LATITUDE = ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn")
LONGITUDE = ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese")


def is_latitude(unit: str) -> bool:
    """Say whether a unit is one of latitude."""
    return unit.lower() in LATITUDE


def is_longitude(unit: str) -> bool:
    """Say whether a unit is one of longitude."""
    return unit.lower() in LONGITUDE


def horizontal(axes: Sequence[str], units: Mapping[str, str]) -> tuple[int, int] | None:
    """Return which axis is the latitude and which the longitude by their units, or None."""
    latitudes = [i for i, axis in enumerate(axes) if is_latitude(units.get(axis, ""))]
    longitudes = [i for i, axis in enumerate(axes) if is_longitude(units.get(axis, ""))]
    if len(latitudes) == 1 and len(longitudes) == 1:
        return latitudes[0], longitudes[0]
    return None


def great_circle(
    latitude: Float[Tensor, "..."],
    longitude: Float[Tensor, "..."],
    other_latitude: Float[Tensor, "..."],
    other_longitude: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Return the great circle in km between positions in degrees, elementwise, in double."""
    given = (latitude, other_latitude, longitude, other_longitude)
    a, b, east, other_east = (part.double().deg2rad() for part in given)
    h = ((a - b) / 2).sin().square()
    h = (h + a.cos() * b.cos() * ((east - other_east) / 2).sin().square()).clamp(0, 1)
    return 2 * EARTH_RADIUS * torch.atan2(h.sqrt(), (1 - h).sqrt())


def unit_vectors(
    latitude: Float[Tensor, "*points"], longitude: Float[Tensor, "*points"]
) -> Float[Tensor, "*points 3"]:
    """Return the directions from the centre of the globe to positions in degrees, in double."""
    north, east = latitude.double().deg2rad(), longitude.double().deg2rad()
    return torch.stack([north.cos() * east.cos(), north.cos() * east.sin(), north.sin()], -1)
