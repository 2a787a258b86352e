"""How does a converted model learn from the dense one it came from, under a stock trainer?

The trainer calls the model without its labels and hands the outputs to a loss function. That function never
sees the inputs, so the teacher runs in a forward hook of the student, on the inputs that the student has just
seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
"""Label of positions that count neither in the loss nor in its mean, as in PyTorch and the trainers."""

_LOSS_ARGUMENTS = ("labels", "num_items_in_batch", "shift_labels")


class Distillation:
    """A loss for ``compute_loss_func``: cross-entropy mixed with the teacher's distribution.

        (1 - alpha) * CE(student, labels) + alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    both averaged over the labels that are not -100, or divided by ``num_items_in_batch`` where the trainer
    gives it, which makes gradient accumulation and several processes right. In evaluation it is the plain
    cross-entropy.

    Works for sequence-to-sequence models, causal language models (labels are shifted) and classifiers. A
    sequence-to-sequence batch must hold ``decoder_input_ids``, because the trainer takes the labels away:
    give the model to ``DataCollatorForSeq2Seq``.

    The teacher is frozen, in evaluation mode, and no part of the student: it is not saved, copied or moved
    with it.

    Args:
        teacher: The dense model. Its parameters are frozen in place; give it a lower precision to save time.
        alpha: Weight of the teacher, 0 to 1.
        temperature: Softens both distributions; above 0.
        label_smoothing: Of the cross-entropy, in training only. The trainer's own option has no effect beside a
            ``compute_loss_func``.

    Examples:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> loss = Distillation(teacher).attach(student)
        >>> x, labels = torch.randn(2, 4), torch.tensor([0, 2])
        >>> loss(student(x), labels).requires_grad
        True

    References:
        Hinton et al., Distilling the knowledge in a neural network, 2015.
    """

    def __init__(
        self, teacher: nn.Module, alpha: float = 0.5, temperature: float = 2.0, label_smoothing: float = 0.0
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, not {alpha!r}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature!r}")
        self.teacher = teacher.requires_grad_(False).eval()
        self.alpha, self.temperature, self.label_smoothing = alpha, temperature, label_smoothing
        self._student: weakref.ref[nn.Module] | None = None
        self._handles: tuple[Any, ...] = ()
        self._teacher_logits: Tensor | None = None
        self._next_token: bool | None = None

    def attach(self, student: nn.Module) -> Self:
        """Run the teacher after each training forward of ``student``.

        Raises:
            ValueError: The student is the teacher, or shares parameters with it.
        """
        teachers = {id(p) for p in self.teacher.parameters()}
        if any(id(p) in teachers for p in student.parameters()):
            raise ValueError("student and teacher share parameters: copy the teacher before converting")
        self.detach()
        self._student = weakref.ref(student)
        self._next_token = predicts_next_token(student)
        self._handles = (
            student.register_forward_pre_hook(_Link(self, "check"), with_kwargs=True),
            student.register_forward_hook(_Link(self, "see"), with_kwargs=True),
        )
        return self

    def detach(self) -> None:
        """Remove the hook; from then on the loss is the plain cross-entropy."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._student, self._teacher_logits = (), None, None

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            outputs: The student's outputs, with ``logits`` ``[..., classes]``.
            labels: Integers ``[...]``, -100 where ignored.
            num_items_in_batch: Labels in the whole batch, over all micro-batches and processes.

        Raises:
            ValueError: No labels, labels that are not class numbers, or logits of different shapes.
            RuntimeError: No student was ever attached, or it trains and the teacher did not see its inputs.
        """
        if self._next_token is None:
            raise RuntimeError("attach(student) first: the teacher does not know whom to follow")
        if labels is None or labels.is_floating_point():
            raise ValueError("distillation needs labels that are class numbers; the batch has none")
        student, teacher = logits_of(outputs), self._take_teacher_logits()
        if teacher is not None and teacher.shape != student.shape:
            shapes = f"{list(teacher.shape)} of the teacher, {list(student.shape)} of the student"
            raise ValueError(f"the logits differ in shape: {shapes}")
        if self._next_token:
            labels, student = labels[..., 1:], student[..., :-1, :]
            teacher = None if teacher is None else teacher[..., :-1, :]
        labels = labels.to(student.device)
        count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return self._mixed(student, teacher, labels) / _at_least_one(count, student.device)

    def _mixed(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        """Sum over the counted positions."""
        kept = labels != IGNORED
        student, labels = student[kept].float(), labels[kept]
        smoothing = self.label_smoothing if self._training() else 0.0
        hard = F.cross_entropy(student, labels, label_smoothing=smoothing, reduction="sum")
        if teacher is None:
            return hard
        soft = soft_loss(student, teacher[kept].float(), self.temperature)
        return (1 - self.alpha) * hard + self.alpha * soft

    def _take_teacher_logits(self) -> Tensor | None:
        logits, self._teacher_logits = self._teacher_logits, None
        if logits is None and self.alpha > 0 and self._training():
            raise RuntimeError("the teacher has not seen this batch: call the student, not its forward")
        return logits

    def _training(self) -> bool:
        student = None if self._student is None else self._student()
        return student is not None and student.training

    def check(self, student: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before a training forward: some models would silently use the source in place of a missing target.

        Raises:
            ValueError: A sequence-to-sequence batch without decoder inputs.
        """
        names = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
        given = args[2:] or any(kwargs.get(name) is not None for name in names)
        needed = getattr(getattr(student, "config", None), "is_encoder_decoder", False)
        if student.training and needed and not given:
            raise ValueError(
                "the batch has no decoder_input_ids, and the trainer keeps the labels from the model: use"
                " DataCollatorForSeq2Seq(tokenizer, model=model)"
            )

    def see(self, student: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep the teacher's logits for the inputs of one forward of the student."""
        self._teacher_logits = None
        if not student.training or self.alpha == 0:
            return
        device = next(student.parameters()).device
        if next(self.teacher.parameters()).device != device:
            self.teacher.to(device)
        inputs = {name: value for name, value in kwargs.items() if name not in _LOSS_ARGUMENTS}
        if getattr(getattr(self.teacher, "config", None), "use_cache", False):
            inputs["use_cache"] = False
        dtype = next(self.teacher.parameters()).dtype
        with torch.no_grad():
            outputs = self.teacher(*_cast(args, dtype), **_cast(inputs, dtype))
        self._teacher_logits = logits_of(outputs).detach()


class _Link:
    """A hook that calls a method of the loss: weak, and lost when the student is copied, pickled or saved."""

    def __init__(self, owner: Distillation | None = None, method: str = "") -> None:
        self.owner = None if owner is None else weakref.ref(owner)
        self.method = method

    def __call__(self, student: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any = None) -> None:
        owner = None if self.owner is None else self.owner()
        if owner is not None:
            getattr(owner, self.method)(student, args, kwargs)

    def __reduce__(self) -> tuple[type[_Link], tuple[()]]:
        return _Link, ()


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * sum KL(softmax(teacher / T) || softmax(student / T))``, both ``[positions, classes]``.

    Examples:
        >>> soft_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), 2.0).item()
        0.0
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


def logits_of(outputs: Any) -> Tensor:
    """The logits of a model's outputs: a tensor, a ``logits`` field, or the first of a tuple.

    Raises:
        ValueError: There are none.
    """
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif isinstance(outputs, tuple):
        found = outputs[0] if outputs else None
    else:
        found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise ValueError("the model's outputs hold no logits; distillation needs a model with a head")
    return found


def predicts_next_token(model: nn.Module) -> bool:
    """Whether the model is a decoder alone, whose logits at one position belong to the label at the next.

    By the model's own declaration (``loss_type``), or by its class name where it makes none.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    declared = getattr(model, "loss_type", None)
    if declared is not None:
        return declared in ("ForCausalLM", "ForConditionalGeneration")
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Floating-point inputs in the teacher's precision."""
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {name: _cast(value, dtype) for name, value in inputs.items()}
    return tuple(_cast(value, dtype) for value in inputs) if isinstance(inputs, tuple) else inputs


def _at_least_one(count: Tensor | int | float, device: torch.device) -> Tensor:
    """A batch without labels has loss 0 and not NaN."""
    return torch.as_tensor(count, device=device).clamp_min(1)
