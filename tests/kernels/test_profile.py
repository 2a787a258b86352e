"""Tracing, explaining, and latency tables, here and over RPC."""

import json
from contextlib import closing

import pytest
import torch
from rpc_servers import KEY, tracker_and_server
from transformers import MarianConfig, MarianMTModel
from typer.testing import CliRunner

from shiftadd_transformers import AdderSpec, BinaryLinearSpec, DenseSpec, MixerSpec, ShiftSpec, SoftmaxSpec
from shiftadd_transformers.cost import AttentionShape
from shiftadd_transformers.cost.latency import LatencyTable
from tasks import cli
from tasks.errors import TaskError
from tasks.kernels.models import model_shapes
from tvm_kernels import TARGETS, MissingKernelError, bridge, host, target
from tvm_kernels.explain import explain
from tvm_kernels.profile import Sweep, profile
from tvm_kernels.remote import RemoteError, Tracker
from tvm_kernels.samples import CORES, SPECS, sample_core, sample_layer
from tvm_kernels.timers import AnotherMachine, ThisMachine
from tvm_kernels.tracing import launches
from tvm_kernels.tune import bench, kernels_of, tune

SHIFT = ShiftSpec(activation_bits=8)


@pytest.mark.parametrize("name", TARGETS)
def test_a_layer_is_traced_for_any_machine(name):
    layer = sample_layer(SHIFT, 40, 24)
    for rows in (1, 20):
        first, second = launches(layer, rows, target(name))
        assert (first.kernel.name, second.kernel.name) == ("quantize_rows", "shift_linear")
        assert second.kernel.target.name == name
        assert second.operands[-1].numel() >= rows * 24
        assert all(array.size for array in second.arrays())
    with pytest.raises(RuntimeError, match="prepared for tracing"), bridge.enabled():
        layer(torch.randn(1, 40))


@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
def test_sample_layers_compute(spec):
    assert torch.isfinite(sample_layer(spec, 24, 16)(torch.randn(3, 24))).all()


def test_operators_without_a_kernel_are_not_computed(monkeypatch):
    monkeypatch.setattr("tvm_kernels.tracing.KERNELS", {})
    with pytest.raises(MissingKernelError, match="no kernel serves shiftadd::shift_linear"):
        launches(sample_layer(SHIFT, 24, 16), 1, target("generic"))


def test_a_refusal_is_explained():
    _, kernel = explain(sample_layer(SHIFT, 64, 64), 1, target("cortex-a72"))
    assert kernel.rule == "portable"
    assert "dot product" in kernel.refusals["stream"]
    assert not kernel.recorded
    _, kernel = explain(sample_layer(SHIFT, 64, 64), 1, target("haswell"))
    assert (kernel.rule, kernel.refusals) == ("stream", {})


@pytest.mark.parametrize("cold", [True, False])
def test_this_machine_is_profiled(cold, monkeypatch, tmp_path):
    monkeypatch.setattr("tvm_kernels.timers.largest_cache", lambda: 1 << 10)
    counts = []
    calls = [[AttentionShape(1, 2, 8, n, n) for n in (4, 9)]]
    specs = [DenseSpec(), SHIFT, SoftmaxSpec(), BinaryLinearSpec()]
    sweep = Sweep.over([(64, 64), (64, 62)], [1, 4], specs, 3, calls)
    for table in profile(sweep, ThisMachine(1, cold), counts.append):
        (tmp_path / "table.json").write_text(json.dumps(table))
    assert sum(counts) == sweep.size
    assert len(table["rows"]) == 8 + 4
    assert not table["missing"]
    assert all(0 < row["us_low"] <= row["us"] <= row["us_high"] for row in table["rows"])
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert (loaded.machine["threads"], loaded.machine["time"]) == (1, "processor")
    assert loaded.us(SHIFT, 2, 64, 62) > 0
    assert loaded.attention_us(BinaryLinearSpec(), AttentionShape(1, 2, 8, 6, 6)) > 0


@pytest.mark.parametrize("shape", [AttentionShape(2, 2, 8, 5, 5), AttentionShape(1, 2, 8, 5, 5, causal=True)], ids=str)
@pytest.mark.parametrize("spec", CORES, ids=str)
def test_sample_attentions_compute_the_same_with_kernels(spec, shape):
    call = sample_core(spec, shape)
    with torch.no_grad():
        expected = call()
        assert expected.shape == (shape.batch, shape.targets, shape.heads * shape.head_dim)
        with bridge.enabled():
            assert torch.allclose(call(), expected, atol=1e-5)


def test_a_causal_softmax_sees_no_future():
    def first_target(causal):
        torch.manual_seed(0)
        return sample_core(SoftmaxSpec(), AttentionShape(1, 1, 4, 3, 3, causal))()[0, 0]

    torch.manual_seed(0)
    _query, _key, value = (torch.randn(3, 4) for _ in range(3))
    assert torch.allclose(first_target(causal=True), value[0])
    assert not torch.allclose(first_target(causal=False), value[0], atol=1e-3)


def test_a_mixer_is_missing_from_cross_attentions():
    sweep = Sweep.over(
        specs=[MixerSpec(), SoftmaxSpec()], repeats=1, attentions=[[AttentionShape(1, 2, 8, 3, 4, cross=True)]]
    )
    (table,) = profile(sweep, ThisMachine(1, cold=False))
    (missing,), (row,) = table["missing"], table["rows"]
    assert "cannot stand in a cross-attention" in missing["reason"]
    assert {name: missing[name] for name in ("heads", "head_dim", "cross")} == {
        "heads": 2,
        "head_dim": 8,
        "cross": True,
    }
    assert (row["operator"], row["targets"], row["sources"]) == ("softmax", 3, 4)


def test_what_has_no_kernel_is_listed_as_missing(monkeypatch):
    served = {name: kernel for name, kernel in bridge.KERNELS.items() if name == "shiftadd::shift_linear"}
    monkeypatch.setattr("tvm_kernels.tracing.KERNELS", served)
    (table,) = profile(Sweep.over([(64, 64)], [1], [AdderSpec(), SHIFT], 1), ThisMachine(1, cold=False))
    (missing,) = table["missing"]
    assert missing["spec"] == {"kind": "adder"}
    assert "shiftadd::adder_linear_int8" in missing["reason"]
    assert len(table["rows"]) == 1


def test_the_shapes_of_a_saved_model(tmp_path):
    config = MarianConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24,
        encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(tmp_path)
    shapes, attentions = model_shapes(tmp_path)
    assert shapes == [(16, 16), (16, 24), (24, 16)]
    assert attentions == [
        AttentionShape(1, 2, 8, 1, 1),
        AttentionShape(1, 2, 8, 1, 1, causal=True),
        AttentionShape(1, 2, 8, 1, 1, cross=True),
    ]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["profile", "kernels", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output FILE"),
        (["--operator", "shfit", "--explain"], "nearest: 'shift'"),
        (["--operator", '{"kind": "shift", "bit": 3}', "--explain"], "nearest: 'bits'"),
        (["--shapes", "64"], "write KxN"),
        (["--rows", "0"], "positive numbers"),
        (["--heads", "12"], "write HEADSxWIDTH"),
        (["--heads", "2x8:crossed"], "write HEADSxWIDTH"),
        (["--heads", "2x8", "--tokens", "1x2x3"], "TARGETSxSOURCES"),
        (["--heads", "2x8", "--model", "nowhere"], "not both"),
        (["--target", "cortex", "--explain"], "did you mean 'cortex-a7"),
        (["--model", "nowhere"], "nowhere is no model folder"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    result = invoke(*arguments)
    assert isinstance(result.exception, TaskError)
    assert message in str(result.exception)


def test_the_command_explains_and_measures(tmp_path, monkeypatch):
    monkeypatch.setattr("tvm_kernels.timers.largest_cache", lambda: 1 << 10)
    output = tmp_path / "latency.json"
    explained = invoke("--explain", "--shapes", "64x64", "--rows", "1,20", "--target", "cortex-a72").stdout
    assert "not stream: the target has no dot product" in explained
    done = invoke("--output", output, "--shapes", "64x64", "--rows", "1", "--operator", "dense", "--repeats", "2")
    assert done.exit_code == 0, done.output
    assert LatencyTable.load(output).us("dense", 1, 64, 64) > 0


def test_the_command_measures_attentions(tmp_path):
    output = tmp_path / "latency.json"
    options = ["--heads", "2x8,2x8:causal", "--tokens", "4,1x4", "--operator", "softmax", "--repeats", "2"]
    done = invoke("--output", output, *options)
    assert done.exit_code == 0, done.output
    assert "1 x 2 x 8: 4 x 4 causal" in done.stdout
    table = LatencyTable.load(output)
    assert table.attention_us("softmax", AttentionShape(1, 2, 8, 4, 4, causal=True)) > 0
    assert table.attention_us("softmax", AttentionShape(1, 2, 8, 1, 4)) > 0


def test_a_library_for_another_architecture_needs_its_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    kernel = launches(sample_layer(SHIFT, 16, 16), 1, target("cortex-a76"))[0].kernel
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(host.LinkError, match="aarch64-linux-gnu-gcc"):
        host.link(kernel.build(), tmp_path / "kernel.so", kernel.target.triple)


def test_over_rpc(tmp_path):
    here = target("host")
    with tracker_and_server(tmp_path) as tracker:
        with pytest.raises(RemoteError, match=f"registered as 'other'.*registered: {KEY}"):
            Tracker(tracker.host, tracker.port, "other").check()
        calls = [[AttentionShape(1, 2, 8, 4, 4)]]
        sweep = Sweep.over([(64, 64)], [1, 4], [DenseSpec(), SHIFT, SoftmaxSpec()], 2, calls)
        with closing(AnotherMachine(tracker, here, 1)) as board:
            *_, table = profile(sweep, board)
        assert [row["m"] for row in table["rows"]] == [1, 4]
        assert all(row["us"] > 0 for row in table["rows"])
        assert [row["operator"] for row in table["missing"]] == ["dense", "softmax"]
        assert all("PyTorch" in row["reason"] for row in table["missing"])
        assert LatencyTable(table["rows"]).us(SHIFT, 2, 64, 64) > 0
        tune_over(tracker, here, tmp_path / "records.json")
    with pytest.raises(RemoteError, match="no tracker answers"):
        tracker.check()


def tune_over(tracker, here, path):
    found = kernels_of([sample_layer(SHIFT, 64, 64)], [1], here)
    with bench(1, tracker, rounds=1, repeats=2) as place:
        outcomes = list(tune(found, place, path, trials=2))
    assert all(not outcome.failures for outcome in outcomes)
    assert len(json.loads(path.read_text())) == len(found)
