"""What would the same spectra cost by QR at every step? What the engine is measured against.

    python -m benchmarks.engine --section speed

Notation: Q (B, N, N) the orthonormal frame, J (B, N, N) the Jacobian of one step, exponents in
nats per step. Every way has the right time order Q <- J_t Q; they differ in a step's operations:

- ``"public"``: those of the code that accompanies Vogt et al. (arXiv 2204.04876): every factor of
  J a dense diagonal matrix, for an LSTM a block of one over all four gates, factors multiplied as
  matrices; a QR; the signs of R's diagonal moved into Q and R by two more products.
- ``"diagonal"``: the same with one dense diagonal matrix a term of J, and no more.
- ``"plain"``: the terms by broadcasting, one product, one QR. What a careful user would write.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import nn

from benchmarks.engine.cells import DiagonalCell
from benchmarks.engine.cells import PlainCell
from benchmarks.engine.cells import PublicCell
from benchmarks.engine.cells import StateKind
from benchmarks.engine.cells import Way

_CELLS: dict[Way, type[PlainCell]] = {
    "public": PublicCell,
    "diagonal": DiagonalCell,
    "plain": PlainCell,
}


def initial_frame(size: int, generator: torch.Generator) -> Tensor:
    """The frame that `lyapunov_spectrum` draws from the same generator, ``(N, N)`` float64."""
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.as_tensor(torch.linalg.qr(noise).Q)


def qr_spectrum(
    module: nn.RNNBase,
    inputs: Tensor,
    *,
    way: Way,
    state: StateKind = "full",
    warmup: int = 20,
    dtype: torch.dtype = torch.float32,
    frame: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """All exponents of a one-layer network by QR at every step, ``(B, N)`` descending.

    Args:
        module: `nn.RNN` (tanh), `nn.GRU` or `nn.LSTM` with one layer.
        inputs: ``(T, B, D)``.
        way: How the Jacobian is formed and the signs are treated, as the module's head says.
        state: For an LSTM, the (h, c) map or ∂h/∂h with c held fixed.
        warmup: Steps before the average starts.
        dtype: Dtype of everything.
        frame: The first orthonormal frame ``(N, N)``; None for the identity.
        start: The first state ``(B, H)``, for an LSTM h and c side by side; None for zeros.
    """
    with torch.no_grad():
        cell = _CELLS[way](module, dtype, state=state)
        renormalize = _qr if way == "plain" else _signed_qr
        inputs = inputs.to(dtype)
        n_steps, batch = inputs.shape[:2]
        if frame is None:
            frame = torch.eye(cell.frame_size)
        q = frame.to(inputs).expand(batch, -1, -1)
        if start is None:
            start = inputs.new_zeros(batch, cell.state_size)
        h = start.to(inputs)
        log_sums = inputs.new_zeros(batch, cell.frame_size)
        for t, x in enumerate(inputs):
            h, jacobian = cell.advance(x, h)
            q, growth = renormalize(torch.bmm(jacobian, q))
            if t >= warmup:
                log_sums += growth.abs().log()
        return (log_sums / (n_steps - warmup)).sort(dim=1, descending=True).values


def qr_of_slopes(weight: Tensor, slopes: Tensor, frame: Tensor, dtype: torch.dtype) -> Tensor:
    """Exponents of the product of diag(slopes_t) W by QR at every step, ``(N,)`` descending.

    Args:
        weight: ``(N, N)``.
        slopes: ``(T, N)``.
        frame: The first orthonormal frame ``(N, N)``.
        dtype: Dtype of the Jacobians and of the frame.
    """
    weight, q = weight.to(dtype), frame.to(dtype)
    log_sums = torch.zeros(len(weight), dtype=torch.float64)
    for slope in slopes.to(dtype):
        q, growth = _qr((slope[:, None] * weight) @ q)
        log_sums += growth.double().abs().log()
    return (log_sums / len(slopes)).sort(descending=True).values


def _qr(z: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(z)
    return q, torch.diagonal(r, dim1=-2, dim2=-1)


def _signed_qr(z: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(z)
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)
    # A sign of 0 would end that direction for good.
    signs = torch.diag_embed(torch.where(diagonal < 0, -1.0, 1.0).to(z.dtype))
    return torch.bmm(q, signs), torch.diagonal(torch.bmm(signs, r), dim1=-2, dim2=-1)
