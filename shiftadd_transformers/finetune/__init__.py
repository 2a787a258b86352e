"""How is a converted model fine-tuned with the stock trainers?

Its parts: :class:`ShiftAddOptimizer`, AdamW that gives adder weights their own rule;
:func:`make_optimizer`, which puts every parameter of a model into the group that its operator needs;
:class:`Distillation`, a loss that keeps the converted model close to the dense one it came from;
:func:`dead_features`, which says what share of a model's features no longer varies.

    optimizer = make_optimizer(student, lr=5e-4)
    loss = Distillation(teacher).attach(student)
    Seq2SeqTrainer(student, args, optimizers=(optimizer, None), compute_loss_func=loss, ...).train()
"""

from __future__ import annotations

from .distillation import Distillation
from .dynamics import FeatureActivity, dead_features
from .optimizer import ShiftAddOptimizer, make_optimizer

__all__ = ["Distillation", "FeatureActivity", "ShiftAddOptimizer", "dead_features", "make_optimizer"]
