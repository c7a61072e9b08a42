"""Draws the figures of studies: ``python -m optuna_aelle.visualization._refresh_worker``.

It answers lines of JSON on its standard input with one line each, until that ends: with the
process that asks, however it dies. A line names a storage and a study, or holds the trials
(`optuna_aelle.visualization._snapshot`); an answer is empty, says what went wrong, or holds what
is to be written.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from io import RawIOBase
from queue import Empty
from queue import SimpleQueue
from typing import Any
from typing import cast

import optuna
from optuna.storages import BaseStorage

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.trials.reopening import open_again
from optuna_aelle.visualization._panels import draw
from optuna_aelle.visualization._panels import keep
from optuna_aelle.visualization._refresher import NOTES_A_REFRESH
from optuna_aelle.visualization._snapshot import decode_snapshot

# Trainings go first.
_NICENESS = 5
# Whoever has not asked for so long will do without its memory; it starts again when needed.
_IDLE_SECONDS = 180.0


def main() -> None:
    """Answer until nobody asks any more."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # What libraries print must not get between the answers.
    answers = cast(RawIOBase, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    storages: dict[str, BaseStorage] = {}
    while True:
        try:
            line = lines.get(timeout=_IDLE_SECONDS)
        except Empty:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer = _answer(json.loads(line), storages)
        answer["warnings"] = [
            str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)
        ]
        left = memoryview(json.dumps(answer).encode() + b"\n")
        while left:
            left = left[answers.write(left) or 0 :]


def _listen(lines: SimpleQueue[bytes]) -> None:
    with os.fdopen(0, "rb") as pipe:
        for line in pipe:
            lines.put(line)
    # At once, also in the middle of drawing: nobody waits for it.
    os._exit(0)


def _answer(request: dict[str, Any], storages: dict[str, BaseStorage]) -> dict[str, Any]:
    address = request.get("address")
    told = json.dumps(address)
    try:
        if address is None:
            study, noted = decode_snapshot(request)
            drawn = draw(study, noted=noted, most_notes=NOTES_A_REFRESH)
            return vars(drawn)
        try:
            if told not in storages:
                storages[told] = open_again(address)
            study = optuna.load_study(study_name=request["study"], storage=storages[told])
        except Exception:  # no such file from here, another password
            storages.pop(told, None)
            return {"unopened": True}
        keep(study, draw(study, most_notes=NOTES_A_REFRESH))
    except Exception as error:  # whoever asked tells it; the next study may do
        # A connection that broke is not used again.
        storages.pop(told, None)
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


if __name__ == "__main__":
    main()
