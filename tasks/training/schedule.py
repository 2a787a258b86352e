"""How does the learning rate reach its end on time, and how can training be stopped and taken up again?

`Schedule` is the callable of a `LambdaLR`.  PyTorch saves the attributes of such a callable with the
scheduler, so the time already spent and the estimated end survive an interruption without a file of our own.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

UNKNOWN_END = 10_000_000  # steps, until the speed has been measured
_MEASURED_AFTER = 20  # the first steps are slower: memory is allocated, kernels are chosen


class Schedule:
    """Factor of the peak learning rate at a step: linear warm-up, then the curve.

    Args:
        kind: "cosine", "linear", "inverse_sqrt" or "constant".
        warmup_steps: shortened to a tenth of a short training.
        total_steps: the end; `Pace` moves it while it measures the speed.

    Examples:
        >>> schedule = Schedule("linear", warmup_steps=10, total_steps=110)
        >>> [round(schedule(step), 2) for step in (0, 9, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
    """

    def __init__(self, kind: str, warmup_steps: int, total_steps: int) -> None:
        self.kind = kind
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.elapsed = 0.0  # seconds of training so far, over all sessions

    def __call__(self, step: int) -> float:
        """The factor at one step."""
        warmup = max(1, min(self.warmup_steps, self.total_steps // 10))
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.kind == "linear":
            return 1 - done
        return math.sqrt(warmup / (step + 1)) if self.kind == "inverse_sqrt" else 1.0


class Pace(TrainerCallback):
    """Ends training after so many minutes, with the schedule at its end, and validates the last step.

    Args:
        schedule: its `total_steps` follows the measured speed.
        max_minutes: the limit; None leaves the number of steps as it is.
        max_steps: never more steps than this.
    """

    def __init__(self, schedule: Schedule, max_minutes: float | None, max_steps: int | None) -> None:
        self.schedule = schedule
        self.seconds = None if max_minutes is None else 60 * max_minutes
        self.max_steps = max_steps or UNKNOWN_END
        self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, less the time of earlier sessions."""
        self.started = time.monotonic() - self.schedule.elapsed

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Estimate the end anew, and stop there."""
        self.schedule.elapsed = time.monotonic() - self.started
        if self.seconds is not None:
            state.max_steps = self._end(state.global_step)
            self.schedule.total_steps = state.max_steps
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = control.should_training_stop = True

    def _end(self, step: int) -> int:
        left = (self.seconds or 0.0) - self.schedule.elapsed
        if left <= 0:
            return step
        if step < _MEASURED_AFTER:
            return min(self.max_steps, UNKNOWN_END)
        return min(self.max_steps, step + max(1, int(left * step / self.schedule.elapsed)))


class EachEpoch(TrainerCallback):
    """Tells a data set which epoch begins, so that every epoch gets its own order or noise.

    Args:
        begin: called with the number of the epoch.
    """

    def __init__(self, begin: Callable[[int], None]) -> None:
        self.begin = begin

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the number on; a resumed epoch gets the one that it was started with."""
        self.begin(int((state.epoch or 0.0) + 1e-6))


class StopOnSignal(TrainerCallback):
    """Turns the first Ctrl-C (or a termination request) into: finish the step, save a checkpoint, stop.

    A second Ctrl-C interrupts at once.  Use as a context manager around training.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping: a checkpoint is written first (Ctrl-C again to stop at once)", file=sys.stderr)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, if asked to and training is not over anyway."""
        if self.asked:
            control.should_save = control.should_training_stop = True


def refresh_seconds() -> float:
    """How often a progress bar is drawn: seldom where each drawing is a line of a log."""
    return 0.5 if sys.stderr.isatty() else 30.0


class Progress(TrainerCallback):
    """A bar with the time left whose end may move; quiet lines where the output is not a terminal."""

    def __init__(self, label: str = "training") -> None:
        self.label = label
        self.notes: dict[str, str] = {}
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        seldom = refresh_seconds()
        self.bar = tqdm(desc=self.label, unit="step", initial=state.global_step, mininterval=seldom, smoothing=0.05)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One step on."""
        self.bar.total = state.max_steps if state.max_steps < UNKNOWN_END else None
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest losses."""
        for key, name in (("loss", "loss"), ("eval_loss", "validation")):
            if self.bar is not None and logs and key in logs:
                self.notes[name] = f"{float(logs[key]):.3f}"
                self.bar.set_postfix(self.notes, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()
