"""Run by torchrun in `test_trainer.py`: two steps of training, then each rank writes its parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from hf.test_trainer import trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run = trainer(
        folder,
        ddp_backend="gloo",
        per_device_train_batch_size=2,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        ddp_find_unused_parameters=False,
    )
    run.train()
    torch.save(run.model.state_dict(), folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
