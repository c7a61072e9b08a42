"""The cost and the error of a spectrum: `python -m benchmarks.engine`."""
