"""The learning rate, the clock and the stop signal."""

import signal
import time
import types

import pytest
import torch
from transformers import TrainerControl, TrainerState

from tasks.training.schedule import UNKNOWN_END, Pace, Schedule, StopOnSignal


@pytest.mark.parametrize("kind", ["cosine", "linear", "inverse_sqrt", "constant"])
def test_warm_up_reaches_the_peak(kind):
    schedule = Schedule(kind, 100, 10_000)
    assert schedule(0) == pytest.approx(0.01)
    assert schedule(99) == pytest.approx(1.0)
    assert schedule(101) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0), ("linear", 0), ("inverse_sqrt", 0.1), ("constant", 1)])
def test_the_end(kind, end):
    assert Schedule(kind, 100, 10_000)(10_000) == pytest.approx(end, abs=1e-3)


def test_a_short_training_warms_up_shorter():
    assert Schedule("linear", 1000, 50)(4) == 1.0


def test_the_scheduler_saves_time_and_end():
    parameter = torch.nn.Parameter(torch.zeros(1))

    def scheduler(schedule):
        return torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([parameter], lr=1.0), schedule)

    first, second = Schedule("linear", 10, 100), Schedule("linear", 10, 5)
    first.elapsed = 12.5
    scheduler(second).load_state_dict(scheduler(first).state_dict())
    assert (second.elapsed, second.total_steps) == (12.5, 100)


def after(pace, step, seconds):
    """State and control after one step that ended so many seconds into training."""
    state, control = TrainerState(max_steps=UNKNOWN_END, global_step=step), TrainerControl()
    pace.started = time.monotonic() - seconds
    pace.on_step_end(None, state, control)
    return state, control


def test_the_end_follows_the_measured_speed():
    schedule = Schedule("cosine", 10, UNKNOWN_END)
    pace = Pace(schedule, max_minutes=1.0, max_steps=None)
    assert after(pace, 5, 3.0)[0].max_steps == UNKNOWN_END
    assert after(pace, 100, 10.0)[0].max_steps == pytest.approx(600, abs=3)
    assert after(pace, 200, 40.0)[0].max_steps == pytest.approx(300, abs=3)
    assert schedule.total_steps == pytest.approx(300, abs=3)
    _, control = after(pace, 301, 60.1)
    assert control.should_training_stop
    assert control.should_evaluate
    assert control.should_save


def test_steps_also_end_a_timed_training():
    state, control = after(Pace(Schedule("cosine", 10, 50), 10.0, 50), 50, 5.0)
    assert state.max_steps == 50
    assert control.should_training_stop


def test_a_resumed_clock_goes_on():
    schedule = Schedule("cosine", 10, 100)
    schedule.elapsed = 59.0
    pace = Pace(schedule, 1.0, None)
    pace.on_train_begin(None, TrainerState(), TrainerControl())
    assert time.monotonic() - pace.started == pytest.approx(59.0, abs=0.5)


def test_ctrl_c_asks_for_a_checkpoint_and_the_second_one_interrupts():
    control = TrainerControl()
    before = signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        stop.on_step_end(types.SimpleNamespace(), TrainerState(), control)
        assert control.should_save
        assert control.should_training_stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
