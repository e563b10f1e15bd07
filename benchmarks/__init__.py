"""Measurements: ``python -m benchmarks`` (``make bench``). Results go to benchmarks/results."""
