"""Pruners and rankings on recorded tables: `benchmarks.decisions.pruning` and `.ranking`."""
