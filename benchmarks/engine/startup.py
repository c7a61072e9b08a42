"""How long does a process wait until it has its first spectrum? To be run in a fresh one.

python -m benchmarks.engine.startup
"""

from __future__ import annotations

import json
import time
from pathlib import Path

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Print seconds of imports and of first and second spectra, and the peak of memory."""
    # In here, since they are what is timed.
    started = time.perf_counter()
    import torch

    with_torch = time.perf_counter()
    import optuna_aelle

    fingerprint = optuna_aelle.spectral_fingerprint
    imported = time.perf_counter()
    torch.set_num_threads(1)
    found = {
        "import_torch": with_torch - started,
        "import": imported - started,
    }
    inputs = torch.randn(64, 4, 10)
    for name in ("GRU", "LSTM"):
        for call in ("first", "second"):
            network = getattr(torch.nn, name)(10, 64)
            begun = time.perf_counter()
            fingerprint(network, inputs)
            found[f"{call} {name}"] = time.perf_counter() - begun
    found["until_first_spectrum"] = found["import"] + found["first GRU"]
    found["peak_mib"] = _peak()
    print(json.dumps(found))


def _peak() -> float:
    if not _STATUS.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
