"""Arrays of any kind become tensors of real numbers, once, where a caller hands them in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from operator import index
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from scorda.core.errors import ShapeError
from scorda.core.shapes import Tensor

__all__ = ["ArrayLike", "as_indices", "as_positions", "as_tensor", "laid_out", "takes_arrays"]

# A number, a sequence, or an array of any library that NumPy can read.
ArrayLike: TypeAlias = Any

Result = TypeVar("Result")
# Bytes at whose multiples torch places its tensors, and other libraries not.
ALIGNED = 64
FLOATS = {"float32": torch.float32, "float64": torch.float64, "float128": torch.float64}


def as_tensor(value: ArrayLike, what: str) -> Tensor:
    """Return an array of real numbers as a tensor in single or double precision.

    Arrays and tensors in single or double precision keep it; half precision, whole numbers and
    plain Python numbers get torch's default. Masked entries are NaN. Byte order, strides and
    write protection do not matter: what is not a tensor is copied.

    Arguments:
        value: A number, a sequence, a tensor, or an array of NumPy, xarray or pandas.
        what: Name of the value in errors.

    Raises:
        TypeError: If the entries are not real numbers: complex ones, text, times, objects.
        ValueError: If a sequence has rows of different lengths.
    """
    default = torch.get_default_dtype()
    if isinstance(value, Tensor):
        if value.is_complex():
            raise _unreal(what, value.dtype)
        return value if value.dtype in FLOATS.values() else value.to(default)
    plain = not hasattr(value, "dtype") and not hasattr(value, "__array__")
    try:
        array = value if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"Got {what} whose rows have different lengths: give one array of numbers."
        ) from error
    if array.dtype.kind not in "fiub":
        raise _unreal(what, array.dtype)
    dtype = default if plain else FLOATS.get(array.dtype.name, default)
    floats = np.array(array, dtype=np.float32 if dtype == torch.float32 else np.float64, order="C")
    if isinstance(array, np.ma.MaskedArray):
        floats[np.ma.getmaskarray(array)] = np.nan
    return torch.from_numpy(floats).to(dtype)


def as_indices(values: Iterable[Any], what: str) -> tuple[int, ...]:
    """Return whole numbers of Python, NumPy or torch as integers.

    Raises:
        TypeError: If one is no whole number; True and False are none.
    """
    found = []
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise TypeError(f"Got {values!r:.80} for {what}: give a list of whole numbers.")
    for value in values:
        plain = value.item() if hasattr(value, "item") else value
        if isinstance(plain, bool) or not hasattr(plain, "__index__"):
            raise TypeError(f"Got {plain!r} in {what}: give whole numbers.")
        found.append(index(plain))
    return tuple(found)


def as_positions(positions: ArrayLike | None, observations: int | None = None) -> Tensor | None:
    """Return positions as a tensor, ``(observations, axes)``; None stays.

    Raises:
        ValueError: If there is not one row per observation.
    """
    if positions is None:
        return None
    positions = as_tensor(positions, "positions")
    if positions.ndim != 2 or (observations is not None and len(positions) != observations):
        raise ShapeError(
            f"Got positions of shape {tuple(positions.shape)}: give one row per observation"
            f"{'' if observations is None else f' ({observations})'} and one column per axis."
        )
    return positions


def takes_arrays(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of tensors take arrays of any kind, as `as_tensor` does."""
    parameters = inspect.signature(function).parameters
    names = tuple(parameters)
    arrays = {name for name, p in parameters.items() if "Tensor" in str(p.annotation)}

    @wraps(function)
    def taking(*args: Any, **kwargs: Any) -> Result:
        # More arguments than names: the function itself says so.
        labels = names + names[-1:] * len(args)
        given = [_taken(v, n, n in arrays) for v, n in zip(args, labels, strict=False)]
        named = {n: _taken(v, n, n in arrays) for n, v in kwargs.items()}
        return function(*given, **named)

    return taking


def _taken(value: Any, name: str, wanted: bool) -> Any:
    """An array as a tensor, also a list where one is wanted; anything else as it is."""
    array = hasattr(value, "__array__") and not isinstance(value, np.generic)
    listed = wanted and isinstance(value, list | tuple | str)
    return as_tensor(value, name) if array or listed else value


def _unreal(what: str, dtype: Any) -> TypeError:
    return TypeError(f"Got {what} of type {dtype}: give an array of real numbers.")


def laid_out(x: Tensor) -> Tensor:
    """Return the same numbers in a memory layout that does not tell where they come from.

    Sums and products round in an order that depends on strides and on the alignment of the memory.
    A run that is continued has its ensemble from a file, so no step may see how the one before it
    left the ensemble.
    """
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNED == 0 else x.clone()
