"""Keeping k tangent vectors apart without changing the flag that they span.

A step turns the frame F into Z = J F. Any factorisation Z = F' R with R upper triangular leaves
the nested subspaces spanned by the first 1, 2, ... columns as they are, so ln|diag R| may be
summed and F' carried on. QR makes F' orthonormal (Benettin et al. 1980). LU with row pivoting,
Z = (P L) U, costs a quarter of it and is the more accurate one where J = diag(d) U has rows of
very different size, since elimination never mixes a large row into a small one: a single QR at the
end makes the sums those of QR at every step.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Method = Literal["lu", "qr"]


def renormalize_qr(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalise ``frame (B, k, N)``; returns it with ln|diag R| ``(B, k)`` float64.

    A zero on the diagonal gives −inf, and the frame still comes back orthonormal.
    """
    q, r = torch.linalg.qr(frame.mT)
    return q.mT.contiguous(), _log_diagonal(r)


def renormalize_lu(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Replace ``frame (B, k, N)`` by P L; returns it with ln|diag U| ``(B, k)`` float64.

    A dead direction gives a pivot of exactly 0, hence −inf, and a unit column in its place.
    """
    factors, pivots, _ = torch.linalg.lu_factor_ex(frame.mT, check_errors=False)
    log_diagonal = _log_diagonal(factors)
    lower_t = factors.mT.triu(diagonal=1)
    torch.diagonal(lower_t, dim1=-2, dim2=-1).fill_(1.0)
    order = _row_order(factors, pivots)[:, None, :].expand_as(lower_t)
    return torch.empty_like(lower_t).scatter_(-1, order, lower_t), log_diagonal


def _log_diagonal(triangular: Tensor) -> Tensor:
    return torch.diagonal(triangular, dim1=-2, dim2=-1).double().abs().log()


def _row_order(factors: Tensor, pivots: Tensor) -> Tensor:
    """Row i of L is row ``result[b, i]`` of P L, ``(B, N)``."""
    if factors.device.type != "cpu":
        permutation, _, _ = torch.lu_unpack(factors, pivots, unpack_data=False)
        return permutation.argmax(dim=-2)
    # LAPACK's pivots are a list of swaps. Replaying them on lists beats the dense (N, N)
    # permutation matrix that lu_unpack builds.
    rows = []
    for swaps in pivots.tolist():
        order = list(range(factors.shape[-2]))
        for i, j in enumerate(swaps):
            order[i], order[j - 1] = order[j - 1], order[i]
        rows.append(order)
    return torch.from_numpy(np.array(rows))
