"""Recurrent modules of other packages, which a user's model may simply hold.

None of these packages is imported here: a module is known by the names that its class, or one of
its bases, was defined under. Each file has functions that read one package's modules and make a
`StepModel` of them, as the ``build`` of `register_cell` does; they are given a float64 copy of the
module. What `register_cell` was told goes first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING
from typing import Any

from torch import Tensor
from torch import nn

if TYPE_CHECKING:
    from optuna_aelle.lyapunov.custom import StepModel

# Where a class is defined, and which function of which file here reads it.
ADAPTERS: dict[tuple[str, str], tuple[str, str]] = {
    ("LRU_pytorch.LRU", "LRU"): ("lru", "layer"),
    ("mambapy.mamba", "MambaBlock"): ("mambapy", "block"),
    ("minGRU_pytorch.minGRU", "minGRU"): ("mingru", "gru"),
    ("minGRU_pytorch.minLSTM", "minLSTM"): ("mingru", "lstm"),
    ("ncps.torch.cfc", "CfC"): ("ncps", "layer"),
    ("ncps.torch.cfc_cell", "CfCCell"): ("ncps", "cfc_cell"),
    ("ncps.torch.ltc", "LTC"): ("ncps", "layer"),
    ("ncps.torch.ltc_cell", "LTCCell"): ("ncps", "wired_cell"),
    ("ncps.torch.wired_cfc_cell", "WiredCfCCell"): ("ncps", "wired_cell"),
    ("s5.s5_model", "S5"): ("s5", "layer"),
    ("transformers.models.falcon_mamba.modeling_falcon_mamba", "FalconMambaMixer"): (
        "transformers",
        "mamba",
    ),
    ("transformers.models.jamba.modeling_jamba", "JambaMambaMixer"): ("transformers", "mamba"),
    ("transformers.models.mamba.modeling_mamba", "MambaMixer"): ("transformers", "mamba"),
    ("transformers.models.mamba2.modeling_mamba2", "Mamba2Mixer"): ("transformers", "mamba2"),
    ("transformers.models.recurrent_gemma.modeling_recurrent_gemma", "RecurrentGemmaRglru"): (
        "transformers",
        "rg_lru",
    ),
    ("transformers.models.rwkv.modeling_rwkv", "RwkvSelfAttention"): ("transformers", "rwkv"),
    ("transformers.models.xlstm.modeling_xlstm", "xLSTMLayer"): ("xlstm", "large_mlstm"),
    ("xlstm.blocks.mlstm.layer", "mLSTMLayer"): ("xlstm", "mlstm"),
    ("xlstm.blocks.slstm.cell", "sLSTMCellBase"): ("xlstm", "slstm"),
    ("xlstm.xlstm_large.model", "mLSTMLayer"): ("xlstm", "large_mlstm"),
}


def adapter_for(cls: type) -> Callable[[Any], StepModel] | None:
    """What makes a `StepModel` of a module of exactly this class; None if no adapter does.

    Example:
        >>> adapter_for(nn.Linear) is None
        True
        >>> class MambaBlock(nn.Module): ...
        >>> MambaBlock.__module__ = "mambapy.mamba"  # as if it were that package's own
        >>> adapter_for(MambaBlock).__name__
        'block'
    """
    found = ADAPTERS.get((cls.__module__, cls.__qualname__))
    if found is None:
        return None
    file, function = found
    adapter: Callable[[Any], StepModel] = getattr(import_module(f"{__name__}.{file}"), function)
    return adapter


def float64_copy(module: nn.Module) -> nn.Module:
    """A float64 copy in evaluation mode, also of a module that keeps its last training step.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.last = layer(layer.weight)  # copy.deepcopy(layer) raises
        >>> float64_copy(layer).weight.dtype
        torch.float64
    """
    tables = [table for part in module.modules() for table in (vars(part), part._buffers)]
    # A tensor with a graph behind it cannot be copied, and the graph is not wanted.
    detached = {
        id(value): value.detach().clone()
        for table in tables
        for value in table.values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    wide = copy.deepcopy(module, detached)
    if any(tensor.device.type == "mps" for tensor in (*wide.parameters(), *wide.buffers())):
        wide = wide.cpu()
    for part in wide.modules():
        # Not eval(), which a class may have made its own.
        part.training = False
    return wide.double()
