"""The recorder of whole trainings: `python -m benchmarks.record`."""
