"""Benchmarks: the runner, and set-ups that each name their source."""
