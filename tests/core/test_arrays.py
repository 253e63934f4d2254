"""Arrays of any kind become the same tensors."""

import numpy as np
import pytest
import torch
import xarray as xr

from scorda import metrics
from scorda.core.arrays import as_tensor, laid_out
from scorda.core.rng import seeded
from scorda.methods.enkf import EnKF
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Linear, Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem
from scorda.systems.linear import LinearGaussian


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


# Each is given whole numbers, which every type holds exactly.
KINDS = {
    "numpy": lambda a: a,
    "list": lambda a: a.tolist(),
    "single": lambda a: a.astype(np.float32),
    "half": lambda a: a.astype(np.float16),
    "integer": lambda a: a.astype(np.int16),
    "unsigned": lambda a: a.astype(np.uint8),
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian integer": lambda a: a.astype(">i4"),
    "long double": lambda a: a.astype(np.longdouble),
    "negative strides": lambda a: np.flip(np.flip(a).copy()),
    "column order": np.asfortranarray,
    "non-contiguous": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "read-only": read_only,
    "masked": np.ma.asarray,
    "xarray": xr.DataArray,
    "torch": torch.tensor,
    "torch integer": lambda a: torch.tensor(a).int(),
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "torch transposed": lambda a: torch.tensor(a).mT.contiguous().mT if a.ndim > 1 else a,
}


def analysis(kind):
    """Members of one EnKF analysis, everything given as arrays of one kind."""
    turn, cov = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[2.0, 1.0], [1.0, 3.0]])
    system = LinearGaussian(kind(turn), kind(cov), kind(np.zeros(2)), kind(cov))
    model = ObservationModel(Linear(kind(np.array([[1.0, 2.0], [3.0, 1.0]]))), cov=kind(cov))
    plain = ObservationModel(Select([1]), std=kind(np.array([2.0])))
    parts = [
        Observations(model, [1], kind(np.array([[3.0, 1.0]]))),
        Observations(plain, [1], kind(np.array([[2.0]])), std=kind(np.array([[1.0]]))),
    ]
    start = np.arange(12.0).reshape(6, 2) % 5
    return EnKF().assimilate(Problem(system, parts, 2, kind(start)), 6, seeded(3)).states


@pytest.mark.parametrize("name", KINDS)
def test_an_analysis_has_the_same_bits_for_arrays_of_any_kind(name):
    found, expected = analysis(KINDS[name]), analysis(torch.tensor)
    if name == "single":
        # Forty roundings of 6e-8, amplified by condition numbers below ten.
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(found, expected) and found.dtype == torch.float64


@pytest.mark.parametrize("name", KINDS)
def test_metrics_and_models_of_functions_take_arrays_of_any_kind(name):
    kind = KINDS[name]
    x, y, w = np.arange(12.0).reshape(4, 3) % 5, np.array([1.0, 2.0, 4.0]), np.ones(4)
    if name != "list":
        for score in (metrics.rmse, metrics.crps, metrics.coverage, metrics.energy_score):
            expected = score(torch.tensor(x), torch.tensor(y), weights=torch.tensor(w))
            found = score(kind(x), kind(y), weights=kind(w))
            torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    space = LinearGaussian(np.eye(3), np.eye(3), y, np.eye(3)).space
    system = FunctionSystem(lambda s: kind(s + 1), kind(x), space, noise_std=kind(y))
    plain = FunctionSystem(lambda s: s + 1, x, space, noise_std=y)
    state = system.prior(4, seeded(1))
    assert torch.equal(state.double(), plain.prior(4, seeded(1)))
    assert torch.equal(system.step(state, seeded(2)), plain.step(state, seeded(2)))


def test_what_is_masked_is_absent():
    values = np.ma.masked_equal([[1, -9999], [2, 3]], -9999)
    observed = Observations(ObservationModel(Select([0, 1]), std=1.0), [0, 1], values)
    expected = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    torch.testing.assert_close(observed.values, expected, equal_nan=True)
    truth = np.ma.masked_equal([1.0, -9999.0], -9999.0)
    assert metrics.rmse(np.zeros((2, 2)), truth) == 1


def test_what_is_not_a_tensor_is_copied():
    given = np.ones(3)
    kept = as_tensor(given, "given")
    given[:] = 2
    assert torch.equal(kept, torch.ones(3))


@pytest.mark.parametrize(
    "value",
    [
        np.array([1j]),
        torch.tensor([1j]),
        np.array(["1.0"]),
        ["a"],
        np.array([None, 1.0]),
        np.array(["2020-01-01"], "datetime64[s]"),
    ],
)
def test_what_is_not_real_is_refused(value):
    with pytest.raises(
        TypeError, match=r"^Got values of type .*: give an array of real numbers\.$"
    ):
        as_tensor(value, "values")


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="rows have different lengths"):
        as_tensor([[1.0], [1.0, 2.0]], "values")


@pytest.mark.parametrize("name", ["rmse", "crps", "coverage"])
def test_metrics_take_lists_and_refuse_text(name, unchecked):
    ensemble, truth = np.random.default_rng(0).normal(size=(6, 2, 3)), np.zeros((2, 3))
    metric = getattr(metrics, name)
    expected = metric(torch.tensor(ensemble), torch.tensor(truth))
    torch.testing.assert_close(metric(ensemble.tolist(), truth.tolist()), expected)
    with pytest.raises(TypeError, match="give an array of real numbers"):
        metric("members", truth)


@pytest.mark.parametrize("members", [20.0, "20", None, True])
def test_a_number_of_members_is_a_whole_number(members, unchecked):
    seen = Observations(ObservationModel(Select([0]), std=1.0), [1], [[0.0]])
    problem = Problem(
        LinearGaussian(torch.eye(2), torch.eye(2), torch.zeros(2), torch.eye(2)), seen, 1
    )
    with pytest.raises(TypeError, match=r"Got members = .* give a whole number"):
        EnKF().assimilate(problem, members)


def test_numbers_and_lists_have_the_default_type():
    torch.set_default_dtype(torch.float32)
    assert as_tensor([1.5, 2], "values").dtype == as_tensor(3, "values").dtype == torch.float32
    assert as_tensor(np.ones(2), "values").dtype == torch.float64


def test_a_tensor_that_is_laid_out_has_one_layout_wherever_it_comes_from():
    x = torch.arange(12.0).reshape(3, 4)
    buffer = np.empty(48 + 128, np.uint8)
    first = -buffer.ctypes.data % 64 + 16
    odd = torch.from_numpy(buffer[first : first + 48].view(np.float32).reshape(3, 4))
    odd.copy_(x)
    for given in (x, x.mT.contiguous().mT, odd):
        made = laid_out(given)
        assert torch.equal(made, x)
        assert made.is_contiguous() and made.data_ptr() % 64 == 0
    assert laid_out(x) is x
