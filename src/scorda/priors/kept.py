"""What the header of a file of weights may say, checked before a network is built of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Literal

import torch

from scorda.core.headers import check_arguments, check_fields
from scorda.core.shapes import Tensor
from scorda.core.space import StateSpace
from scorda.nn import ARCHITECTURES, build

__all__ = [
    "check_amortised",
    "check_broadcast",
    "check_network",
    "check_part",
    "check_states",
    "check_trajectory",
]

# Fields of the header of each kind of prior.
TRAJECTORY: dict[str, Any] = {
    "kind": Literal["trajectory prior", "transition"],
    "architecture": dict[str, Any],
    "process": dict[str, Any],
    "sampler": dict[str, Any],
    "limit": float | None,
    "handover": float,
    "guidance": dict[str, Any] | None,
    "space": dict[str, Any],
    "provenance": dict[str, Any],
    "versions": dict[str, Any],
}
OPTIONAL = ("limit", "handover", "guidance")
AMORTISED: dict[str, Any] = {
    "kind": Literal["amortised network"],
    "axis": str | list[str] | None,
    "base": dict[str, Any] | None,
    "training": dict[str, Any],
    "space": dict[str, Any],
    "report": dict[str, Any],
}
GRID = {"shape": list[int], "axes": list[str]}
SYSTEM = {"name": str}
RADIUS = {"radius": float | None}


def check_trajectory(path: Path, header: Any, tensors: Mapping[str, Tensor]) -> None:
    """Check the header of a trained prior of trajectories, and that its tensors are floats.

    Raises:
        ValueError: If a field is missing or of another type, or too large.
    """
    check_fields(header, TRAJECTORY, f"The header of {path}", OPTIONAL, others=True)
    system = header["provenance"].get("system")
    if isinstance(system, Mapping):
        check_fields(system, SYSTEM, f"provenance.system of {path}", others=True)
    check_tensors(path, tensors, ("standardisation.mean", "standardisation.std"))


def check_amortised(
    path: Path, header: Any, tensors: Mapping[str, Tensor], training: type, local: str
) -> None:
    """Check the header of an amortised network, and that its tensors are of its size.

    Arguments:
        path: The file.
        header: Its header.
        tensors: Its tensors by name.
        training: Class of the settings of its training.
        local: Name of the base that has blocks.

    Raises:
        ValueError: As in `check_trajectory`.
    """
    check_fields(header, AMORTISED, f"The header of {path}", others=True)
    check_fields(header["space"], GRID, f"space of {path}")
    check_arguments(header["training"], training, f"training of {path}")
    if header["base"] is not None:
        name = header["base"].get("name")
        fields: dict[str, Any] = {"name": str, "localization": dict[str, Any] | None}
        fields |= {"block": int, "diagonal": float} if name == local else {}
        check_fields(header["base"], fields, f"base of {path}")
        if header["base"]["localization"] is not None:
            check_fields(header["base"]["localization"], RADIUS, f"base.localization of {path}")
    check_tensors(path, tensors, ("centre", "scale", "first.weight"))
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    found = {"width": len(tensors["first.weight"]), "blocks": len(blocks)}
    usual = {f.name: f.default for f in fields_of(training)}
    for name, value in found.items():
        if header["training"].get(name, usual[name]) != value:
            raise ValueError(
                f"training of {path} has another {name} than its weights, {value}: train the "
                "network again."
            )
    centre, scale = tensors["centre"], tensors["scale"]
    if centre.ndim != 2 or centre.shape != scale.shape or not bool((scale > 0).all()):
        raise ValueError(
            f"centre and scale of {path} have the shapes {tuple(centre.shape)} and "
            f"{tuple(scale.shape)}, or a scale is not positive: train the network again."
        )


def check_part(path: Path, name: str, described: Any, classes: Mapping[str, Any]) -> None:
    """Check a part of a header that names a class and its arguments.

    Raises:
        ValueError: If it names another class, or arguments do not fit.
    """
    check_fields(described, {"name": str}, f"{name} of {path}", others=True)
    if described["name"] not in classes:
        raise ValueError(
            f"{name} of {path} is {described['name'][:40]!r}, which this version of Scorda does "
            f"not have: it has {sorted(classes)}."
        )
    for inner, value in described.items():
        if isinstance(value, dict):
            check_part(path, f"{name}.{inner}", value, classes)
    check_arguments(described, classes[described["name"]], f"{name} of {path}")


def check_network(
    path: Path, architecture: Any, tensors: Mapping[str, Tensor], space: StateSpace
) -> None:
    """Check that tensors are those of an architecture for a space, before it is built.

    It is built without memory, on torch's device "meta", whose tensors have shapes alone.

    Raises:
        ValueError: If the architecture is unknown, its arguments do not fit, or its tensors have
            other names or shapes.
    """
    check_part(path, "architecture", architecture, ARCHITECTURES)
    try:
        with torch.device("meta"):
            network = build(architecture)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(
            f"architecture of {path} cannot be built ({error}): train it again."
        ) from error
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    check_shapes(path, {n: tuple(t.shape) for n, t in tensors.items()}, wanted)
    size = architecture.get("size") or architecture["channels"] * math.prod(
        architecture.get("grid", ())
    )
    grid = tuple(architecture.get("grid", ()))
    # States of one variable may have no axis of variables.
    flat = space.shape == grid
    fits = not grid or flat or space.shape == (architecture["channels"], *grid)
    if size != space.size or not fits or int(getattr(network, "half_width", 0)) > 10**6:
        raise ValueError(
            f"architecture of {path} is for states of {size} numbers, and its space has "
            f"{space.size}: train it again."
        )


def check_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that tensors have the names and shapes that a header implies.

    Raises:
        ValueError: If not; the sentence names the first that has not.
    """
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"The weights of {path} do not fit the architecture of its header ({name} has "
                f"the shape {found.get(name, 'of none')}, not {wanted.get(name, 'of none')}): "
                "train it again."
            )


def check_tensors(path: Path, tensors: Mapping[str, Tensor], needed: Iterable[str]) -> None:
    """Check that some tensors are there, and that all hold floating-point numbers.

    Raises:
        ValueError: If not.
    """
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: train it again.")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            raise ValueError(f"{name} of {path} holds {tensor.dtype}, no floats: train it again.")


def check_broadcast(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a tensor broadcasts to states.

    Raises:
        ValueError: If it does not.
    """
    try:
        fits = torch.broadcast_shapes(tensor.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of {path} has the shape {tuple(tensor.shape)}, which does not fit states of "
            f"shape {shape}: train it again."
        )


def check_states(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a tensor holds states, at least one.

    Raises:
        ValueError: If it does not.
    """
    if not len(tensor.shape) or not len(tensor) or tuple(tensor.shape[1:]) != shape:
        raise ValueError(
            f"{name} of {path} has the shape {tuple(tensor.shape)}, which is not that of states "
            f"{shape}: train it again."
        )
