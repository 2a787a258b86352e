"""What does one want to see, and to steer, while a converted model trains in the stock Trainer?

Numbers that these callbacks add to a log appear in `state.log_history`, and with every callback that comes after them:
the console always does. Reporters (TensorBoard, W&B) come first; to reach those too, put the callback before them:
`trainer.callback_handler.callbacks.insert(1, DeadFeatures())`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..finetune.dynamics import FeatureActivity
from ..layers import LatentModule, expert_shares, set_balance_scale
from ..specs import nearest

FREEZABLE = {
    "shift": ("weight", "shift", "sign"),
    "adder": ("weight",),
    "bcq": ("weight",),
    "shift_add": ("weight",),
    "mixture": ("shift_weight",),
}
"""The weights of each kind of layer. Of a cascade and of a mixture it is the shift half that can be fixed."""


class DeadFeatures(TrainerCallback):
    """Logs the share of features that never vary, the sign that an adder network fails to train.

    Watches the one step before each log, and the evaluations, so its cost is that of a few reductions per layer now
    and then. Logs `dead_features`, of the whole model, and `dead_features_worst`, of its worst layer; for an
    evaluation with `eval_` in front. See `finetune.dynamics.FeatureActivity` for the definition.

    Args:
        threshold: A layer with a larger share causes a warning, the first time that it exceeds it. A dense ReLU
            network may well have layers with a third of their features dead.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a share of features, 0 to 1, not {threshold!r}")
        self.threshold = threshold
        self._training: FeatureActivity | None = None
        self._evaluation: FeatureActivity | None = None
        self._epoch_begins = False
        self._warned: set[str] = set()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Where logs are written once per epoch, its first step is the one to watch."""
        self._epoch_begins = args.logging_strategy == IntervalStrategy.EPOCH

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Watch the step that will be logged."""
        step = state.global_step + 1
        by_steps = args.logging_strategy == IntervalStrategy.STEPS and step % state.logging_steps == 0
        if by_steps or self._epoch_begins or (step == 1 and args.logging_first_step):
            self._training = FeatureActivity(model)
        self._epoch_begins = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Look away, or watch the evaluation that follows."""
        _close(self._training)
        self._watch_evaluation(control, model)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Watch the evaluation that follows."""
        self._watch_evaluation(control, model)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Add the shares of the step, or of the evaluation."""
        if "loss" in logs:
            self._report(self._training, "", logs, state)
            self._training = None
        elif any(name.startswith("eval_") for name in logs):
            _close(self._evaluation)
            self._report(self._evaluation, "eval_", logs, state)
            self._evaluation = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave no hook behind."""
        for activity in (self._training, self._evaluation):
            _close(activity)
        self._training = self._evaluation = None

    def _watch_evaluation(self, control: TrainerControl, model: nn.Module) -> None:
        if control.should_evaluate and self._evaluation is None:
            self._evaluation = FeatureActivity(model)

    def _report(self, activity: FeatureActivity | None, prefix: str, logs: dict[str, Any], state: TrainerState) -> None:
        shares = activity.shares() if activity else {}
        if not activity or not shares:
            return
        worst = max(shares, key=lambda name: shares[name])
        _log(state, logs, {f"{prefix}dead_features": activity.share(), f"{prefix}dead_features_worst": shares[worst]})
        if shares[worst] > self.threshold and worst not in self._warned:
            self._warned.add(worst)
            warnings.warn(
                f"{shares[worst]:.0%} of the features of {worst} do not vary over a batch: what they compute is lost."
                " Lower the learning rate (of adders: make_optimizer's adder_lr), warm up longer, or normalise:"
                " AdderSpec(norm=True)",
                stacklevel=2,
            )


class ExpertShares(TrainerCallback):
    """Logs how mixtures share out rows, and keeps their balance loss in proportion to the trainer's own.

    A trainer divides its loss by the number of micro-batches, and multiplies it by a factor under fp16. A mixture's
    balance loss is attached to the layer's output and cannot see that: without this callback it is too large by the
    number of `gradient_accumulation_steps` and, under fp16, too small by the scaler's factor, which makes it vanish.

    Logs `dense_share`, the mean over layers of the share of rows that take the dense expert, and `dense_share_min`
    and `dense_share_max`.
    """

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Follow the scale of the trainer's loss."""
        scaler = getattr(optimizer, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        set_balance_scale(model, scale / args.gradient_accumulation_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Back to a loss that is not scaled."""
        set_balance_scale(model, 1.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Add the shares to what a training step logs."""
        dense = [share for share, _ in expert_shares(model).values()]
        if "loss" in logs and dense:
            mean = sum(dense) / len(dense)
            _log(state, logs, {"dense_share": mean, "dense_share_min": min(dense), "dense_share_max": max(dense)})


class FreezeOperators(TrainerCallback):
    """Fixes the weights of layers of some kinds from a point of the training on.

    Biases, scales, offsets and routers go on training. 0.0 fixes weights from the start: with `"shift"` or
    `"shift_add"`, ShiftAddNet's fixed shift, where only the adders learn.

    It drops the gradients just before the optimizer's step and leaves `requires_grad` alone, which several processes
    must agree on before training starts; momentum and weight decay then pass the weights by too. What is frozen
    follows from the step and the plan of steps alone, so a resumed run continues as one that was never interrupted.
    Clipping by the global norm still counts the dropped gradients.

    Args:
        after: Kind of layer (`"shift"`, `"adder"`, `"bcq"`, `"shift_add"`, `"mixture"`) to a fraction of the training,
            0 to 1. Of a shift-add cascade and of a mixture, the shift half is fixed.

    Raises:
        ValueError: An unknown kind, or a fraction outside 0 to 1.
    """

    def __init__(self, after: Mapping[str, float]) -> None:
        for kind, fraction in after.items():
            if kind not in FREEZABLE:
                raise ValueError(f"no weights to freeze in layers of kind {kind!r}; {nearest(kind, list(FREEZABLE))}")
            if not 0 <= fraction <= 1:
                raise ValueError(f"{kind} freezes after a fraction of the training, 0 to 1, not {fraction!r}")
        self.after = dict(after)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Drop the gradients of what is frozen by now."""
        frozen = {kind for kind, fraction in self.after.items() if state.global_step >= fraction * state.max_steps}
        for parameter in _weights(model, frozen):
            parameter.grad = None


def _weights(model: nn.Module, kinds: set[str]) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, LatentModule) and module.spec.kind in kinds:
            held = (module._parameters.get(name) for name in FREEZABLE[module.spec.kind])
            yield from (parameter for parameter in held if parameter is not None)


def _log(state: TrainerState, logs: dict[str, Any], values: dict[str, float]) -> None:
    """Into the log that goes round and into the history, where the trainer has put a copy already."""
    logs.update(values)
    state.log_history[-1].update(values)


def _close(activity: FeatureActivity | None) -> None:
    if activity is not None:
        activity.close()
