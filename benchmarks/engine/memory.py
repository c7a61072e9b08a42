"""How much memory does one spectrum take at its peak? To be measured in a fresh process.

python -m benchmarks.engine --section memory
"""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optuna_aelle.lyapunov import lyapunov_spectrum

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def measure_memory(
    device: str, hidden_size: int, batch: int, n_steps: int, k: int
) -> dict[str, Any]:
    """Bytes by which the spectrum of an LSTM's (h, c) map raises the peak of this process.

    On a CUDA device, bytes of the allocator. On the CPU, resident memory; its high-water mark is
    the kernel's for this process alone, since ``ru_maxrss`` is inherited from the parent.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.LSTM(10, hidden_size).to(device)
    inputs = torch.randn(n_steps, batch, 10).to(device)
    # What is loaded at the first call is no cost of a spectrum.
    lyapunov_spectrum(nn.LSTM(10, 4).to(device), inputs[:40, :1])
    gc.collect()
    if inputs.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        lyapunov_spectrum(network, inputs, k=k)
        growth = torch.cuda.max_memory_allocated() - before
    else:
        if _CLEAR.exists():
            _CLEAR.write_text("5")
        before = _resident("VmRSS")
        lyapunov_spectrum(network, inputs, k=k)
        growth = max(_resident("VmHWM") - before, 0)
    return {
        "hidden_size": hidden_size,
        "sequences": batch,
        "steps": n_steps,
        "k": k,
        "growth_mib": growth / 2**20,
        "frame_bytes": batch * k * 2 * hidden_size * 8,
        "frames": growth / (batch * k * 2 * hidden_size * 8),
        "inputs_bytes": inputs.numel() * inputs.element_size(),
    }


def _resident(field: str) -> int:
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
