"""What a prior is learned from, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from tqdm import tqdm

from optuna_aelle._warnings import warn_once
from optuna_aelle.cli.outputs import on_a_terminal
from optuna_aelle.cli.outputs import printable
from optuna_aelle.cli.sources import TABLE
from optuna_aelle.cli.sources import choose
from optuna_aelle.cli.sources import read_table
from optuna_aelle.cli.sources import reading
from optuna_aelle.cli.sources import studies_of
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.knobs import knob_of
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.traits import LEAST_POPULATION
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.table import RecordedTrials

Past = Study | RecordedTrials


def fetch(sources: Sequence[str], names: Sequence[str] | None) -> list[Past]:
    """The studies of storages and tables, their trials fetched.

    Args:
        sources: As the user wrote them.
        names: Of studies in the storages, as the user wrote them; all with one objective by
            default. Tables are taken as they are.

    Raises:
        ValueError: A source cannot be read, or has no such study.
        OSError: The same.
    """
    tables = [read_table(source) for source in sources if source.endswith(TABLE)]
    stored = [
        (source, study)
        for source in sources
        if not source.endswith(TABLE)
        for study in studies_of(source)
    ]
    if names is not None:
        there = sorted({study.study_name for _, study in stored})
        chosen = {choose(there, name) for name in names}
        stored = [(source, study) for source, study in stored if study.study_name in chosen]
    else:
        several = [study.study_name for _, study in stored if len(study.directions) > 1]
        if several:
            warn_once(
                "several objectives",
                f"Studies with several objectives are left out: {', '.join(several)}.",
            )
        stored = [(source, study) for source, study in stored if len(study.directions) == 1]
    for source, study in tqdm(stored, desc="studies", disable=not on_a_terminal()):
        with reading(source):
            # Storages keep what has ended in memory once it is fetched.
            study.get_trials(deepcopy=False)
    return [*tables, *(study for _, study in stored)]


def what_was_learned(
    prior: Prior, base: Prior, studies: Sequence[Past], knobs: Mapping[str, str]
) -> str:
    """It, in lines for people."""
    lessons = [(_name(study), _lessons(study)) for study in studies]
    lessons = [(name, trials) for name, trials in lessons if len(trials) >= LEAST_POPULATION]
    trials = [trial for _, of_study in lessons for trial in of_study]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    seen = sum(UNTRAINED_STEP in spectrum_payloads(trial) for trial in trials)
    lines = [
        f"Learned from {_count(len(lessons), 'study', 'studies')} with {len(trials)} trials that "
        f"have ended, {pruned} of them pruned, {seen} with the spectrum of the untrained network:",
        *(f"  {name}: {len(of_study)} trials" for name, of_study in lessons),
    ]
    parameters = sorted({name for trial in trials for name in trial.params})
    known = {name: knob for name in parameters if (knob := knob_of(name, knobs)) is not None}
    told = [name if name == knob else f"{name} ({knob})" for name, knob in known.items()]
    lines.append(f"Parameters that other studies know, too: {', '.join(told) or 'none'}.")
    own = [name for name in parameters if name not in known]
    if own:
        lines.append(f"Known by their own name alone: {', '.join(own)}.")
    before = 0 if base.past is None else len(base.past.rows)
    kept = 0 if prior.past is None else len(prior.past.rows)
    if kept < before + len(trials):
        lines.append(f"Kept: the latest {kept} of {before + len(trials)} trials.")
    if base.tasks:
        lines.append(f"On top of a prior that has learned from {_count(len(base.tasks), 'task')}.")
    return printable("\n".join(lines))


def _name(study: Past) -> str:
    return study.name if isinstance(study, RecordedTrials) else study.study_name


def _lessons(study: Past) -> list[FrozenTrial]:
    if isinstance(study, RecordedTrials):
        trials = list(study.trials)
    else:
        trials = study.get_trials(deepcopy=False)
    return one_a_network(list(filter(is_lesson, trials)))


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
