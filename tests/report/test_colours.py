"""Colours: each method stands out from white and from the others, also for the colour-blind."""

from itertools import combinations

import numpy as np
import pytest

from scorda.report.base import INK, METHODS, MUTED, OBSERVED

# Machado, Oliveira & Fernandes (2009), IEEE Trans. Vis. Comput. Graphics 15, 1291, severity 1.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colour):
    """Red, green and blue from 0 to 1, proportional to light (IEC 61966-2-1)."""
    code = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def contrast_with_white(colour):
    """The contrast of WCAG 2.2."""
    return 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05)


def lab(light):
    """CIE L*a*b* under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = np.array(to_xyz) @ np.clip(light, 0, 1) / [0.9505, 1, 1.0888]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_graphics_and_text_have_the_contrast_of_wcag_aa():
    assert all(contrast_with_white(colour) >= 3 for colour in (*METHODS, OBSERVED))
    assert all(contrast_with_white(colour) >= 4.5 for colour in (INK, MUTED))


@pytest.mark.parametrize("kind", SEEN)
def test_colours_of_methods_differ_however_they_are_seen(kind):
    """A distance of 20 is ten times what is just noticeable."""
    seen = [lab(np.array(SEEN[kind]) @ linear(colour)) for colour in METHODS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20
