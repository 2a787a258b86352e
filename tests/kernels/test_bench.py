"""The benchmark tells the truth: what is wrong gets no figures, what is absent is named, and all take equal turns."""

import json
from dataclasses import replace
from io import StringIO
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import typer
from rich.console import Console

import tvm_kernels
from shiftadd_transformers.operators import shift_linear
from tasks.bench import command, measure
from tasks.bench.baselines import FLOAT32, L1, LINEAR, MATADD, Baseline, _operands
from tasks.bench.cases import CONTESTS, SHIFT, Contest, Subject
from tasks.bench.report import plot
from tasks.bench.shape import Shape
from tasks.bench.timing import BURST, copies, in_turn, interleaved, last_level_cache
from tasks.errors import TaskError
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.read import ReadShape
from tvm_kernels.targets import TARGETS, runs_here

TINY = Shape(3, 64, 48)
FIELDS = {"name", "kernel", "shape", "threads", "weights", "us", "baselines", "read_bandwidth_fraction"}


def _not_here(*_):
    raise ModuleNotFoundError("No module named 'elsewhere'")


def _fails(*_):
    raise RuntimeError("no such product\nand a long story")


ERRORS = {32: 1e-6, 16: 1e-2, 8: 0.03, 4: 0.2, 2: 0.8}
"""Of Gaussian weights, by their bits."""

ABSENT, FAILING = Baseline("absent", 4, _not_here), Baseline("failing", 4, _fails)


class Broken(Subject):
    """A kernel that is wrong by one."""

    @property
    def operator(self):
        return lambda *arguments: shift_linear(*arguments) + tvm_kernels.is_enabled()


BROKEN = Broken("broken", "shift_linear", SHIFT.arguments)
UNSERVED = replace(SHIFT, name="unserved", kernel="no_such_operator")


def _tensor(result):
    return torch.as_tensor(result[0] if isinstance(result, list) else result).float()


def run(*contests, threads=(1,), path=None):
    console = Console(file=StringIO(), width=120)
    rows, red = command.run(console, contests, threads, 2, path)
    return rows, red, console.file.getvalue()


@pytest.mark.parametrize("weights", ["dram", "cache"])
def test_rows_hold_what_the_file_promises(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("tasks.bench.timing.last_level_cache", lambda: 4096)
    contest = Contest(TINY, weights, (SHIFT,), (FLOAT32, ABSENT, FAILING))
    rows, red, printed = run(contest, threads=(1, 2), path=tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert not red
    assert written == [row.as_json() for row in rows]
    assert [row["threads"] for row in written] == [1, 2]
    for row in written:
        assert row.keys() >= FIELDS
        assert row["shape"] == {"m": 3, "k": 64, "n": 48}
        assert (row["name"], row["kernel"], row["weights"]) == ("shift 4-bit", "shift_linear", weights)
        assert set(row["baselines"]) == set(row["ratios"]) == {"torch float32"}
        assert row["us"] > 0
        assert row["read_bandwidth_fraction"] > 0
    assert "missing: absent: not installed: No module named 'elsewhere'" in printed
    assert "missing: failing: RuntimeError: no such product\n" in printed
    assert torch.get_num_threads() == 1
    assert not tvm_kernels.is_enabled()


def test_a_red_kernel_gets_no_figures(tmp_path):
    rows, red, printed = run(Contest(TINY, "cache", (BROKEN, SHIFT), (FLOAT32,)), path=tmp_path / "rows.json")
    assert red
    assert [row.name for row in rows] == ["shift 4-bit"]
    assert "RED, no figures: broken: 144 of 144 results differ, by up to 1, where every bit must agree" in printed
    assert "broken" not in (tmp_path / "rows.json").read_text()


def test_a_red_kernel_alone_leaves_nothing_to_time(monkeypatch):
    monkeypatch.setattr(measure, "interleaved", _fails)
    assert run(Contest(TINY, "cache", (BROKEN,), (FLOAT32,)))[:2] == ([], True)


def test_red_is_exit_code_one(monkeypatch):
    monkeypatch.setattr("tasks.bench.cases.CONTESTS", (Contest(TINY, "cache", (BROKEN,), ()),))
    with pytest.raises(typer.Exit) as stopped:
        command.bench(quick=True)
    assert stopped.value.exit_code == 1


def test_what_no_kernel_serves_is_named():
    rows, red, printed = run(Contest(TINY, "cache", (UNSERVED,), (FLOAT32,)))
    assert (rows, red) == ([], False)
    assert "no kernel for unserved: no kernel serves shiftadd::no_such_operator" in printed


def test_tolerance_is_a_part_of_the_largest_result():
    expected = torch.tensor([0.0, 100.0])
    assert measure.difference(expected + 0.5, expected, 1e-2) is None
    assert "by up to 2, where 1 is allowed" in measure.difference(expected + 2, expected, 1e-2)
    assert measure.difference(expected * torch.nan, expected, 1e-2) is not None
    assert "float64" in measure.difference(expected.double(), expected, 1e-2)


def test_contenders_take_equal_turns():
    order = []
    calls = {name: [lambda i=i, name=name: order.append((name, i)) for i in range(3)] for name in "ab"}
    times = interleaved(calls, rounds=2)
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    turns = order[-4 * BURST :]
    assert "".join(name for name, _ in turns) == ("a" * BURST + "b" * BURST) * 2
    copies_read = [i for name, i in turns if name == "a"]
    assert all((i + 1) % 3 == j for i, j in pairwise(copies_read))


def test_calls_in_turn():
    call = in_turn([lambda: 1, lambda: 2])
    assert [call() for _ in range(3)] == [1, 2, 1]


def test_copies_exceed_the_cache_and_respect_memory():
    assert last_level_cache() > 0
    assert copies(1 << 20, contenders=1, cache=8 << 20) == 32
    assert copies(1 << 20, contenders=1500, cache=8 << 20) == BURST
    assert copies(1 << 20, contenders=100, cache=1 << 40) * (1 << 20) < 1.2 * 1_500_000_000 / 100


@pytest.mark.filterwarnings("ignore")  # what other packages warn of is theirs
@pytest.mark.parametrize("baseline", LINEAR, ids=lambda each: each.name)
def test_linear_baselines_compute_the_product(baseline):
    shape = Shape(4, 128, 64)
    torch.manual_seed(0)
    x, weight = _operands(shape)
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            results = [_tensor(call()) for call in baseline.calls(shape, 2, 1)]
    except ImportError as missing:
        pytest.skip(str(missing))
    expected = F.linear(x, weight)
    assert len(results) == 2
    for result in results:
        assert (result - expected).norm() < ERRORS[baseline.bits] * expected.norm()


def test_other_baselines_have_the_shape_of_their_kernels():
    shape = Shape(4, 8, 6, batch=3)
    assert MATADD[0].calls(shape, 1, 1)[0]().shape == (3, 4, 6)
    assert L1[0].calls(TINY, 1, 1)[0]().shape == (3, 48)


@pytest.mark.parametrize(
    "subject", {each.name: each for c in CONTESTS for each in c.subjects}.values(), ids=lambda each: each.name
)
def test_arguments_fit_their_operators(subject):
    shape = Shape(5, 24, 16, batch=3) if "matadd" in subject.kernel else Shape(5, 24, 16)
    result = subject.operator(*subject.arguments(shape))
    assert result.shape[-2:] == (5, 16)
    assert torch.isfinite(result).all()


def test_a_plot_has_a_panel_per_contest_and_thread_count(tmp_path):
    row = measure.Row("a", "k", TINY, 1, "dram", 1.0, 1.0, {"b": 2.0}, {"b": 2.0}, {"c": "absent"}, 0.5)
    plot(tmp_path / "rows.png", [row, replace(row, name="d"), replace(row, threads=2), replace(row, weights="cache")])
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_kernels_are_selected_by_operator():
    chosen = command.selected(CONTESTS, ["bcq_linear"])
    assert {subject.kernel for contest in chosen for subject in contest.subjects} == {"bcq_linear"}
    assert command.selected(CONTESTS, []) == list(CONTESTS)
    with pytest.raises(TaskError, match="did you mean 'shift_linear'"):
        command.selected(CONTESTS, ["shift_liner"])


def test_a_file_that_cannot_be_written_stops_before_the_work(tmp_path):
    with pytest.raises(TaskError, match="no folder"):
        command.bench(json=tmp_path / "nowhere" / "rows.json")


@pytest.mark.parametrize("target", [t for t in TARGETS.values() if runs_here(t)], ids=lambda t: t.name)
def test_a_plain_read_reads_every_word(target):
    shape = ReadShape.of(100_000, target.lanes)
    words, sums = torch.randint(-9, 9, shape.words, dtype=torch.int32), torch.empty(shape.sums, dtype=torch.int32)
    assert words.nbytes >= 100_000
    Kernel("read_words", shape, target).function()(words, sums)
    assert torch.equal(sums, words.sum(1, dtype=torch.int32))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_plain_read_compiles_everywhere(target):
    code = Kernel("read_words", ReadShape.of(100_000, target.lanes), target).build().inspect_source("asm")
    if target.has("avx512"):
        assert code.count("vpaddd") >= 4
