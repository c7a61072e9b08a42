"""What holds, and by how much? Measured once into ``results/``; figures are drawn from there.

- What does a spectrum cost, and how wrong is it?  ``python -m benchmarks.engine``
- What should a fingerprint of it hold?            ``python -m benchmarks.decisions.fingerprints``
- What ranks networks, and when?                   ``python -m benchmarks.decisions.ranking``
- What does each pruner save, and miss?            ``python -m benchmarks.decisions.pruning``
- Where would every network have ended?            ``python -m benchmarks.record``

A pruner to compare with is added in `benchmarks.decisions.arms`, a task in
`benchmarks.record.tasks`, a package to time in `benchmarks.engine.peers`.
"""
