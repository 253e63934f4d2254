"""Contracts of systems and observation operators."""

from __future__ import annotations

import torch

from scorda.core import rng
from scorda.core.space import StateSpace
from scorda.observations.operators import Operator
from scorda.systems.base import System
from scorda.testing.promise import alike, draw, keeps, leaves_untouched, promise

__all__ = ["check_operator", "check_system"]

PRECISIONS = (torch.float32, torch.float64)


def check_system(system: System, members: int = 6, device: str = "cpu") -> None:
    """Check a dynamical system.

    Promises: it has a space and a name; `prior` and `step` give the same result for the same seed
    and finite states of the right shape; `step` keeps precision and device, leaves its input
    untouched, takes any leading axes, and treats members independently, so that member i of few
    and of many is the same; `stochastic` is true where a step draws random numbers;
    `trajectory` starts with the given states; `log_transition` is finite where the step has a
    density and raises `TypeError` where it has none.

    Arguments:
        system: The system; it must be able to give `members` states at step 0.
        members: Number of members used, at least 3.
        device: Where the states live.

    Raises:
        AssertionError: If a promise is broken.
    """
    promise(isinstance(getattr(system, "space", None), StateSpace), system, "has no `space`")
    promise(bool(getattr(system, "name", "")), system, "has no `name`")
    state = system.space.shape
    x = system.prior(members, rng.seeded(0))
    keeps(system, "prior", x, x, (members, *state))
    promise(
        torch.equal(x, system.prior(members, rng.seeded(0))),
        system,
        "draws other states from `prior` for the same seed",
    )
    promise(
        alike(system.prior(members - 1, rng.seeded(0)), x[:-1], 1e6),
        system,
        "draws a member from `prior` that depends on how many are drawn",
    )
    for dtype in PRECISIONS:
        given = x.to(device, dtype)
        keeps(system, "step", given, system.step(given, rng.seeded(1)))
    _check_step(system, x.to(device))
    path = system.trajectory(x, 2, rng.seeded(1))
    keeps(system, "trajectory", x, path, (members, 3, *state))
    promise(torch.equal(path[:, 0], x), system, "does not start a trajectory at the given states")
    _check_density(system, x)


def _check_step(system: System, x: torch.Tensor) -> None:
    after = system.step(x, rng.seeded(1))
    again = system.step(x, rng.seeded(1))
    promise(torch.equal(after, again), system, "steps to other states for the same seed")
    leaves_untouched(system, "step", lambda given: system.step(given, rng.seeded(1)), x)
    moved = x.clone()
    moved[0] = x[1]
    promise(
        alike(system.step(moved, rng.seeded(1))[1:], after[1:]),
        system,
        "lets one member influence another in `step`",
    )
    promise(
        alike(system.step(x[:-1], rng.seeded(1)), after[:-1]),
        system,
        "steps a member to a state that depends on how many there are",
    )
    random = not torch.equal(after, system.step(x, rng.seeded(2)))
    promise(
        random == bool(system.stochastic),
        system,
        f"says stochastic = {system.stochastic}, but steps with two seeds "
        f"{'differ' if random else 'agree'}",
    )
    stacked = system.step(x[:, None].expand(-1, 2, *x.shape[1:]), rng.seeded(1))
    keeps(system, "step", x, stacked, (len(x), 2, *x.shape[1:]))
    if not system.stochastic:
        promise(alike(stacked[:, 1], after), system, "does not batch over leading axes in `step`")


def _check_density(system: System, x: torch.Tensor) -> None:
    try:
        density = system.log_transition(x, system.step(x, rng.seeded(1)))
    except TypeError:
        return  # No density: none of the model error, or it is degenerate.
    promise(system.stochastic, system, "gives a `log_transition` without model error")
    keeps(system, "log_transition", x, density, (len(x),))


def check_operator(
    operator: Operator, shape: tuple[int, ...], members: int = 5, device: str = "cpu"
) -> None:
    r"""Check an observation operator.

    Promises: it maps ``(ensemble, *state)`` to ``(ensemble, *obs)``, finite, members treated
    independently, inputs untouched, precision and device kept, twice the same; if `linear`,
    :math:`h(a x + b z) = a h(x) + b h(z)` and :math:`\langle h(x), y \rangle = \langle x, h^T y
    \rangle`, else `adjoint` raises `TypeError`; if `differentiable`, gradients are finite.

    Arguments:
        operator: The operator.
        shape: Shape of one state that it can observe.
        members: Number of members used, at least 2.
        device: Where the states live.

    Raises:
        AssertionError: If a promise is broken.
    """
    for dtype in PRECISIONS:
        x = draw(members, shape, dtype, device)
        y = operator(x)
        promise(
            y.ndim >= 1 and len(y) == members,
            operator,
            f"returns the shape {tuple(y.shape)} for {members} members: they come first",
        )
        keeps(operator, "a call", x, y, tuple(y.shape))
        promise(torch.equal(operator(x), y), operator, "observes the same states differently")
        leaves_untouched(operator, "a call", operator, x)
        one_by_one = torch.cat([operator(x[i : i + 1]) for i in range(members)])
        promise(alike(one_by_one, y), operator, "lets one member influence another")
    if operator.linear:
        _check_linear(operator, x, y)
    else:
        try:
            operator.adjoint(y, shape)
        except TypeError:
            pass
        else:
            promise(False, operator, "is not linear but has an adjoint")
    if operator.differentiable:
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(operator(x).sum(), x)
        keeps(operator, "the gradient", x, gradient)


def _check_linear(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> None:
    z = draw(len(x), tuple(x.shape[1:]), x.dtype, str(x.device), seed=1)
    promise(
        alike(operator(2 * x - 3 * z), 2 * y - 3 * operator(z)),
        operator,
        "says linear = True, but h(2 x - 3 z) is not 2 h(x) - 3 h(z)",
    )
    w = draw(len(y), tuple(y.shape[1:]), y.dtype, str(y.device), seed=2)
    back = operator.adjoint(w, tuple(x.shape[1:]))
    keeps(operator, "the adjoint", x, back)
    left, right = (y * w).flatten(1).sum(1), (x * back).flatten(1).sum(1)
    promise(alike(left, right), operator, "has an adjoint with <h(x), y> != <x, adjoint(y)>")
