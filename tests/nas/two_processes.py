"""Run by torchrun in `test_supernet_training.py`: two steps of a supernet, then each rank writes its parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from nas.test_supernet_training import LINEAR, make_trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run = make_trainer(
        folder,
        ddp_backend="gloo",
        per_device_train_batch_size=4,
        ddp_find_unused_parameters=True,
        **LINEAR,
    )
    run.train()
    torch.save(run.supernet.model.state_dict(), folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
