"""Tuning: every candidate once, the fastest is recorded, records of others are left alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from kernels_setup import RUNNABLE
from typer.testing import CliRunner

import tvm_kernels
from shiftadd_transformers import ShiftSpec
from tasks import cli
from tasks.errors import Interrupted, TaskError
from tvm_kernels import records
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.shift import ShiftShape
from tvm_kernels.samples import sample_layer
from tvm_kernels.schedules.rule import Rule
from tvm_kernels.tune import TuneError, bench, kernels_of, tune

TARGET = tvm_kernels.target("haswell" if "haswell" in RUNNABLE else "host")
SHAPE = ShiftShape(blocks=8, groups=1, steps=8, lanes=TARGET.lanes, code_bits=4, pieces=1, raised=True, bias=True)


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    """No record of this machine's user or of the package is seen."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "shipped")
    records._decisions.cache_clear()
    yield
    records._decisions.cache_clear()


@pytest.fixture
def uncompiled(monkeypatch):
    """Candidates are scheduled, but not compiled."""
    monkeypatch.setattr(Kernel, "build", Kernel.schedule)
    monkeypatch.setattr("tvm_kernels.host.link", lambda _module, library, _triple="": library.touch())


@pytest.fixture
def found():
    kernels = kernels_of([sample_layer(ShiftSpec(activation_bits=8), 64, 64)], [1, 2], TARGET)
    assert {kernel.name for kernel in kernels} == {"shift_linear"}
    assert sorted(kernel.shape.rows for kernel in kernels) == [1, 2]
    return kernels


class FakeBench:
    """Answers with the given times, in the order in which candidates come."""

    def __init__(self, *times):
        self.times, self.seen = times, []

    def microseconds(self, libraries, operands, failures):
        assert all(path.is_file() for path in libraries.values())
        self.seen.append(len(libraries))
        return {index: self.times[index] for index in libraries if self.times[index] is not None}


def outcomes(found, times, path, count=1, **settings):
    some = dict(list(found.items())[:count])
    return list(tune(some, FakeBench(*times), path, **settings))


def test_a_space_is_listed_whole_and_once():
    space = {"blocks": [4, 2, 1], "deep": [1, 0]}
    rule = Rule("some", lambda *_: None, lambda *_: space, lambda *_: None)
    points = [tuple(point.items()) for point in rule.candidates(None, None)]
    assert len(points) == len(set(points)) == 6
    assert dict(points[0]) == {"blocks": 4, "deep": 1}


@pytest.mark.usefixtures("uncompiled")
def test_the_fastest_is_recorded_and_used(found, tmp_path):
    kernel = next(iter(found))
    path = records.user_folder() / f"{TARGET.name}.json"
    before = kernel.key()
    other = replace(kernel, shape=replace(kernel.shape, blocks=16))
    unrelated = other.key()
    (outcome,) = outcomes(found, (10.0, 8.0, 5.0, 7.0), path)
    space = kernel.rules()[0].candidates(kernel.shape, TARGET)
    assert outcome.tried == len(space)
    assert outcome.decisions == space[2]
    assert (outcome.us, outcome.before_us) == (5.0, 10.0)
    assert kernel.recorded() == {"stream": space[2]}
    assert kernel.key() != before
    assert other.key() == unrelated
    assert json.loads(path.read_text())[0]["us"] == 5.0


@pytest.mark.usefixtures("uncompiled")
def test_what_is_recorded_is_measured_again_and_stays_unless_beaten(found, tmp_path):
    path = tmp_path / "out.json"
    (first,) = outcomes(found, (10.0, 8.0, 5.0, 7.0), path)
    (second,) = outcomes(found, (6.0, 5.95, 9.0, 9.0), path)  # the first candidate is now the recorded one
    assert second.decisions == first.decisions
    assert json.loads(path.read_text())[0]["us"] == 5.0
    (third,) = outcomes(found, (6.0, 4.0, 9.0, 9.0), path)
    assert third.decisions != first.decisions
    assert [row["us"] for row in json.loads(path.read_text())] == [4.0]


@pytest.mark.usefixtures("uncompiled")
def test_rows_of_other_shapes_stay(found, tmp_path):
    path = tmp_path / "out.json"
    outcomes(found, (1.0,) * 4, path, count=2)
    outcomes(found, (9.0, 1.0, 9.0, 9.0), path)
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.usefixtures("uncompiled")
def test_trials_limit_the_candidates(found, tmp_path):
    (outcome,) = outcomes(found, (2.0, 3.0), tmp_path / "out.json", trials=2)
    assert outcome.tried == 2


@pytest.mark.usefixtures("uncompiled")
def test_candidates_that_fail_are_left_out(found, tmp_path):
    (outcome,) = outcomes(found, (None, 3.0, None, 4.0), tmp_path / "out.json")
    assert outcome.us == 3.0
    with pytest.raises(TuneError, match="no candidate of shift_linear"):
        outcomes(found, (None,) * 4, tmp_path / "other.json")


def test_a_user_comes_before_the_package(tmp_path):
    kernel = Kernel("shift_linear", SHAPE, TARGET)
    row = {"kernel": kernel.name, "shape": kernel.shape.__dict__, "rule": "stream", "us": 1.0}
    records.write(tmp_path / "shipped" / f"{TARGET.name}.json", {**row, "decisions": {"blocks": 2}})
    assert kernel.recorded() == {"stream": {"blocks": 2}}
    records.write(records.user_folder() / f"{TARGET.name}.json", {**row, "decisions": {"blocks": 1}})
    assert kernel.recorded() == {"stream": {"blocks": 1}}
    assert "parallel" in str(kernel.schedule().mod)


def test_records_that_a_rule_has_outgrown_are_not_used():
    kernel = Kernel("shift_linear", SHAPE, TARGET)
    row = {"kernel": kernel.name, "shape": kernel.shape.__dict__, "rule": "stream", "us": 1.0}
    path = records.user_folder() / f"{TARGET.name}.json"
    default = str(kernel.schedule().mod)
    records.write(path, {**row, "decisions": {"blocks": 5, "gone": 1}})
    assert str(kernel.schedule().mod) == default


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"kernel": "shift_linear"}]'])
def test_damaged_records_are_named(content, tmp_path):
    path = tmp_path / "records.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no tuning records"):
        records.read(path)


def test_every_shipped_record_is_one_of_its_rule():
    for path in (Path(records.__file__).parent / "records").glob("*.json"):
        for row in records.read(path):
            assert {"kernel", "shape", "rule", "decisions", "us"} == set(row)
            assert path.stem in tvm_kernels.TARGETS


def test_a_real_measurement(found, tmp_path):
    path = tmp_path / "out.json"
    with bench(1, rounds=1, repeats=2) as place:
        (outcome,) = tune(dict(list(found.items())[:1]), place, path, trials=2)
    assert outcome.tried == 2
    assert outcome.us > 0
    assert not outcome.failures
    assert len(json.loads(path.read_text())) == 1


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "shift_linaer:1,64,64"], "did you mean 'shift_linear'"),
        (["--shape", "shift_linear:1,64"], "write KERNEL:M,K,N"),
        (["--shape", "shift_linear:1,64,x"], "positive numbers"),
        (["--target", "haswel"], "did you mean 'haswell'"),
        (["--target", "riscv64"], "cannot run riscv64; measure on one that can with --rpc"),
        (["--rpc", "127.0.0.1:9190"], "both --rpc HOST:PORT and --key KEY"),
        (["--rpc", "somewhere", "--key", "x"], "write HOST:PORT"),
        (["--model", "nowhere"], "nowhere is no model folder"),
        (["--model", "nowhere", "--shape", "shift_linear:1,64,64"], "not both"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    result = invoke("tune", *arguments)
    assert isinstance(result.exception, TaskError)
    assert message in str(result.exception)


@pytest.mark.usefixtures("uncompiled")
def test_ctrl_c_keeps_what_is_done(monkeypatch, tmp_path):
    path = tmp_path / "out.json"

    class Interrupting(FakeBench):
        def close(self):
            pass

        def microseconds(self, libraries, operands, failures):
            if self.seen:
                raise KeyboardInterrupt
            return super().microseconds(libraries, operands, failures)

    monkeypatch.setattr("tvm_kernels.tune.Bench", lambda *_, **__: Interrupting(3.0, 2.0, 9.0, 9.0, 9.0, 9.0))
    result = invoke("tune", "--shape", "shift_linear:1,64,64", "--output", path)
    assert isinstance(result.exception, Interrupted)
    assert str(result.exception) == f"stopped; 1 of 2 kernels are recorded in {path}"
    assert len(json.loads(path.read_text())) == 1
