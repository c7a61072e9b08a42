"""The recorder: stacks compute what their networks would, and tables can be made again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.record.__main__ import configuration_seed
from benchmarks.record.__main__ import main
from benchmarks.record.__main__ import plan
from benchmarks.record.networks import Stack
from benchmarks.record.networks import shape_of
from benchmarks.record.spaces import Params
from benchmarks.record.spaces import draw_params
from benchmarks.record.spaces import search_space
from benchmarks.record.table import TABLES
from benchmarks.record.tasks import TASKS
from benchmarks.record.tasks.generated import Adding
from benchmarks.record.tasks.generated import Copying
from benchmarks.record.tasks.generated import FourSines
from benchmarks.record.tasks.generated import Lorenz
from benchmarks.record.tasks.generated import Recall
from benchmarks.record.tasks.real import FASHION_FOLDER
from benchmarks.record.tasks.real import Digits
from benchmarks.record.training import StackOptimizer
from benchmarks.record.training import train_stack
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.trials.table import RecordedTrials

CPU = torch.device("cpu")


def configurations(cell: str, shape: tuple[str, int, int], n: int) -> list[Params]:
    found = (p for p in (draw_params(cell, i) for i in range(5000)) if shape_of(p, cell) == shape)
    return [next(found) for _ in range(n)]


def make_stack(cell: str, params: list[Params]) -> Stack:
    return Stack(params, cell, range(len(params)), n_inputs=3, n_outputs=2, n_steps=40, device=CPU)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        ("mixed", ("rnn", 16, 2)),
        ("mixed", ("gru", 16, 2)),
        ("mixed", ("lstm", 32, 2)),
        ("mixed", ("antisymmetric", 16, 1)),
        ("mixed", ("lem", 16, 1)),
        ("cornn", ("cornn", 16, 1)),
        ("lstm", ("lstm", 24, 1)),
    ],
)
def test_a_stack_answers_as_its_modules_do(cell: str, shape: tuple[str, int, int]) -> None:
    params = configurations(cell, shape, 4)
    if cell == "mixed" and shape[0] in ("gru", "lstm"):
        assert len({p["gating"] for p in params}) == 2
    stack = make_stack(cell, params)
    x = torch.randn(5, 12, 3)
    with torch.no_grad():
        answers = stack.outputs(x, every_step=True)
        last = stack.outputs(x, every_step=False)
        for i in range(4):
            hidden, _ = stack.module(i)(x)
            expected = hidden @ stack.weights["out"][i].T + stack.weights["out_bias"][i]
            torch.testing.assert_close(answers[i], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(last[i], expected[:, -1], rtol=1e-4, atol=1e-5)


def test_tied_gates_are_complements() -> None:
    (tied,) = [p for p in configurations("mixed", ("lstm", 16, 1), 8) if p["gating"] == "tied"][:1]
    module = make_stack("mixed", [tied]).module(0)
    first, second = module.weight_hh_l0[:16], module.weight_hh_l0[16:32]
    torch.testing.assert_close(first, -second)


def test_a_training_does_not_depend_on_what_trains_beside_it() -> None:
    task = Recall()
    params = configurations("rnn", ("rnn", 16, 1), 3)
    settings = {"n_epochs": 2, "device": CPU}
    together = train_stack(task, "rnn", params, [5, 6, 7], **settings)
    alone = train_stack(task, "rnn", params[1:2], [6], **settings)
    np.testing.assert_allclose(together.validation[1], alone.validation[0], rtol=1e-3)
    np.testing.assert_allclose(together.spectra[1], alone.spectra[0], rtol=2e-2, atol=2e-2)


def test_a_network_that_diverges_leaves_the_others_alone() -> None:
    task = Recall()
    params = configurations("rnn", ("rnn", 16, 1), 2)
    stack = make_stack("rnn", params)
    optimizer = StackOptimizer(stack, params)
    before = [w.detach().clone() for w in stack.weights.values()]
    gradients = [torch.ones_like(w) for w in before]
    gradients[0][0] = float("nan")
    optimizer.step(gradients)
    assert optimizer.diverged.tolist() == [True, False]
    for old, new in zip(before, stack.weights.values(), strict=True):
        torch.testing.assert_close(new[0], old[0])
        assert not torch.equal(new[1], old[1])
    assert task.worst == 2.0


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "sgd"])
def test_the_optimisers_are_those_of_torch(kind: str) -> None:
    base = configurations("rnn", ("rnn", 16, 1), 1)[0]
    params = [base | {"clipping": 1e6, "weight_decay": 0.0, "optimizer": kind}]
    stack = make_stack("rnn", params)
    reference = [w[0].detach().clone().requires_grad_() for w in stack.weights.values()]
    rate = base["learning_rate"]
    theirs = {
        "adam": lambda: torch.optim.AdamW(reference, lr=rate, weight_decay=0.0),
        "rmsprop": lambda: torch.optim.RMSprop(reference, lr=rate, alpha=0.99),
        "sgd": lambda: torch.optim.SGD(reference, lr=2.0 * rate, momentum=0.9),
    }[kind]()
    ours = StackOptimizer(stack, params)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        gradients = [torch.randn(w.shape, generator=generator) for w in stack.weights.values()]
        ours.step(gradients)
        for weight, gradient in zip(reference, gradients, strict=True):
            weight.grad = gradient[0].clone()
        theirs.step()
    for new, expected in zip(stack.weights.values(), reference, strict=True):
        torch.testing.assert_close(new[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task_type", [Adding, Recall, Copying, FourSines, Digits])
def test_perfect_answers_score_best_and_blind_ones_at_chance(task_type: type) -> None:
    task = task_type()
    _, y = task.split.test
    if task_type is Copying:
        perfect = torch.zeros(1, len(y), task.split.test[0].shape[1], 6)
        for at in task.answer_starts():
            perfect[0, :, at : at + task.length] = 50.0 * torch.nn.functional.one_hot(y, 6)
    elif task_type is Digits:
        perfect = torch.nn.functional.one_hot(y, 10).float()[None]
    else:
        perfect = y[None]
    best = 1.0 if task.direction == "maximize" else 0.0
    assert task.scores(perfect, y).item() == pytest.approx(best, abs=1e-3)
    chance = 0.1 if task_type is Digits else 1.0
    assert task.scores(torch.zeros_like(perfect), y).item() == pytest.approx(chance, abs=0.05)


# SHA-256 over the batches of epochs 0 and 3. Tasks are left out whose numbers depend on the
# machine or on the Python that runs: chaos (Lorenz), the standard library's source (charlm).
BATCHES = {
    "digits": "86f4659027cd31d2",
    "fashion": "2d4556e80b311c98",
    "vowels": "e0b1c96150071d15",
    "osuleaf": "bceabbf04783843c",
    "adding": "af909917b174a3f9",
    "recall": "2b78e9435d0edc79",
    "copying": "ce0a269f91fddae5",
    "sines": "261135a38cbc0295",
}


@pytest.mark.parametrize("name", BATCHES)
def test_data_is_that_of_the_recorded_tables(name: str) -> None:
    if name == "fashion" and not FASHION_FOLDER.exists():
        pytest.skip("Fashion-MNIST is not installed")
    if name in ("vowels", "osuleaf"):
        pytest.importorskip("aeon")
    task = TASKS[name]()
    recorded = {
        RecordedTrials.load(path).metadata["data_version"] for path in TABLES.glob(f"{name}-*.npz")
    }
    assert recorded == {task.data_version}
    digest = hashlib.sha256()
    for epoch in (0, 3):
        for part in (part for batch in task.batches(epoch) for part in batch):
            digest.update(part.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == BATCHES[name]


def test_the_lorenz_system_is_forecast_from_its_own_course() -> None:
    task = Lorenz()
    x, y = task.draw(0)
    torch.testing.assert_close(x[:, task.ahead :], y[:, : -task.ahead])
    again, _ = task.draw(0)
    assert torch.equal(x, again)
    assert not torch.equal(x, task.draw(1)[0])


def test_the_answer_to_adding_is_in_its_inputs() -> None:
    x, y = Adding().draw(3)
    for pair in range(3):
        marked = x[..., 1 + pair]
        torch.testing.assert_close((x[..., 0] * marked).sum(1), y[:, pair])
        assert (marked.sum(1) == 2).all()


def test_spaces_vary_what_they_say() -> None:
    for cell in ("rnn", "mixed"):
        drawn = [draw_params(cell, seed) for seed in range(300)]
        for name, distribution in search_space(cell).items():
            values = [p[name] for p in drawn if name in p]
            assert values, name
            assert all(
                distribution._contains(distribution.to_internal_repr(value)) for value in values
            )
    low, high = (
        search_space("mixed")["learning_rate"].low,
        search_space("mixed")["learning_rate"].high,
    )
    assert high / low <= 10.001
    assert draw_params("mixed", 7) == draw_params("mixed", 7)


def test_a_plan_holds_every_configuration_once() -> None:
    stacks = plan("digits-mixed", 100)
    assert sorted(i for members in stacks for i in members) == list(range(100))
    for members in stacks:
        drawn = [draw_params("mixed", configuration_seed("digits-mixed", i)) for i in members]
        assert len({shape_of(p, "mixed") for p in drawn}) == 1


@pytest.mark.slow
def test_a_table_is_recorded_in_parts_resumed_and_read(tmp_path: Path) -> None:
    def record(part: str) -> None:
        main(
            f"--task recall --cell rnn --configs 12 --epochs 2 --part {part} "
            f"--cache {tmp_path / 'cache'} --tables-folder {tmp_path}".split()
        )

    record("0/2")
    assert not (tmp_path / "recall-rnn.npz").exists()
    record("1/2")
    stacks = list((tmp_path / "cache" / "recall-rnn").iterdir())
    first = [path.stat().st_mtime_ns for path in stacks]
    table = RecordedTrials.load(tmp_path / "recall-rnn.npz")
    record("0/1")  # nothing is left to train
    assert first == [path.stat().st_mtime_ns for path in stacks]
    assert len(table) == 12
    assert table.metadata["data_version"] == TASKS["recall"]().data_version
    assert len(table.metadata["trained_at_commits"]) == 1
    seed = configuration_seed("recall-rnn", 3)
    params = draw_params("rnn", seed)
    assert table.trials[3].params == params
    alone = train_stack(Recall(), "rnn", [params], [seed], n_epochs=2, device=CPU)
    values = list(table.trials[3].intermediate_values.values())
    np.testing.assert_allclose(values, alone.validation[0], rtol=1e-3)


def test_a_longer_recording_does_not_take_up_a_shorter_one(tmp_path: Path) -> None:
    places = f"--cache {tmp_path / 'cache'} --tables-folder {tmp_path}"
    for n_epochs in (1, 2):
        main(f"--task recall --cell rnn --configs 3 --epochs {n_epochs} {places}".split())
        assert len(RecordedTrials.load(tmp_path / "recall-rnn.npz").steps) == n_epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name a table: --task and --cell, --tables, or --all"),
        ("--task recall", "expected --task and --cell together"),
        ("--task recall --cell x", "argument --cell: invalid choice: 'x'"),
        ("--tables recall-x", "expected task-cell"),
        ("--tables x-rnn", "expected task-cell"),
        ("--all --device warp", "argument --device: expected a device that torch can use here"),
        ("--all --configs 0", "argument --configs: expected an integer of at least 1, got 0"),
        ("--all --epochs x", "argument --epochs: expected an integer of at least 1, got x"),
        (
            "--all --part 2/2",
            "argument --part: expected k/n with 0 <= k < n, such as 0/2, got 2/2",
        ),
        ("--all --part 1", "argument --part: expected k/n with 0 <= k < n, such as 0/2, got 1"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_recorded_spectra_are_those_of_the_modules() -> None:
    task = Recall()
    params = configurations("mixed", ("gru", 16, 2), 2)
    record = train_stack(task, "mixed", params, [1, 2], n_epochs=1, device=CPU)
    untrained = Stack(
        params, "mixed", [1, 2], n_inputs=2, n_outputs=3, n_steps=task.n_steps, device=CPU
    )
    spectrum = lyapunov_spectrum(untrained.module(1), task.probe[:2, :32], warmup=8)
    points = resample_exponents(spectrum.mean)
    np.testing.assert_allclose(record.spectra[1, 0], points, rtol=1e-6)
    assert record.state_sizes[1] == spectrum.exponents.shape[1] == 32
