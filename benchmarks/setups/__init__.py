"""The named benchmarks: each function in the ``__all__`` of a module here makes one.

To try one more method on a problem, add an `Entry` to the function that makes it. The scores
expected of the entries are in ``expected.toml`` under the names of the benchmarks and the labels.
"""
