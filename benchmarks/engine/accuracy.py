"""How wrong are the exponents, and are they ever NaN?

Errors in nats per step against float64, against a product of 600 digits, against the sum rule and
against a longer run; NaN and infinities over random networks.

    python -m benchmarks.engine --section accuracy
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from benchmarks.engine.baselines import initial_frame
from benchmarks.engine.baselines import qr_of_slopes
from benchmarks.engine.baselines import qr_spectrum
from benchmarks.engine.networks import DIGITS
from benchmarks.engine.networks import gain_network
from benchmarks.engine.networks import high_precision_exponents
from benchmarks.engine.networks import random_architectures
from benchmarks.engine.networks import recurrent_weight
from benchmarks.engine.networks import sines
from benchmarks.engine.networks import trained
from benchmarks.engine.timing import CARRIED
from benchmarks.engine.timing import WARMUP
from benchmarks.engine.timing import Row
from benchmarks.engine.timing import Setting
from benchmarks.engine.timing import without_compiled_code
from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint

# Any; one for all, so that ours and theirs start from the same frame.
_SEED = 7
_DTYPES = {"float64": torch.float64, "float32": torch.float32}
_COUNTS = ("networks", "nan", "plus_inf", "minus_inf", "state_overflowed", "foreign_errors")
# Every so many of the random networks go without compiled code.
_WITHOUT = 4


def accuracy(setting: Setting) -> Row:
    """Every measurement of errors."""
    parts: dict[str, Callable[[Setting], Row]] = {
        "float32_frame": float32_frame,
        "saturated": saturated,
        "sum_rule": sum_rule,
        "finiteness": finiteness,
        "long_run": long_run,
    }
    return {name: part(setting) for name, part in tqdm(parts.items(), desc="accuracy")}


def float32_frame(setting: Setting) -> Row:
    """What do float32 frames and the automatic settings lose, on trained networks?

    Against frames in float64 that PyTorch renormalises at every step: of fingerprints, as a study
    takes them, and of runs of 100 steps of four sequences.
    """
    rows = []
    for name, size in setting.cases(CARRIED, 64, 128):
        network, loss = trained(setting, name, size)
        inputs = sines(WARMUP + setting.measured_steps, 4, seed=2).to(setting.device)
        run = partial(lyapunov_spectrum, network, state=CARRIED[name][1])
        found = spectral_fingerprint(network, inputs, state=CARRIED[name][1])
        # A quarter of the steps of a fingerprint warm up.
        n_steps, batch = found.n_steps * 4 // 3, len(found.exponents)
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                "final_loss": loss,
                **_against_every_step(partial(run, inputs)),
                "fingerprint": {
                    "steps": n_steps,
                    "sequences": batch,
                    **_against_every_step(
                        partial(run, inputs[:n_steps, :batch], warmup=n_steps // 4)
                    ),
                },
            }
        )
    return {"sequences": 4, "task": "next step of a mix of sines", "rows": rows}


def _against_every_step(run: Callable[..., LyapunovSpectrum]) -> Row:
    """Errors of float32 frames and of what is chosen, with compiled code and without."""
    exact = without_compiled_code(run, interval=1, dtype=torch.float64).exponents
    auto = run()
    errors = {
        "": run(dtype=torch.float32).exponents - exact,
        "auto_": auto.exponents - exact,
        "general_auto_": without_compiled_code(run).exponents - exact,
    }
    row: Row = {"compiled": all(how.compiled for how in auto.computations)}
    for name, error in errors.items():
        row |= {f"{name}rms": _rms(error), f"{name}max": float(np.abs(error).max())}
    return row


def saturated(setting: Setting) -> Row:
    """Are small exponents of a saturated network right? Gain 10, against 600 digits.

    The exact answer is a product of all Jacobians along one trajectory. Float64 and float32 QR get
    the slopes sech²(y) of that trajectory without cancellation, so that their errors are those of
    the renormalisation alone. The engine runs along a trajectory of its own, whose rounding the
    network amplifies. The public way computes 1 − tanh² itself.
    """
    size, n_steps = 16, 30
    rows = []
    for seed in range(1 if setting.quick else 5):
        network, start = gain_network(size, 10.0, seed)
        weight = recurrent_weight(network)
        on_device = copy.deepcopy(network).to(setting.device)
        inputs = torch.zeros(n_steps, 1, 1, dtype=torch.float64)
        frame = initial_frame(size, torch.Generator().manual_seed(_SEED))
        slopes, exact = high_precision_exponents(weight, start[0], n_steps, frame)
        found = {
            f"ours {name}": lyapunov_spectrum(
                on_device,
                inputs.to(setting.device),
                warmup=0,
                initial_state=start.to(setting.device),
                dtype=dtype,
                generator=torch.Generator().manual_seed(_SEED),
            ).mean
            for name, dtype in _DTYPES.items()
        }
        for name, dtype in _DTYPES.items():
            found[f"QR {name}"] = qr_of_slopes(weight, slopes, frame, dtype).numpy()
        public = qr_spectrum(network, inputs, way="public", warmup=0, frame=frame, start=start[0])
        errors = {name: np.abs(values - exact) for name, values in found.items()}
        rows.append(
            {
                "seed": seed,
                "exact": exact.tolist(),
                "errors": {name: error.tolist() for name, error in errors.items()},
                "max_error": {name: float(error.max()) for name, error in errors.items()},
                "not_finite_in_public_float32": int((~torch.isfinite(public)).sum()),
            }
        )
    return {"hidden_size": size, "gain": 10.0, "steps": n_steps, "digits": DIGITS, "rows": rows}


def sum_rule(setting: Setting) -> Row:
    """Is the sum of an LSTM's exponents ln|det J|, as the weights' range grows?

    Where both are −inf the residual is 0 and says nothing: the sum tells.
    """
    rows = []
    for size in setting.sizes(64, 256):
        inputs = setting.inputs(WARMUP + setting.measured_steps, 4)
        for p in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
            network = setting.network("LSTM full", inputs.shape[-1], size)
            generator = torch.Generator().manual_seed(_SEED)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.copy_(
                        torch.empty(parameter.shape).uniform_(-p, p, generator=generator)
                    )
            spectrum = lyapunov_spectrum(network, inputs)
            rows.append(
                {
                    "hidden_size": size,
                    "p": p,
                    "sum_of_exponents": float(spectrum.mean.sum()),
                    "residual": spectrum.sum_rule_residual,
                }
            )
    return {"architecture": "LSTM full", "sequences": 4, "rows": rows}


def finiteness(setting: Setting) -> Row:
    """Does any network of random size, with weights scaled by 0.01 to 30, bring NaN or a crash?

    One whose own state overflows is refused by a `FloatingPointError`, which is counted apart;
    any other exception is foreign. A quarter of the networks goes without compiled code.
    """
    rng = np.random.default_rng(_SEED)
    makers = random_architectures()
    names = list(makers)
    counts = {name: dict.fromkeys(_COUNTS, 0) for name in names}
    messages: dict[str, str] = {}
    for number in tqdm(range(100 if setting.quick else 10_000), desc="finiteness", leave=False):
        name = names[number % len(names)]
        size, batch = int(rng.integers(1, 25)), int(rng.integers(1, 6))
        n_steps, n_inputs = int(rng.integers(22, 101)), int(rng.integers(1, 6))
        gain = 10.0 ** rng.uniform(-2.0, np.log10(30.0))
        torch.manual_seed(number)
        network = makers[name](n_inputs, size).to(setting.device)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(gain)
        inputs = torch.randn(n_steps, batch, n_inputs).to(setting.device)
        run: Callable[[], LyapunovSpectrum] = partial(
            lyapunov_spectrum,
            network,
            inputs,
            state="hidden" if name == "LSTM hidden" else "full",
        )
        if number // len(names) % _WITHOUT == 0:
            run = partial(without_compiled_code, run)
        count = counts[name]
        count["networks"] += 1
        try:
            exponents = run().exponents
        except FloatingPointError:
            count["state_overflowed"] += 1
            continue
        except Exception as error:  # what is counted
            count["foreign_errors"] += 1
            messages.setdefault(f"{name}: {type(error).__name__}", f"network {number}: {error}")
            continue
        found = {
            "nan": np.isnan(exponents).any(),
            "plus_inf": np.isposinf(exponents).any(),
            "minus_inf": np.isneginf(exponents).any(),
        }
        for key, seen in found.items():
            count[key] += int(seen)
            if seen and key != "minus_inf":
                messages.setdefault(f"{name}: {key}", f"network {number}")
    total = {key: sum(count[key] for count in counts.values()) for key in _COUNTS}
    return {
        "counted": "networks",
        "without_compiled_code": f"one in {_WITHOUT}",
        "total": total,
        "by_architecture": counts,
        "first_of_each_kind": messages,
    }


def long_run(setting: Setting) -> Row:
    """How far is the short run of a fingerprint from a long one, on a trained LSTM?"""
    size, long_steps = (16, 200) if setting.quick else (64, 2000)
    network, loss = trained(setting, "LSTM full", size)
    rows = []
    for state in ("full", "hidden"):
        run = partial(lyapunov_spectrum, network, state=state, warmup=WARMUP)
        exact = run(sines(WARMUP + long_steps, 15, seed=3).to(setting.device)).mean
        errors = [
            run(sines(WARMUP + 64, 4, seed=10 + i).to(setting.device)).mean - exact
            for i in range(5)
        ]
        row = {"state": state, "rms": _rms(np.array(errors)), "rms_by_run": [*map(_rms, errors)]}
        rows.append({**row, "rms_of_leading_quarter": _rms(np.array(errors)[:, : size // 4])})
    return {
        "hidden_size": size,
        "final_loss": loss,
        "short": {"steps": 64, "sequences": 4},
        "long": {"steps": long_steps, "sequences": 15},
        "expected_rms": 0.4 / float(np.sqrt(64 * 4)),
        "rows": rows,
    }


def _rms(error: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(error))))
