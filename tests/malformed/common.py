"""Malformed inputs in numbers: each ends with one sentence and leaves nothing."""

import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from scorda.cli import main

SECONDS, GIGABYTES = 60, 2
# Marks of text that was written for programmers.
RAW = ("Traceback", "Error(", "Exception(", "<class ", " object at 0x", "unforeseen", "Unforeseen")


def said(arguments):
    """Run a command in this process; return its status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


def entries(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check(folder, arguments):
    """Run a command in a folder; return its status.

    Raises:
        AssertionError: If it ends otherwise than with its work done or with one sentence.
    """
    before, here, begin = entries(folder), os.getcwd(), time.monotonic()
    highest, resident = peak(), memory()
    os.chdir(folder)
    try:
        status, _, err = said(arguments)
    finally:
        os.chdir(here)
    taken = time.monotonic() - begin
    told = f"{arguments}: status {status}: {err[-2000:]}"
    assert status in (0, 2, 3), told
    assert not any(mark in err for mark in RAW), told
    if status:
        lines = err.splitlines()
        assert len(lines) == 1 and err.startswith("scorda: "), told
        assert len(err) < 2000, told
        if status == 2:
            assert entries(folder) == before, (told, entries(folder))
    assert taken < SECONDS, f"{told}: {taken:.0f} s"
    more = peak() - resident if peak() > highest else 0.0
    assert more < GIGABYTES, f"{told}: {more:.1f} GB"
    return status


def peak():
    """Return the most memory in GB that this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory():
    """Return the memory in GB that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def tried(kinds, first, count, folder, prepare=None):
    """Try inputs of each kind in turn; return statuses by kind, and what failed.

    Arguments:
        kinds: Functions of a folder and a random generator, by name; each writes one malformed
            input and returns the command line that reads it.
        first: First seed.
        count: Number of seeds.
        folder: Folder to work in.
        prepare: Called with the folder before all, to write what is well formed.
    """
    statuses, failures, names = Counter(), [], list(kinds)
    whole = folder / "whole"
    whole.mkdir()
    if prepare is not None:
        prepare(whole)
    for seed in range(first, first + count):
        name = names[seed % len(names)]
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        try:
            arguments = kinds[name](work, np.random.default_rng(seed))
            statuses[name, check(work, arguments)] += 1
        except AssertionError as error:
            failures.append((seed, name, str(error)))
        except Exception:
            failures.append((seed, name, traceback.format_exc()))
    return statuses, failures


def by_hand(kinds, prepare=None):
    """Try as many inputs as the command line says: SEED COUNT; print what came of each kind."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as made:
        statuses, failures = tried(kinds, first, count, Path(made), prepare)
    for (name, status), number in sorted(statuses.items()):
        print(f"{name:32} status {status}: {number}")
    for seed, name, text in failures:
        print(f"FAILED seed {seed}, {name}: {text}\n")
    print(f"{sum(statuses.values())} right, {len(failures)} failed")
    sys.exit(bool(failures))
