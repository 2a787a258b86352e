"""Which features of a model have stopped saying anything?

Features that never vary are how an adder network shows that its training fails: templates far from every input answer
all inputs alike. The released detector of AdderNet had 92 % zeros in its last block where the dense one had 63 %.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..layers.base import OperatorModule

ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")
"""Where the classes of activation functions are defined; told by name, as this floor knows torch only."""

NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)


class FeatureActivity:
    """Watches how far each output feature of a model moves, over any number of forward passes.

    A feature is one place on the last axis of a module's output. It is *dead* if, over all rows of all passes that
    were watched, its largest and its smallest value differ by no more than ``tolerance`` times the largest magnitude
    among the outputs of its module. NaN counts as dead. Watched are the operator layers and the activation modules
    (the feed-forward's, and a pooler's if there is one); an activation that is called as a function is not seen.

    Args:
        model: Watched from now until :meth:`close`.
        tolerance: Relative; above float32's rounding, which lets a constant feature wobble.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with torch.no_grad(), FeatureActivity(model) as activity:
        ...     _ = model[0].bias.copy_(torch.tensor([-9.0, 9.0, 9.0]))
        ...     _ = model(torch.tensor([[0.0, 1.0], [1.0, -1.0]]))
        >>> activity.dead()["1"].tolist()
        [True, False, False]
    """

    def __init__(self, model: nn.Module, tolerance: float = 1e-5) -> None:
        self.tolerance = tolerance
        self._ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self._rows: dict[str, int] = {}
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(self._watcher(name))
            for name, module in model.named_modules()
            if _is_watched(module)
        ]

    def close(self) -> None:
        """Stop watching; what was seen stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def dead(self) -> dict[str, Tensor]:
        """Which features are dead: module name to bool ``[N]``, for the modules that met two rows or more."""
        found = {}
        for name, (low, high) in self._ranges.items():
            if self._rows[name] > 1:
                largest = torch.maximum(low.abs(), high.abs()).amax()
                found[name] = ~(high - low > self.tolerance * largest)
        return found

    def shares(self) -> dict[str, float]:
        """The share of dead features of each module."""
        return {name: float(dead.float().mean()) for name, dead in self.dead().items()}

    def share(self) -> float:
        """The share of dead features among those of all modules; 0 if nothing was seen."""
        dead = list(self.dead().values())
        return float(torch.cat([mask.cpu() for mask in dead]).float().mean()) if dead else 0.0

    def _watcher(self, name: str) -> Any:
        @torch.no_grad()
        def watch(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.is_floating_point() and out.numel():
                rows = out.detach().reshape(-1, out.shape[-1]).float()
                self._see(name, rows.shape[0], rows.amin(0), rows.amax(0))

        return watch

    def _see(self, name: str, rows: int, low: Tensor, high: Tensor) -> None:
        known = self._ranges.get(name)
        if known is not None and known[0].shape == low.shape:
            low, high, rows = torch.minimum(known[0], low), torch.maximum(known[1], high), rows + self._rows[name]
        # An activation module that serves layers of several widths is judged by the last of them.
        self._ranges[name], self._rows[name] = (low, high), rows


def dead_features(model: nn.Module, *args: Any, tolerance: float = 1e-5, **kwargs: Any) -> dict[str, float]:
    """The share of output features that do not vary over one batch, per operator layer and activation module.

    Runs ``model(*args, **kwargs)`` in evaluation mode without gradients and restores each module's mode.

    Args:
        model: Any model; layers of this library and activation modules are looked at.
        *args: A batch of two rows or more.
        tolerance: See :class:`FeatureActivity`.
        **kwargs: The rest of the batch.

    Returns:
        Module name to a share from 0 to 1.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> dead_features(model, torch.zeros(3, 4))
        {'1': 1.0}
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), FeatureActivity(model, tolerance) as activity:
            model(*args, **kwargs)
    finally:
        for module, was in training.items():
            module.training = was
    return activity.shares()


def _is_watched(module: nn.Module) -> bool:
    if isinstance(module, OperatorModule):
        return hasattr(module, "out_features")
    return type(module).__module__ in ACTIVATION_MODULES and not isinstance(module, NOT_ELEMENTWISE)
