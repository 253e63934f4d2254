"""Units as people write them are converted exactly, and what is no unit is refused."""

import numpy as np
import pytest

from scorda.reading.units import conversion, converted


# Factors and offsets from the definitions of the units.
@pytest.mark.parametrize(
    ("given", "wanted", "factor", "offset"),
    [
        ("knots", "m s-1", 1852 / 3600, 0),
        ("kt", "m/s", 1852 / 3600, 0),
        ("degC", "K", 1, 273.15),
        ("deg C", "K", 1, 273.15),
        ("degree_Celsius", "K", 1, 273.15),
        ("C", "K", 1, 273.15),
        ("degF", "K", 5 / 9, 459.67 * 5 / 9),
        ("K", "degC", 1, -273.15),
        ("hPa", "Pa", 100, 0),
        ("mb", "hPa", 1, 0),
        ("mbar", "Pa", 100, 0),
        ("dbar", "Pa", 1e4, 0),
        ("g kg-1", "kg kg**-1", 1e-3, 0),
        ("%", "1", 0.01, 0),
        ("m s**-1", "m s-1", 1, 0),
        ("anything", "anything", 1, 0),
    ],
)
def test_units_are_converted(given, wanted, factor, offset):
    assert conversion(given, wanted) == pytest.approx((factor, offset), rel=1e-12, abs=1e-300)
    values = np.array([1.0, np.nan, 3.0])
    np.testing.assert_allclose(converted(values, given, wanted), factor * values + offset)


@pytest.mark.parametrize(
    "given", ["m", "m s-1 m", "", "c", "??", "os.system('x')", "K" * 200, "10"]
)
def test_what_cannot_be_converted_is_refused(given):
    with pytest.raises(ValueError, match="cannot be converted"):
        conversion(given, "K")
