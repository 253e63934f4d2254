"""Engines for tests: one that packs what it is given, and workers that are really processes."""

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import cloudpickle


class Packing(Executor):
    """Does the work at once in this process, with copies of all that goes in and out."""

    def __init__(self):
        self.calls = 0

    def submit(self, function, /, *args, **kwargs):
        self.calls += 1
        future = Future()
        try:
            function, args, kwargs = cloudpickle.loads(cloudpickle.dumps((function, args, kwargs)))
            future.set_result(cloudpickle.loads(cloudpickle.dumps(function(*args, **kwargs))))
        except BaseException as error:
            future.set_exception(error)
        return future


def processes(workers):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
