"""Hugging Face's Trainer: what is reported and when, who is stopped, and where it goes on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from tests.conftest import skip_unless_required

try:
    from transformers import Trainer
    from transformers import TrainerCallback
    from transformers import TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError:
    skip_unless_required("transformers is not installed")

import optuna_aelle as aelle
from optuna_aelle import AeLLEWarning
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import PROBE
from tests.integration.searches import Reader
from tests.integration.searches import stopping_study
from tests.integration.searches import sums

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory")


class Model(Reader):
    """As the Trainer wants them: with a loss of its own."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        outputs = super().forward(x)
        if labels is None:
            return {"logits": outputs}
        return {"loss": F.mse_loss(outputs, labels), "logits": outputs}


def rows(n: int, seed: int) -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": y} for x, y in zip(*sums(n, seed), strict=True)]


class Notes(TrainerCallback):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        self.epochs.append(round(state.epoch))


def make_trainer(folder: Path, *callbacks: Any, p: float = 0.0, **options: Any) -> Trainer:
    torch.manual_seed(0)
    model = options.pop("model", None) or Model()
    model.dropout = nn.Dropout(p)
    sets = options.pop("eval_dataset", rows(16, 1))
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": N_EPOCHS,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "learning_rate": 0.02,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**(settings | options)),
        train_dataset=rows(32, 0),
        eval_dataset=sets,
        callbacks=list(callbacks),
    )


def make_callback(trial: Any, **options: Any) -> Any:
    return aelle.integration.TransformersCallback(trial, **({"probe": PROBE} | options))


def test_metric_and_spectra_of_each_epoch_are_reported(tmp_path: Path) -> None:
    study = stopping_study()
    trial = study.ask()
    trainer = make_trainer(tmp_path, make_callback(trial))
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    values = study.trials[0].intermediate_values
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert list(values) == list(range(N_EPOCHS))
    assert list(values.values()) == history[-N_EPOCHS - 1 : -1]
    found = aelle.decode_spectra(trial)
    assert list(found) == [-1, *range(N_EPOCHS)]
    last = aelle.spectral_fingerprint(trainer.model.rnn, PROBE).mean[0]
    assert found[N_EPOCHS - 1][0] == pytest.approx(last, abs=1e-4)
    assert study.pruner.asked == [(0, step) for step in range(-1, N_EPOCHS)]


def test_training_is_as_without_it(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, p=0.2)
    plain.train()
    state = torch.get_rng_state()
    observed = make_trainer(tmp_path, make_callback(stopping_study().ask()), p=0.2)
    observed.train()
    assert all(map(torch.equal, plain.model.parameters(), observed.model.parameters()))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_a_stopped_trial_trains_no_further(step: int, tmp_path: Path) -> None:
    study = stopping_study({0: step})
    notes = Notes()
    study.optimize(
        lambda trial: make_trainer(tmp_path, notes, make_callback(trial)).train() and 0.0,
        n_trials=1,
    )
    assert study.trials[0].state == TrialState.PRUNED
    assert notes.epochs == list(range(step + 1))
    assert list(study.trials[0].intermediate_values) == list(range(step + 1))
    assert not any(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"save_strategy": "epoch", "load_best_model_at_end": True},
        {"save_strategy": "best", "metric_for_best_model": "eval_loss"},
    ],
    ids=str,
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    checkpoints = aelle.Checkpoints(tmp_path / "kept")
    study = stopping_study({0: 1})
    trainers, notes = [], []

    def objective(trial: optuna.Trial) -> float:
        callback = make_callback(trial, checkpoints=checkpoints)
        notes.append(Notes())
        folder = tmp_path / f"trial-{trial.number}"
        trainers.append(make_trainer(folder, callback, notes[-1], **options))
        trainers[-1].train(resume_from_checkpoint=callback.resume(trainers[-1]))
        return 0.0

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert [n.epochs for n in notes] == [[0, 1], [2, 3]]
    assert second.intermediate_values.items() >= first.intermediate_values.items()
    assert list(second.intermediate_values) == list(range(N_EPOCHS))
    assert trainers[1].state.global_step == whole.state.global_step
    # To the bit, optimizer, schedule and shuffling included.
    assert all(map(torch.equal, whole.model.parameters(), trainers[1].model.parameters()))
    kept = options.get("save_strategy", "no") != "no"
    assert any((tmp_path / "trial-1").glob("checkpoint-*")) == kept


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"save_steps": 8}, [8, 16]), ({"save_steps": 3, "save_total_limit": 1}, [16])],
    ids=str,
)
def test_what_they_save_themselves_stays(
    options: dict[str, Any], kept: list[int], tmp_path: Path
) -> None:
    checkpoints = aelle.Checkpoints(tmp_path / "kept")
    callback = make_callback(stopping_study().ask(), checkpoints=checkpoints)
    folder = tmp_path / "trial"
    trainer = make_trainer(folder, callback, save_strategy="steps", **options)
    trainer.train(resume_from_checkpoint=callback.resume(trainer))
    there = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert there == kept


class Counts(TrainerCallback, ExportableState):
    """Keeps a state in the Trainer's checkpoints."""

    def __init__(self, n_epochs: int = 0) -> None:
        self.n_epochs = n_epochs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        self.n_epochs += 1

    def state(self) -> dict[str, Any]:
        return {"args": {"n_epochs": self.n_epochs}, "attributes": {}}


def test_other_callbacks_go_on_too(tmp_path: Path) -> None:
    checkpoints = aelle.Checkpoints(tmp_path / "kept")
    study = stopping_study({0: 1})
    counted = []

    def objective(trial: optuna.Trial) -> float:
        callback = make_callback(trial, checkpoints=checkpoints)
        trainer = make_trainer(
            tmp_path, callback, Counts(), restore_callback_states_from_checkpoint=True
        )
        trainer.train(resume_from_checkpoint=callback.resume(trainer))
        counted.extend(x for x in trainer.callback_handler.callbacks if isinstance(x, Counts))
        return 0.0

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE
    assert counted[0].n_epochs == N_EPOCHS


def test_checkpoints_want_to_be_asked_and_to_count_epochs(tmp_path: Path) -> None:
    checkpoints = aelle.Checkpoints(tmp_path / "kept")
    study = stopping_study({0: 0})
    callback = make_callback(study.ask(), checkpoints=checkpoints)
    with pytest.raises(ValueError, match=r"callback\.resume\(trainer\)"):
        make_trainer(tmp_path, callback).train()
    steps = make_trainer(tmp_path, callback, eval_strategy="steps", eval_steps=2)
    with pytest.raises(ValueError, match="eval_strategy='steps'"):
        callback.resume(steps)
    with pytest.raises(ValueError, match="pass checkpoints= beforehand"):
        make_callback(study.ask()).resume(steps)
    trainer = make_trainer(tmp_path, callback)
    with pytest.raises(optuna.TrialPruned):
        trainer.train(resume_from_checkpoint=callback.resume(trainer))
    study.tell(0, state=TrialState.PRUNED)
    study.tell(1, state=TrialState.FAIL)
    enqueue_continuation(study, study.trials[0])
    again = make_callback(study.ask(), checkpoints=checkpoints)
    trainer = make_trainer(tmp_path, again)
    folder = again.resume(trainer)
    assert folder is not None
    with pytest.raises(ValueError, match="the trainer begins anew"):
        trainer.train()


def test_nothing_that_is_kept_leaves_its_folder_or_is_unpickled(tmp_path: Path) -> None:
    from optuna_aelle.integration.transformers import _Folder

    source, folder = _Folder(), _Folder()
    source.path = tmp_path
    (tmp_path / "training_args.bin").write_bytes(b"a pickle")
    (tmp_path / "empty").touch()
    (tmp_path / "model.bin").write_bytes(b"weights")
    content = source.state_dict()
    assert list(content) == ["model.bin"]
    folder.load_state_dict({"../../outside": content["model.bin"], **content})
    assert folder.path is not None
    assert sorted(os.listdir(folder.path)) == ["model.bin", "outside"]
    assert (folder.path / "model.bin").read_bytes() == b"weights"
    where = folder.path
    folder.clear()
    assert not where.exists()


@pytest.mark.parametrize("monitor", ["eval_loss", "loss"])
def test_evaluations_between_epochs_count_by_themselves(monitor: str, tmp_path: Path) -> None:
    study = stopping_study()
    trainer = make_trainer(
        tmp_path,
        make_callback(study.ask(), monitor=monitor),
        eval_strategy="steps",
        eval_steps=4,
        eval_on_start=True,
        max_steps=12,
    )
    trainer.train()
    assert list(study.trials[0].intermediate_values) == [0, 1, 2]


def test_one_of_several_evaluated_sets(tmp_path: Path) -> None:
    study = stopping_study()
    sets = {"near": rows(8, 1), "far": rows(8, 2)}
    callback = make_callback(study.ask(), monitor="far_loss")
    make_trainer(tmp_path, callback, eval_dataset=sets).train()
    assert len(study.trials[0].intermediate_values) == N_EPOCHS


def test_several_objectives_are_reported_together(tmp_path: Path) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    sets = {"near": rows(8, 1), "far": rows(8, 2)}
    callback = make_callback(study.ask(), monitor=("far_loss", "eval_near_loss"))
    trainer = make_trainer(tmp_path, callback, eval_dataset=sets)
    trainer.train()
    near, far = (
        [entry[name] for entry in trainer.state.log_history if name in entry]
        for name in ("eval_near_loss", "eval_far_loss")
    )
    assert [*aelle.decode_values(study.trials[0]).values()] == list(zip(far, near, strict=True))
    assert len(near) == N_EPOCHS


def test_what_is_missing_is_told_early(tmp_path: Path) -> None:
    notes = Notes()
    callback = make_callback(stopping_study().ask(), monitor="accuracy")
    with pytest.raises(ValueError, match=r"'eval_accuracy'.*Available: .*'eval_loss'"):
        make_trainer(tmp_path, callback, notes).train()
    assert len(notes.epochs) <= 2
    callback = make_callback(stopping_study().ask())
    with pytest.raises(ValueError, match="eval_strategy='no'"):
        make_trainer(tmp_path, callback, eval_strategy="no").train()
    with pytest.raises(ValueError, match="the trial of the first process"):
        make_trainer(tmp_path, make_callback(None)).train()


def test_without_a_probe_it_goes_on_and_says_so_once(tmp_path: Path) -> None:
    study = stopping_study()
    with pytest.warns(AeLLEWarning, match="goes without spectra"):
        make_trainer(tmp_path, make_callback(study.ask(), probe=None)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        make_trainer(tmp_path, make_callback(study.ask(), probe=None)).train()
    assert len(study.trials[1].intermediate_values) == N_EPOCHS
    assert aelle.decode_spectra(study.trials[1]) == {}


def test_a_language_model_of_theirs(tmp_path: Path) -> None:
    """Mamba, whose layers the engine knows; the probe as a tokenizer returns it."""
    from transformers import MambaConfig
    from transformers import MambaForCausalLM

    config = MambaConfig(vocab_size=20, hidden_size=16, state_size=4, num_hidden_layers=2)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, (8, 24), generator=generator)
    texts = [{"input_ids": row, "labels": row} for row in tokens]
    study = stopping_study({0: 0})
    trial = study.ask()
    callback = make_callback(trial, probe={"attention_mask": None, "input_ids": tokens[:2]})
    model = MambaForCausalLM(config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            eval_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=texts,
        eval_dataset=texts,
        callbacks=[callback],
    )
    with pytest.raises(optuna.TrialPruned):
        trainer.train()
    assert list(aelle.decode_spectra(trial)) == [-1, 0]
