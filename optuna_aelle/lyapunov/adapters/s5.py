"""Package s5-pytorch: S5, a state space with a diagonal, complex matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import from_log_rates


def layer(module: Any) -> DiagonalModel:
    """Of ``S5``, called with ``(B, T, D)`` and a step scale of 1.

    ln|exp(Δ Λ)| = Δ Re Λ, in nats per step, twice each; with the bilinear rule
    ln|(1 + Δ Λ / 2) / (1 − Δ Λ / 2)|. The liquid one has the driven input added to the factor,
    B̄ u, and rates for each step. A bidirectional one goes back at the rates that it goes forth
    at: each counts four times.

    Source: Smith, Warrington and Linderman, "Simplified State Space Layers for Sequence Modeling"
    (arXiv 2208.04933), equation 2 and section 3; liquid: Hasani et al., "Liquid Structural
    State-Space Models" (arXiv 2209.12951), equation 9.

    Example:
        >>> from s5 import S5  # doctest: +SKIP
        >>> layer(S5(4, 8)).state_size  # doctest: +SKIP
        16
    """
    ssm = module.seq
    # Complex weights stay as they are where a module is made float64.
    eigenvalue = ssm.Lambda.detach().to(torch.complex128)
    weight_in = torch.view_as_complex(ssm.B.detach().double().contiguous())
    rate, gain = ssm.discretize(eigenvalue, weight_in, ssm.log_step.detach().exp())
    if ssm.degree != 1:
        gain = gain**ssm.degree

    def log_rates(inputs: Tensor) -> Tensor:
        factor = rate[None, None]
        if ssm.liquid:
            factor = factor + inputs.to(gain.dtype) @ gain.mT
        rates: Tensor = factor.abs().log()
        return rates

    return from_log_rates(
        log_rates,
        len(eigenvalue),
        n_real=4 if ssm.bidir else 2,
        input_size=module.width,
        batch_first=True,
        by_steps=True,
    )
