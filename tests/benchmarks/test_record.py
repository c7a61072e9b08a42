"""The recorder: stacks compute what their networks would, and tables can be made again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.record.__main__ import configuration_seed
from benchmarks.record.__main__ import main
from benchmarks.record.__main__ import plan
from benchmarks.record.cells import MinGRU
from benchmarks.record.cells import MinLSTM
from benchmarks.record.networks import Stack
from benchmarks.record.networks import shape_of
from benchmarks.record.plans import DEVELOPMENT_PLANS
from benchmarks.record.plans import REPORT_PLANS
from benchmarks.record.plans import Plan
from benchmarks.record.plans import plan_of
from benchmarks.record.spaces import Params
from benchmarks.record.spaces import Space
from benchmarks.record.spaces import draw_params
from benchmarks.record.spaces import search_space
from benchmarks.record.tasks import TASKS
from benchmarks.record.tasks.memory import Recall
from benchmarks.record.training import StackOptimizer
from benchmarks.record.training import train_stack
from optuna_aelle import decode_spectra
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.trials.table import RecordedTrials

CPU = torch.device("cpu")
PLANS = (*DEVELOPMENT_PLANS, *REPORT_PLANS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the recorder computes; several threads only wait for each other here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# One with every cell and scheme that the first mixed space does not have.
NEW_CELLS = Space(
    ("relu", "mingru", "minlstm", "lipschitz", "cornn"),
    sizes=(16, 32),
    init_schemes=("uniform", "orthogonal", "identity"),
    n_layers=(1, 2),
    gate_biases=("zero", "chrono"),
    batch_sizes=(10, 50),
)


def configurations(space: Space | str, shape: tuple[str, int, int], n: int) -> list[Params]:
    cell = space if isinstance(space, str) else space.cells[0]
    drawn = (draw_params(space, i) for i in range(5000))
    found = (p for p in drawn if shape_of(p, cell) == shape)
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
        (NEW_CELLS, ("relu", 16, 2)),
        (NEW_CELLS, ("mingru", 16, 1)),
        (NEW_CELLS, ("mingru", 16, 2)),
        (NEW_CELLS, ("minlstm", 16, 2)),
        (NEW_CELLS, ("lipschitz", 16, 1)),
        (NEW_CELLS, ("cornn", 16, 1)),
    ],
)
def test_a_stack_answers_as_its_modules_do(cell: Space | str, shape: tuple[str, int, int]) -> None:
    params = configurations(cell, shape, 4)
    if cell == "mixed" and shape[0] in ("gru", "lstm"):
        assert len({p["gating"] for p in params}) == 2
    stack = make_stack(shape[0], params)
    x = torch.randn(5, 12, 3)
    with torch.no_grad():
        answers = stack.outputs(x, every_step=True)
        last = stack.outputs(x, every_step=False)
        for i in range(4):
            hidden, _ = stack.module(i)(x)
            expected = hidden @ stack.weights["out"][i].T + stack.weights["out_bias"][i]
            torch.testing.assert_close(answers[i], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(last[i], expected[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM])
def test_spectra_of_minimal_cells_are_the_logarithms_of_what_they_keep(
    cell: type[MinGRU] | type[MinLSTM],
) -> None:
    torch.manual_seed(0)
    module = cell(3, 8, num_layers=2).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    x = torch.randn(1, 60, 3, dtype=torch.float64)
    spectrum = lyapunov_spectrum(module, x, warmup=0)
    logarithms = []
    signal = x[0]
    zero, one = torch.zeros(8).double(), torch.ones(8).double()
    for layer in range(2):
        weight, bias = (getattr(module, f"{name}_l{layer}") for name in ("weight_ih", "bias"))
        drives = signal @ weight.T + bias
        # What is kept of the state is what a state of one adds to the next.
        kept = cell.advance(drives, one) - cell.advance(drives, zero)
        logarithms.append(kept.log().mean(0))
        h, hidden = zero, []
        for drive in drives:
            h = cell.advance(drive, h)
            hidden.append(h)
        signal = torch.stack(hidden)
    expected = torch.cat(logarithms).sort(descending=True).values.detach().numpy()
    # The frame needs some steps to turn; what all directions lose together is exact.
    np.testing.assert_allclose(spectrum.mean, expected, atol=0.25)
    np.testing.assert_allclose(spectrum.mean.sum(), expected.sum(), atol=1e-4)


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


def test_spaces_vary_what_they_say() -> None:
    for cell in ("rnn", "mixed", NEW_CELLS, *(planned.space for planned in PLANS)):
        drawn = [draw_params(cell, seed) for seed in range(150)]
        for name, distribution in search_space(cell).items():
            values = [p[name] for p in drawn if name in p]
            assert name == "cell" or "cell" not in drawn[0] or len(set(values)) > 1
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


# CRC-32 of the stacks of the first tables as JSON: who trained beside whom.
STACKS = {
    "digits-rnn": "a9dbf4a6",
    "digits-mixed": "4a59148d",
    "adding-lstm": "536a276e",
    "adding-mixed": "a5a66a3b",
    "lorenz-gru": "05339d5e",
    "fashion-gru": "01fd1776",
    "fashion-mixed": "e3fbe8cf",
    "vowels-mixed": "c690d6a7",
    "osuleaf-antisymmetric": "f0b728dc",
    "charlm-lstm": "1e9ca84d",
    "charlm-mixed": "d67b1cbd",
    "recall-rnn": "3d9ab41e",
    "recall-mixed": "44b63321",
    "copying-lem": "72499c55",
    "copying-mixed": "57604878",
    "sines-rnn": "ea6f5520",
    "sines-mixed": "87cf6723",
}


@pytest.mark.parametrize("name", STACKS)
def test_the_first_tables_can_still_be_recorded(name: str) -> None:
    chosen = plan_of(name)
    assert (chosen.n_configs, chosen.n_epochs) == (200, 27)
    stacks = json.dumps(plan(name, 200)).encode()
    assert f"{zlib.crc32(stacks):08x}" == STACKS[name]


@pytest.mark.parametrize("chosen", PLANS, ids=[plan.name for plan in PLANS])
def test_networks_of_a_stack_share_shape_and_batch_size(chosen: Plan) -> None:
    stacks = plan(chosen.name, chosen.n_configs)
    assert sorted(i for members in stacks for i in members) == list(range(chosen.n_configs))
    for members in stacks:
        drawn = [draw_params(chosen.space, configuration_seed(chosen.name, i)) for i in members]
        completed = [chosen.space.complete(p) for p in drawn]
        shapes = {shape_of(p, chosen.space.cells[0]) for p in completed}
        assert len(shapes) == len({p.get("batch_size") for p in completed}) == 1


def test_what_is_not_searched_is_still_trained_with() -> None:
    space = Space(("rnn",), optimizers=(), clipping=None, dropout=None, fixed={"clipping": 1.0})
    params = draw_params(space, 1)
    assert params.keys() == {"hidden_size", "learning_rate", "init_gain", "weight_decay"}
    completed = space.complete(params)
    assert (completed["optimizer"], completed["clipping"]) == ("adam", 1.0)
    assert completed["dropout"] == 0.0
    task = TASKS["sorting"]()
    record = train_stack(task, "rnn", [completed], [1], n_epochs=1, device=CPU)
    assert np.isfinite(record.validation).all()
    # A batch of half the sequences: two steps, another training.
    whole = train_stack(
        task, "rnn", [completed | {"batch_size": 1000}], [1], n_epochs=1, device=CPU
    )
    assert record.train_loss[0, 0] != whole.train_loss[0, 0]


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


@pytest.mark.slow
@pytest.mark.parametrize("table", ["parity-relu", "counting-mingru", "integration-mixed"])
def test_a_later_table_is_recorded_in_parts_and_read(table: str, tmp_path: Path) -> None:
    places = f"--cache {tmp_path / 'cache'} --tables-folder {tmp_path}"
    for part in ("0/2", "1/2"):
        main(f"--tables {table} --configs 4 --epochs 1 --part {part} {places}".split())
    recorded = RecordedTrials.load(tmp_path / f"{table}.npz")
    space = plan_of(table).space
    seeds = [configuration_seed(table, i) for i in range(4)]
    assert [trial.params for trial in recorded.trials] == [draw_params(space, s) for s in seeds]
    # The first: in a chaotic one rounding, which depends on the stack, grows to be seen.
    alone = train_stack(
        TASKS[plan_of(table).task](),
        space.cells[0],
        [space.complete(recorded.trials[0].params)],
        seeds[:1],
        n_epochs=1,
        device=CPU,
    )
    values = list(recorded.trials[0].intermediate_values.values())
    np.testing.assert_allclose(values, alone.validation[0], rtol=1e-2)
    assert set(decode_spectra(recorded.trials[0])) == {-1, 1}


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
