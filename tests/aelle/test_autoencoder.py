"""The gradient that is written by hand is that of the loss."""

from __future__ import annotations

import torch

from optuna_aelle.aelle import autoencoder


def test_the_gradient_is_that_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = autoencoder.parameter_shapes(3, 7, 5, 4)
    flat = autoencoder._initialise(shapes, generator)[0].double().requires_grad_()
    clean = torch.randn(6, 7, dtype=torch.float64, generator=generator)
    noisy = clean + 0.1
    targets, weights = torch.rand(2, 3, 6, dtype=torch.float64, generator=generator)
    p = autoencoder._unpack(flat, shapes)

    hidden = torch.tanh(noisy @ p["encode_in"] + p["encode_in_bias"])
    latent = hidden @ p["encode_out"] + p["encode_out_bias"]
    hidden = torch.tanh(latent @ p["decode_in"] + p["decode_in_bias"])
    spectra = hidden @ p["decode_out"] + p["decode_out_bias"]
    scores = (latent @ p["score"] + p["score_bias"])[..., 0]
    loss = (spectra - clean).abs().sum() / clean.numel()
    loss = loss + 5.0 * (weights * (scores - targets).square()).sum() / len(clean)
    (expected,) = torch.autograd.grad(loss, flat)

    gradient = torch.full_like(flat, float("nan")).detach()
    with torch.no_grad():
        autoencoder._set_gradient(
            autoencoder._unpack(flat.detach(), shapes),
            autoencoder._unpack(gradient, shapes),
            noisy,
            clean,
            targets,
            weights,
            5.0,
        )
    torch.testing.assert_close(gradient, expected)
