"""Engines by name: ``processes:4``, ``threads:4``, Dask, or ``module:callable``."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from scorda.core.plugins import is_code, named_by_user

__all__ = ["check_engine", "opened"]

# Classes of clusters that a file of settings may name, with the packages that have them.
CLUSTERS = {
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "local": ("distributed", "LocalCluster"),
}
# Digits of a number of workers: more than any machine has, and less than overflows.
DIGITS = 5
FORMS = "processes:4, threads:4, dask:tcp://host:8786, dask:cluster.toml, or module:callable"


@contextmanager
def opened(name: str) -> Iterator[Executor]:
    """Give the engine of that name, and end it after the block.

    ``processes:4`` are workers of this machine, which end when this process ends, however that
    comes. ``dask:tcp://host:8786`` is the scheduler of a cluster that runs. ``dask:cluster.toml``
    is a cluster that is started for the block: the file has ``cluster`` ("slurm", "pbs" or
    "local"), ``workers``, the number of them (jobs, for "slurm" and "pbs"), and a table
    ``options``, the arguments of ``dask_jobqueue.SLURMCluster``, ``PBSCluster`` or
    ``distributed.LocalCluster``. ``module:callable`` is an executor, a class of one, or a function
    that is annotated to return one; only the user names it.

    Raises:
        ValueError: If there is no such engine, or a package that it needs is missing.
    """
    check_engine(name)
    kind, _, rest = name.partition(":")
    if kind == "dask":
        with _dask(rest) as engine:
            yield engine
    elif kind == "threads":
        with ThreadPoolExecutor(int(rest)) as engine:
            yield engine
    elif kind == "processes":
        with _processes(int(rest)) as engine:
            yield engine
    else:
        found = named_by_user(name, Executor)
        if isinstance(found, Executor):
            yield found
            return
        with found() as engine:
            yield engine


def check_engine(name: str) -> None:
    """Check that a name is that of an engine, or of code; nothing is imported or started.

    Raises:
        ValueError: If it is not.
    """
    kind, _, rest = name.partition(":")
    if kind in ("processes", "threads"):
        if not rest.isdecimal() or len(rest) > DIGITS or not int(rest):
            raise ValueError(f"Got the executor {name!r}: give a number of workers, {kind}:4.")
    elif kind == "dask":
        if "://" not in rest and not Path(rest).is_file():
            raise ValueError(
                f"Got the executor {name!r}, but there is no file {rest!r}: give the address of "
                "a scheduler, dask:tcp://host:8786, or a file of settings of a cluster."
            )
    elif not is_code(name):
        raise ValueError(f"Got the executor {name!r}: give {FORMS}.")


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    # Started afresh: what this process has in its threads and locks is not copied.
    context = multiprocessing.get_context("spawn")
    engine = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield engine
    except BaseException:
        # What has begun is of no use where the run ends: nobody waits for it.
        engine.shutdown(wait=False, cancel_futures=True)
        raise
    engine.shutdown()


def _begin_worker() -> None:
    """Let the process that started this one decide about its end, Ctrl-C or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow, args=(parent.sentinel,), daemon=True).start()


@contextmanager
def _dask(where: str) -> Iterator[Executor]:
    # Not the default of this process: Dask arrays and the locks of xarray stay as they were.
    client = partial(_package("distributed").Client, set_as_default=False)
    if "://" in where:
        with _started(client, where, where) as opened_client:
            yield _engine(opened_client)
        return
    with _cluster(Path(where)) as cluster, client(cluster) as opened_client:
        yield _engine(opened_client)


def _engine(client: Any) -> Executor:
    engine: Executor = client.get_executor()
    return engine


@contextmanager
def _cluster(path: Path) -> Iterator[Any]:
    """Start the cluster that a file describes."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}.") from error
    kind: Any
    kind, workers, options = (content.get(key) for key in ("cluster", "workers", "options"))
    more = set(content) - {"cluster", "workers", "options"}
    counted = type(workers) is int and workers > 0
    known = isinstance(kind, str) and kind in CLUSTERS
    if not known or not counted or not isinstance(options, dict | None) or more:
        raise ValueError(
            f"{path} has {content}: give cluster, one of {', '.join(CLUSTERS)}, workers, their "
            "number, and a table options with the arguments of the cluster."
        )
    package, name = CLUSTERS[kind]
    if kind == "local":
        options = {"n_workers": workers, "threads_per_worker": 1, **(options or {})}
    with _started(getattr(_package(package), name), str(path), **(options or {})) as cluster:
        if kind != "local":
            cluster.scale(jobs=workers)
        yield cluster


def _started(make: Any, source: str, *arguments: Any, **options: Any) -> Any:
    """Return a client or a cluster, which fails in as many ways as there are options."""
    try:
        return make(*arguments, **options)
    except Exception as error:
        raise ValueError(
            f"Dask could not start or reach {source} ({type(error).__name__}: {error}): check the "
            "address or the options."
        ) from error


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ValueError(
            f"Could not import {error.name!r}: install Scorda with Dask, as scorda[dask]."
        ) from error
