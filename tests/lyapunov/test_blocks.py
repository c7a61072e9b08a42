"""Recording a block and replaying it, without a GPU: all but CUDA itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import blocks
from optuna_aelle.lyapunov import carriers
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov.compiled import general_path
from optuna_aelle.lyapunov.models import build_layers

METHODS = ["lu", "qr", "cholesky"]


class ReplayedGraph:
    """A CUDA graph that runs its block again, in the places that the recording fixed."""

    recorded: list[ReplayedGraph] = []

    def __init__(self) -> None:
        self.owner: Any = None
        self.replays = 0
        self.recorded.append(self)

    def replay(self) -> None:
        self.replays += 1
        owner = self.owner
        results = blocks.carry_block(
            owner.layer, owner._frame.clone(), owner._coefficients, owner.method
        )
        for place, value in zip(owner._result, results, strict=True):
            place.copy_(value)


@pytest.fixture(autouse=True)
def without_compiled_code() -> Iterator[None]:
    with general_path():
        yield


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[ReplayedGraph]:
    """Every run records its blocks as if its frame were on a CUDA device."""
    ReplayedGraph.recorded = []
    initialize = blocks._Graph.__init__

    def remember(self: Any, layer: Any, frame: Any, coefficients: Any, method: str) -> None:
        initialize(self, layer, frame, coefficients, method)
        self.layer, self.method = layer, method
        self._graph.owner = self

    def recording(graph: ReplayedGraph, **_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    prepare = carriers.AdaptiveCarrier.__init__

    def record(self: Any, *arguments: Any) -> None:
        prepare(self, *arguments)
        self._carry_block = blocks.GraphedBlocks()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", ReplayedGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(blocks._Graph, "__init__", remember)
    monkeypatch.setattr(carriers.AdaptiveCarrier, "__init__", record)
    return ReplayedGraph.recorded


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_replayed_blocks_give_the_numbers_of_eager_ones(
    module: Any, method: Any, graphs: list[ReplayedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = module(3, 12, num_layers=2)
    inputs = torch.randn(150, 4, 3)
    replayed = lyapunov_spectrum(network, inputs, method=method)
    assert sum(graph.replays for graph in graphs) > 10
    monkeypatch.undo()
    eager = lyapunov_spectrum(network, inputs, method=method)
    np.testing.assert_array_equal(replayed.exponents, eager.exponents)


def test_a_recording_that_fails_warns_once_and_runs_eagerly(
    graphs: list[ReplayedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: ReplayedGraph, **_: Any) -> AbstractContextManager[None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    torch.manual_seed(0)
    network, inputs = nn.GRU(3, 12), torch.randn(60, 2, 3)
    with pytest.warns(UserWarning, match="No CUDA graph of this block.*stream is capturing"):
        spectrum = lyapunov_spectrum(network, inputs, interval=1)
    monkeypatch.undo()
    np.testing.assert_array_equal(
        spectrum.exponents, lyapunov_spectrum(network, inputs, interval=1).exponents
    )


def test_memory_that_a_recording_writes_to_stays_where_it_is() -> None:
    lstm = nn.LSTM(3, 4)
    (layer,) = build_layers(
        [lstm],
        state="full",
        reverse=False,
        device=torch.device("cpu"),
        input_dtype=torch.float64,
    )
    like = torch.zeros(1, dtype=torch.float64)
    first = layer.scratch(2, 4, 8, like=like).data_ptr()
    layer.scratch(2, 4, 4, like=like)
    assert layer.scratch(2, 4, 8, like=like).data_ptr() == first
