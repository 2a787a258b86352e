"""What is a model's loss on held-out data, outside of a training?"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from tasks.training.fitting import Material
from tasks.training.losses import IGNORED


@torch.no_grad()
def validation_loss(model: Any, material: Material) -> float:
    """Mean loss per label of the validation data, in evaluation mode.

    Args:
        model: dense, latent or packed.
        material: gives the data, the batches and the loss.
    """
    model.eval()
    total, count = 0.0, 0
    for batch in DataLoader(material.validation, batch_size=material.batch_size, collate_fn=material.collate):
        labels = batch["labels"]
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        seen = int((labels != IGNORED).sum())
        total += float(material.loss(model(**inputs), labels.to(model.device))) * seen
        count += seen
    return total / count
