"""Modules for the tests of Lightning; other processes import them from here."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.integration.searches import N_EPOCHS
from tests.integration.searches import Reader
from tests.integration.searches import dataset


class Module(LightningModule):
    """Trains a `Reader`, with a schedule, and notes the epochs that it trains."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = Reader()
        self.trained: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def on_train_epoch_start(self) -> None:
        self.trained.append(self.current_epoch)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("val_loss", F.mse_loss(self(x), y), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(dataset(), batch_size=8)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(dataset(seed=1), batch_size=16)


def make_trainer(*callbacks: Any, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "max_epochs": N_EPOCHS,
    }
    return Trainer(callbacks=list(callbacks), **(quiet | options))
