"""How are hundreds of small networks trained in hours? Those of one shape side by side.

Notation: G networks, B sequences of T steps with D inputs, H units, n gates, L layers, O outputs.
Every weight has a leading axis of networks. A stack computes what its networks would compute one
by one, in a few large products instead of many small ones; `Stack.module` gives one of them back
as the module that the engine takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import nn

from benchmarks.record.cells import MinGRU
from benchmarks.record.cells import MinLSTM
from benchmarks.record.spaces import Params
from benchmarks.record.weights import N_GATES
from benchmarks.record.weights import initial_weights
from optuna_aelle.lyapunov.cells import LEM
from optuna_aelle.lyapunov.cells import AntisymmetricRNN
from optuna_aelle.lyapunov.cells import CoRNN
from optuna_aelle.lyapunov.cells import LipschitzRNN
from optuna_aelle.lyapunov.cells import antisymmetric_matrix
from optuna_aelle.lyapunov.cells import lipschitz_matrix

# A coupled LSTM has i = 1 − f, a minimal GRU r = 1 − z: one gate's weights are those of the
# other with the sign changed, as rows of blocks (tied, source).
TIED_GATES = {"lstm": (0, 1), "gru": (0, 1)}
# The defaults of `AntisymmetricRNN`.
EPSILON, GAMMA = 0.1, 0.01
# The stiffness of `CoRNN`; for tens of steps, not hundreds, a larger step and less damping.
CORNN_DT, CORNN_GAMMA, CORNN_EPSILON = 0.1, 2.7, 2.0
# Those of `LipschitzRNN` with a step that is larger, for the same reason.
LIPSCHITZ_EPSILON, LIPSCHITZ_BETA, LIPSCHITZ_GAMMA = 0.1, 0.75, 0.001


def shape_of(params: Params, cell: str) -> tuple[str, int, int]:
    """Cell, units and layers: networks that share them can be stacked."""
    return params.get("cell", cell), params["hidden_size"], params.get("n_layers", 1)


class Stack:
    """G networks with their own weights, all of one shape.

    Args:
        params: The configurations, all of one `shape_of`.
        cell: The cell of the table, or ``"mixed"``.
        seeds: One a network: its initial weights and its dropout depend on nothing else.
        n_inputs: D.
        n_outputs: O.
        n_steps: T, the longest memory that chrono biases aim at.
        device: Where to train.
    """

    def __init__(
        self,
        params: Sequence[Params],
        cell: str,
        seeds: Sequence[int],
        *,
        n_inputs: int,
        n_outputs: int,
        n_steps: int,
        device: torch.device,
    ) -> None:
        self.cell, self.size, self.n_layers = shape_of(params[0], cell)
        self.n_inputs = n_inputs
        self.device = device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        each = [
            initial_weights(p, self.cell, self.n_layers, n_inputs, n_outputs, n_steps, generator)
            for p, generator in zip(params, self.generators, strict=True)
        ]
        self.weights = {
            name: torch.stack([weights[name] for weights in each]).to(device).requires_grad_()
            for name in each[0]
        }
        tied = [p.get("gating") == "tied" for p in params]
        self._tied = torch.tensor(tied, device=device) if any(tied) else None
        self._dropout = torch.tensor([p["dropout"] for p in params], device=device)

    def __len__(self) -> int:
        return len(self.generators)

    def outputs(self, x: Tensor, *, every_step: bool, training: bool = False) -> Tensor:
        """Answers to ``x (B, T, D)``: ``(G, B, O)``, or ``(G, B, T, O)`` for every step."""
        weights = self._effective()
        batch, n_steps, _ = x.shape
        signal: Sequence[Tensor] = x.expand(len(self), -1, -1, -1).unbind(2)
        for layer in range(self.n_layers):
            signal = self._run(signal, weights, layer)
            if training:
                mask = self._mask(batch)
                signal = [hidden * mask for hidden in signal]
        bias, matrix_t = weights["out_bias"][:, None], weights["out"].mT
        if not every_step:
            return torch.baddbmm(bias, signal[-1], matrix_t)
        answers = torch.baddbmm(bias, torch.cat(tuple(signal), dim=1), matrix_t)
        return answers.view(len(self), n_steps, batch, -1).transpose(1, 2)

    def module(self, index: int) -> nn.Module:
        """The recurrent part of one network, as a module that is ``batch_first``."""
        weights = {name: w[index].detach() for name, w in self._effective().items()}
        sizes = self.n_inputs, self.size
        module: nn.Module
        state: dict[str, Tensor] = {}
        if self.cell in ("mingru", "minlstm"):
            minimal = MinGRU if self.cell == "mingru" else MinLSTM
            module = minimal(*sizes, num_layers=self.n_layers)
            for layer in range(self.n_layers):
                state[f"weight_ih_l{layer}"] = weights[f"ih{layer}"]
                state[f"bias_l{layer}"] = weights[f"bias{layer}"]
            module.load_state_dict(state)
            return module.to(self.device)
        if self.cell in ("rnn", "relu", "gru", "lstm"):
            depth = {"num_layers": self.n_layers}
            if self.cell in ("rnn", "relu"):
                nonlinearity = "tanh" if self.cell == "rnn" else "relu"
                module = nn.RNN(*sizes, **depth, nonlinearity=nonlinearity, batch_first=True)
            else:
                gated = nn.GRU if self.cell == "gru" else nn.LSTM
                module = gated(*sizes, **depth, batch_first=True)
            for layer in range(self.n_layers):
                state[f"weight_ih_l{layer}"] = weights[f"ih{layer}"]
                state[f"weight_hh_l{layer}"] = weights[f"hh{layer}"]
                state[f"bias_ih_l{layer}"] = weights[f"bias{layer}"]
                state[f"bias_hh_l{layer}"] = torch.zeros_like(weights[f"bias{layer}"])
            module.load_state_dict(state)
            return module.to(self.device)
        state = {
            "weight_ih": weights["ih0"],
            "weight_hh": weights["hh0"],
            "bias": weights["bias0"],
        }
        if self.cell == "antisymmetric":
            module = AntisymmetricRNN(*sizes, epsilon=EPSILON, gamma=GAMMA, batch_first=True)
        elif self.cell == "cornn":
            module = CoRNN(
                *sizes, dt=CORNN_DT, gamma=CORNN_GAMMA, epsilon=CORNN_EPSILON, batch_first=True
            )
        elif self.cell == "lipschitz":
            module = LipschitzRNN(
                *sizes,
                epsilon=LIPSCHITZ_EPSILON,
                beta=LIPSCHITZ_BETA,
                gamma=LIPSCHITZ_GAMMA,
                batch_first=True,
            )
            linear, nonlinear = weights["hh0"].chunk(2, dim=1)
            state["weight_linear"], state["weight_hh"] = linear, nonlinear
        else:
            module = LEM(*sizes, batch_first=True)
            sizes_of_parts = [3 * self.size, self.size]
            state["weight_hh"], state["weight_zy"] = torch.split(weights["hh0"], sizes_of_parts)
        module.load_state_dict(state)
        return module.to(self.device)

    def _effective(self) -> dict[str, Tensor]:
        """The weights with tied gates expanded."""
        if self._tied is None:
            return self.weights
        effective = dict(self.weights)
        tied, source = TIED_GATES[self.cell]
        for name, weight in self.weights.items():
            if name.startswith("out"):
                continue
            blocks = list(weight.chunk(N_GATES[self.cell], dim=1))
            where = self._tied.view(-1, *(1,) * (weight.dim() - 1))
            blocks[tied] = torch.where(where, -blocks[source], blocks[tied])
            effective[name] = torch.cat(blocks, dim=1)
        return effective

    def _run(
        self, inputs: Sequence[Tensor], weights: dict[str, Tensor], layer: int
    ) -> list[Tensor]:
        """Hidden states ``(G, B, H)`` of all steps, from what the layer is given at each."""
        # Step by step: a product over all steps at once would leave the cache.
        bias, input_t = weights[f"bias{layer}"][:, None], weights[f"ih{layer}"].mT
        drives = (torch.baddbmm(bias, x, input_t) for x in inputs)
        h = bias.new_zeros(*inputs[0].shape[:2], self.size)
        hidden: list[Tensor] = []
        if self.cell in ("mingru", "minlstm"):
            advance = MinGRU.advance if self.cell == "mingru" else MinLSTM.advance
            for d in drives:
                h = advance(d, h)
                hidden.append(h)
            return hidden
        matrix_t = weights[f"hh{layer}"].mT
        if self.cell in ("rnn", "relu"):
            activation = torch.tanh if self.cell == "rnn" else torch.relu
            for d in drives:
                h = activation(torch.baddbmm(d, h, matrix_t))
                hidden.append(h)
        elif self.cell == "gru":
            size = self.size
            for d in drives:
                recurrent = torch.bmm(h, matrix_t)
                gates = torch.sigmoid(d[..., : 2 * size] + recurrent[..., : 2 * size])
                reset, update = gates.chunk(2, -1)
                new = torch.tanh(
                    torch.addcmul(d[..., 2 * size :], reset, recurrent[..., 2 * size :])
                )
                h = torch.lerp(new, h, update)
                hidden.append(h)
        elif self.cell == "lstm":
            c = h
            for d in drives:
                i, f, g, o = torch.baddbmm(d, h, matrix_t).chunk(4, -1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                hidden.append(h)
        elif self.cell == "antisymmetric":
            matrix_t = antisymmetric_matrix(weights[f"hh{layer}"], GAMMA).mT
            for d in drives:
                h = h + EPSILON * torch.tanh(torch.baddbmm(d, h, matrix_t))
                hidden.append(h)
        elif self.cell == "cornn":
            z = h
            for d in drives:
                force = torch.tanh(torch.baddbmm(d, torch.cat([h, z], -1), matrix_t))
                z = z + CORNN_DT * (force - CORNN_GAMMA * h - CORNN_EPSILON * z)
                h = h + CORNN_DT * z
                hidden.append(h)
        elif self.cell == "lipschitz":
            linear_t, matrix_t = (
                lipschitz_matrix(part, LIPSCHITZ_BETA, LIPSCHITZ_GAMMA).mT
                for part in weights[f"hh{layer}"].chunk(2, dim=-1)
            )
            for d in drives:
                flow = torch.baddbmm(torch.tanh(torch.baddbmm(d, h, matrix_t)), h, linear_t)
                h = h + LIPSCHITZ_EPSILON * flow
                hidden.append(h)
        else:
            size = self.size
            first_t, last_t = torch.split(matrix_t, [3 * size, size], dim=-1)
            z = h
            for d in drives:
                pre = torch.baddbmm(d[..., : 3 * size], h, first_t)
                slow, fast, candidate = pre.chunk(3, -1)
                z = torch.lerp(z, torch.tanh(candidate), torch.sigmoid(slow))
                candidate = torch.tanh(torch.baddbmm(d[..., 3 * size :], z, last_t))
                h = torch.lerp(h, candidate, torch.sigmoid(fast))
                hidden.append(h)
        return hidden

    def _mask(self, batch: int) -> Tensor:
        """Dropout of whole units, the same at all steps of a sequence: ``(G, B, H)``."""
        draws = torch.stack([torch.rand(batch, self.size, generator=g) for g in self.generators])
        keep = 1.0 - self._dropout[:, None, None]
        return (draws.to(self.device) < keep) / keep
