"""A two-layer net with an adder weight, for the optimizer's tests in one and in two processes."""

import torch
import torch.nn.functional as F
from torch import nn

from shiftadd_transformers.finetune import ShiftAddOptimizer


class L1(nn.Module):
    """An adder layer in two lines, with a dense one in front."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.front = nn.Linear(6, 5)
        self.weight = nn.Parameter(torch.randn(4, 5, generator=generator))
        with torch.no_grad():
            self.front.weight.copy_(torch.randn(5, 6, generator=generator))
            self.front.bias.zero_()

    def forward(self, x):
        return -(self.front(x)[:, None] - self.weight).abs().sum(-1)

    def optimizer(self, **options):
        adder = {"params": [self.weight], "rule": "adder", "lr": 0.05, "weight_decay": 0.01}
        return ShiftAddOptimizer([{"params": self.front.parameters()}, adder], lr=0.01, **options)


def batches(count, size=8):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 6, generator=generator), torch.randn(size, 4, generator=generator)) for _ in range(count)
    ]


def loss_of(model, batch):
    x, y = batch
    return F.mse_loss(model(x), y)


def train(model, optimizer, data):
    for batch in data:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return model


def assert_same(a, b, **tolerance):
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_equal(a, b):
    assert_same(a, b, rtol=0, atol=0)


def two_processes_agree_with_one(rank):
    """Each process takes half of every batch; the result must be that of one process with all of it."""
    model, twin, data = L1(), L1(), batches(3)
    parallel = nn.parallel.DistributedDataParallel(model)
    train(parallel, model.optimizer(), [(x[rank::2], y[rank::2]) for x, y in data])
    assert_same(model, train(twin, twin.optimizer(), data), rtol=1e-5, atol=1e-6)
