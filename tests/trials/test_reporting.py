"""`report_network`: whole models, directions, and probes that may be misread."""

from __future__ import annotations

import warnings

import optuna
import pytest
import torch
from torch import Tensor
from torch import nn

from optuna_aelle import AeLLEWarning
from optuna_aelle import decode_spectra
from optuna_aelle import report_network
from optuna_aelle.trials.attributes import spectrum_payloads


class Tagger(nn.Module):
    """Tokens in, two recurrent parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.first = nn.LSTM(4, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.second = nn.GRU(6, 5, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.first(self.embed(tokens))
        out: Tensor = self.second(self.norm(x))[0]
        return out


def test_tokens_reach_every_recurrent_part_through_the_model() -> None:
    trial = optuna.create_study().ask()
    tokens = torch.randint(20, (4, 40))
    spectrum = report_network(trial, Tagger(), tokens, step=-1)
    assert spectrum is not None
    assert spectrum.state_size == 2 * 6 + 5
    assert spectrum_payloads(trial)[-1]["n"] == 17


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_bidirectional_network_has_two_systems(direction: str) -> None:
    trial = optuna.create_study().ask()
    network, inputs = nn.GRU(1, 6, bidirectional=True), torch.randn(40, 2, 1)
    with pytest.warns(AeLLEWarning, match="Expected a direction"):
        assert report_network(trial, network, inputs, step=-1) is None
    assert report_network(trial, network, inputs, step=0, direction=direction) is not None  # type: ignore[arg-type]
    assert list(decode_spectra(trial)) == [0]


def test_a_few_steps_of_many_sequences_are_not_taken_without_a_word() -> None:
    """`(4, 64, 1)` for a module that is not batch_first: four steps of 64 sequences."""
    trial = optuna.create_study().ask()
    with pytest.warns(AeLLEWarning, match=r"no spectrum at step -1.*4 steps of 64 sequences"):
        assert report_network(trial, nn.LSTM(1, 6), torch.zeros(4, 64, 1), step=-1) is None
    with pytest.warns(UserWarning, match=r"16 steps of 64 sequences.*batch_first=True"):
        assert report_network(trial, nn.LSTM(1, 6), torch.zeros(16, 64, 1), step=0) is not None


def test_probes_that_change_their_shape_within_a_study_are_told_once() -> None:
    study = optuna.create_study(study_name="changing")
    network = nn.GRU(1, 4, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            report_network(study.ask(), network, torch.randn(4, 40, 1), step=-1)
        other = optuna.create_study(study_name="another")
        report_network(other.ask(), network, torch.randn(4, 30, 1), step=-1)
    with pytest.warns(AeLLEWarning, match=r"shape \(4, 30, 1\), those before had \(4, 40, 1\)"):
        report_network(study.ask(), network, torch.randn(4, 30, 1), step=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_network(study.ask(), network, torch.randn(4, 30, 1), step=-1)
