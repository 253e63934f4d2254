"""Workers of a command: the engine that a setting names, and what it is to do."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from scorda.assimilation.base import Assimilator
    from scorda.cli.assimilate import Assimilate
    from scorda.store.posterior import Posterior

__all__ = [
    "check_workers",
    "device_of",
    "engine",
    "launched",
    "over_workers",
    "shard_of",
    "tell_dropped",
]


def engine(name: str | None) -> AbstractContextManager[Executor | None]:
    """Return the engine of that name, to be entered; that of None is None."""
    from scorda.core.engines import opened

    return nullcontext() if name is None else opened(name)


def launched() -> tuple[int, int] | None:
    """Return rank and number of the processes that ``torchrun`` has started; None without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def device_of(name: str) -> str:
    """Return the device of this process: of several on one machine, each takes a GPU."""
    return f"{name}:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name


def check_workers(given: Assimilate) -> None:
    """Refuse settings of workers that make no sense; nothing is imported or started."""
    from scorda.core.deadline import check_seconds
    from scorda.core.engines import check_engine
    from scorda.systems.mapped import policy

    if given.executor is not None:
        check_engine(given.executor)
    if given.shard is not None:
        shard_of(given.shard)
        if given.executor is not None or given.netcdf is not None or given.overwrite:
            raise UserError(
                "Got --shard, or several processes of torchrun, with --executor, --netcdf or "
                "--overwrite, which are for a run that has its output alone: leave them out."
            )
    policy(given.on_failure or "stop")
    if given.member_timeout is not None:
        check_seconds(given.member_timeout, "--member-timeout")
    if given.members_per_task < 1:
        raise UserError(f"Got --members-per-task {given.members_per_task}: give at least 1.")
    if given.members_per_task > 1:
        if given.executor is None:
            raise UserError(
                "Got --members-per-task without --executor, whose tasks it cuts: give one, or "
                "leave it out."
            )
        if given.on_failure == "drop" or given.member_timeout is not None:
            raise UserError(
                "Got --members-per-task with --member-timeout or --on-failure drop: members fail "
                "one by one, so leave it out."
            )


def shard_of(text: str) -> tuple[int, int]:
    """Return number and count of a shard, given as 0/8.

    Raises:
        UserError: If it is none.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 0 <= int(index) <= int(count) > 0):
        raise UserError(f"Got --shard {text}: give its number and their count, 0/8 to 7/8.")
    return int(index), int(count)


def over_workers(
    given: Assimilate, system: Any, method: Assimilator, executor: Executor | None
) -> Any:
    """Return the system with its members over workers, where a setting asks for that."""
    from scorda.store.units import forecasts_members
    from scorda.systems.mapped import Mapped

    asked = given.on_failure is not None or given.member_timeout is not None
    if forecasts_members(method):
        if executor is None and not asked:
            return system
        chunk, policy = given.members_per_task, given.on_failure or "stop"
        return Mapped(system, executor, chunk, policy, given.member_timeout)
    if asked or given.members_per_task > 1:
        raise UserError(
            f"Got --on-failure, --member-timeout or --members-per-task for {given.method}, which "
            "makes no forecasts of single members: leave them out."
        )
    return system


def tell_dropped(posterior: Posterior) -> None:
    """Say which members were dropped, when and why, those from before a resume too."""
    for member, told in posterior.info.get("dropped", {}).items():
        console().print(f"dropped: member {member} at {told['reason']}")
