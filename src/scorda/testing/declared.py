"""Contract of declarations: what a method says that it needs and costs is what it does."""

from __future__ import annotations

import numpy as np
import torch

from scorda.assimilation.filter import Filter
from scorda.core import rng
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Function, Operator, Select
from scorda.observations.problem import Problem
from scorda.systems.function import FunctionSystem
from scorda.testing.promise import promise

__all__ = ["check_declaration"]

SIZE = 4


def check_declaration(method: Filter, members: int = 12, costs: bool = True) -> None:
    """Check `needs` and `cost` of a filter against what it does.

    Promises: a black-box operator, a nonlinear one with a gradient, one without positions
    and a full covariance of the error each give a finite run, or an error before the run that
    starts with the name of the method and "needs", if and only if `needs` says so; `cost` has the
    evaluations of the operator in an analysis, and those that are reported.

    Arguments:
        method: The filter.
        members: Number of members.
        costs: Whether it has the default settings, for which its class declares `cost`.

    Raises:
        AssertionError: If a promise is broken.
    """
    members = max(members, method.least_members)
    positions = torch.arange(2.0)[:, None]
    black_box = Function(_numpy, differentiable=False, positions=positions)
    curved = Function(_curved, positions=positions)
    pick, error = Select([0, 2]), torch.tensor([[0.5, 0.2], [0.2, 0.5]])
    cases: dict[str, tuple[Operator, Tensor | None, set[str]]] = {
        "a black-box operator": (black_box, None, {"linear_operator", "differentiable_operator"}),
        "a nonlinear operator": (curved, None, {"linear_operator"}),
        "an operator without positions": (
            Function(_curved),
            None,
            {"linear_operator", "positions", "nonlinear_positions"},
        ),
        "a full covariance of the error": (pick, error, {"independent_errors"}),
    }
    for what, (operator, cov, needs) in cases.items():
        problem = _problem(operator, cov, members)
        refused = _refused(method, problem, members, what)
        promise(
            refused == bool(needs & set(method.needs)),
            method,
            f"{'refuses' if refused else 'takes'} {what}, which is not what `needs` says",
        )
    if costs:
        _check_cost(method, members)


def _check_cost(method: Filter, members: int) -> None:
    calls: list[int] = []

    class Counting(Select):
        def __call__(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().__call__(x)

    problem = _problem(Counting([0, 2]), None, members)
    run = method.begin(problem)
    assert problem.initial is not None
    y, model = problem.observed()[1]
    calls.clear()
    info = run.analyse(problem.initial, y, model, rng.seeded(0))[1]
    made = round(sum(calls) / members)
    promise(
        method.cost.operator in (made, None),
        method,
        f"makes {made} evaluations of the operator per member, not {method.cost.operator} as "
        "`cost` says",
    )
    if method.cost.denoiser is not None:
        promise(
            info.get("evaluations", 0) == method.cost.denoiser,
            method,
            f"reports {info.get('evaluations', 0)} evaluations, not {method.cost.denoiser} as "
            "`cost` says",
        )


def _refused(method: Filter, problem: Problem, members: int, what: str) -> bool:
    try:
        states = method.assimilate(problem, members, rng.seeded(0)).states
    except ValueError as error:
        named = str(error).startswith(f"{method.name} needs")
        promise(named, method, f"refuses {what} without saying what it needs: {error}")
        return True
    promise(states.isfinite().all(), method, f"is not finite with {what}")
    return False


def _problem(operator: Operator, cov: Tensor | None, members: int) -> Problem:
    def initial(members: int, seed: int) -> Tensor:
        return rng.normal(members, (SIZE,), rng.seeded(seed))

    def step(x: Tensor) -> Tensor:
        return 0.9 * x.roll(1, -1)

    system = FunctionSystem(step, initial, _space(), noise_std=0.3, library="torch")
    if cov is None:
        model = ObservationModel(operator, std=0.7)
    else:
        model = ObservationModel(operator, cov=cov)
    values = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    start = initial(members, 5).double()
    return Problem(system, Observations(model, [1], values), 2, start)


def _space() -> StateSpace:
    axis = {"x": torch.arange(SIZE).numpy()}
    return StateSpace((SIZE,), variables=("q",), coordinates=axis, period={"x": float(SIZE)})


def _numpy(x: np.ndarray) -> np.ndarray:
    return np.abs(x[:, :2])


def _curved(x: Tensor) -> Tensor:
    return torch.atan(x[:, :2])
