"""How the layers of a network are run: what the settings come to once the inputs are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """How a run goes: the same for all layers of a stack.

    Attributes:
        warmup: Steps before the sums start.
        ends: ``(S,)`` where each system's sequence ends.
        checkpoints: Steps at which sums are recorded; the ends are among them.
        method: ``"auto"`` or a name of `renormalization.METHODS`.
        interval: Steps between renormalisations; None to adapt.
        frame_dtype: None to choose.
        sum_rule: Whether to add up ln|det J|.

    Example:
        >>> plan = Plan(
        ...     warmup=20,
        ...     ends=(100, 100),
        ...     checkpoints=frozenset({60, 100}),
        ...     method="lu",
        ...     interval=None,
        ...     frame_dtype=None,
        ...     sum_rule=False,
        ... )
    """

    warmup: int
    ends: tuple[int, ...]
    checkpoints: frozenset[int]
    method: str
    interval: int | None
    frame_dtype: torch.dtype | None
    sum_rule: bool
