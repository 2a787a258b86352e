"""The latency table: what is read back, what is interpolated, what is refused."""

import json

import pytest
import torch
from hf.families import BY_NAME

from shiftadd_transformers import (
    AdderAttentionSpec,
    AdderSpec,
    BcqSpec,
    BinaryLinearSpec,
    MixerSpec,
    MixtureSpec,
    ShiftSpec,
    SoftmaxSpec,
    convert_,
    pack_,
    rule,
)
from shiftadd_transformers.cost import AttentionShape, count_ops
from shiftadd_transformers.cost.latency import LatencyTable, machine_differences

SHIFT = ShiftSpec(activation_bits=8)


HEADS = {"heads": 4, "head_dim": 16}


def core(spec, targets, sources, us, **more):
    return {
        "operator": spec.kind,
        "spec": spec.to_dict(),
        **HEADS,
        "targets": targets,
        "sources": sources,
        "us": us,
        **more,
    }


def call(targets, sources, **more):
    return AttentionShape(more.pop("batch", 1), 4, 16, targets, sources, **more)


def row(spec, m, k, n, us):
    return {"operator": spec["kind"], "spec": spec, "m": m, "k": k, "n": n, "threads": 1, "us": us}


@pytest.fixture
def table():
    shift = SHIFT.to_dict()
    rows = [row(shift, m, 768, 3072, us) for m, us in ((128, 800.0), (1, 10.0), (16, 40.0))]
    rows += [row(shift, 1, 768, 768, 4.0), row({"kind": "adder"}, 1, 64, 64, 2.0)]
    missing = [{"operator": "bcq", "spec": {"kind": "bcq"}, "k": 768, "n": 768, "reason": "no kernel yet"}]
    return {"format": 1, "machine": {"cpu": "some"}, "rows": rows, "missing": missing}


def test_a_file_is_read_back(table, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(table))
    loaded = LatencyTable.load(path)
    assert loaded.machine == {"cpu": "some"}
    assert loaded.us(SHIFT, 16, 768, 3072) == 40.0
    assert loaded.us(SHIFT.to_dict(), 1, 768, 768) == 4.0


def test_between_two_numbers_of_rows_time_is_a_power_law(table):
    loaded = LatencyTable(table["rows"])
    assert loaded.us(SHIFT, 4, 768, 3072) == pytest.approx(20.0)
    assert 40 < loaded.us(SHIFT, 17, 768, 3072) < 44
    assert 780 < loaded.us(SHIFT, 127, 768, 3072) < 800


def test_what_only_training_knows_does_not_matter(table):
    loaded = LatencyTable(table["rows"])
    assert loaded.us(ShiftSpec(activation_bits=8, parametrization="ps"), 1, 768, 768) == 4.0
    assert loaded.us(AdderSpec(eta=0.5), 1, 64, 64) == 2.0
    with pytest.raises(KeyError, match="zero=False"):  # another format, not another way of training
        loaded.us(ShiftSpec(activation_bits=8, parametrization="denseshift"), 1, 768, 768)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SHIFT, 1, 700, 3000), r"nearest \(k, n\): \(768, 3072\), \(768, 768\)"),
        ((SHIFT, 129, 768, 3072), "measured for 1 to 128 rows, not for 129"),
        ((SHIFT, 2, 768, 768), "measured for 1 to 1 rows, not for 2"),
        ((ShiftSpec(), 1, 768, 768), "shift was not measured; measured: adder, shift"),
        ((BcqSpec(), 1, 768, 768), "bcq was not measured .no kernel yet."),
    ],
)
def test_what_was_not_measured_is_refused(table, arguments, message):
    with pytest.raises(KeyError, match=message):
        LatencyTable(table["rows"], missing=table["missing"]).us(*arguments)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "machine": {}, "rows": [{"m": 1}]}'])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no latency table"):
        LatencyTable.load(path)


@pytest.fixture
def cores():
    softmax = SoftmaxSpec()
    return LatencyTable([
        core(softmax, 16, 16, 10.0), core(softmax, 64, 64, 160.0), core(softmax, 1, 16, 1.0), core(softmax, 1, 64, 2.0),
        core(softmax, 64, 64, 100.0, causal=True), core(softmax, 16, 16, 50.0, batch=8),
        core(BinaryLinearSpec(), 16, 16, 7.0), core(BinaryLinearSpec(), 16, 16, 5.0, cross=True),
    ], missing=[{"operator": "mixer", "spec": {"kind": "mixer"}, "reason": "no kernel yet"}])  # fmt: skip


def test_attentions_have_rows_of_their_own(cores):
    assert cores.attention_us("softmax", call(16, 16)) == 10.0
    assert cores.attention_us("softmax", call(16, 16, batch=8)) == 50.0
    assert cores.attention_us("softmax", call(64, 64, causal=True)) == 100.0
    assert cores.attention_us(BinaryLinearSpec(momentum=0.5), call(16, 16)) == 7.0
    assert cores.attention_us(BinaryLinearSpec(), call(16, 16, cross=True)) == 5.0
    assert cores.attention_us("softmax", call(16, 16, cross=True)) == 10.0  # it does not mind whose tokens they are


def test_between_two_numbers_of_tokens_time_is_a_power_law(cores):
    assert cores.attention_us("softmax", call(32, 32)) == pytest.approx(40.0)
    assert cores.attention_us("softmax", call(1, 32)) == pytest.approx(2**0.5)
    # At 64 sources, a sixth of the way from one target to 64 of them; at 16 sources, a quarter of that to 16.
    few, many = 10 ** (1 / 4), 2 * 80 ** (1 / 6)
    assert cores.attention_us("softmax", call(2, 32)) == pytest.approx((few * many) ** 0.5)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (
            "softmax",
            AttentionShape(1, 8, 16, 16, 16),
            r"not measured for batch 1, 8 heads x 16; measured: .*4 heads x 16",
        ),
        ("softmax", call(16, 16, batch=2), "not measured for batch 2"),
        ("softmax", call(65, 65), "for 1x16, 1x64, 16x16, 64x64 targets x sources, not around 65x65"),
        ("softmax", call(16, 16, causal=True), "for 64x64 targets x sources, not around 16x16"),
        (BinaryLinearSpec(), call(8, 16), "not around 8x16"),
        (BinaryLinearSpec(form="quadratic"), call(16, 16), "measured: binary_linear, softmax"),
        (MixerSpec(eta=0.5), call(16, 16), "mixer was not measured .no kernel yet."),
        (AdderAttentionSpec(), call(16, 16), "adder_attention was not measured"),
    ],
)
def test_attentions_that_were_not_measured_are_refused(cores, spec, shape, message):
    with pytest.raises(KeyError, match=message):
        cores.attention_us(spec, shape)


def test_a_mixture_is_not_told_from_one_that_trains_otherwise():
    table = LatencyTable([row({"kind": "mixture"}, 1, 8, 8, 3.0)])
    assert table.us(MixtureSpec(dense_latency=1.0, balance=0.5), 1, 8, 8) == 3.0
    with pytest.raises(KeyError, match="bits=5"):
        table.us(MixtureSpec(bits=5), 1, 8, 8)


def test_machines_are_the_same_whatever_is_installed_on_them():
    here = {"cpu": "A", "target": "haswell", "threads": 1, "versions": {"torch": "2.13"}, "weights": "in cache"}
    assert not machine_differences(here, here | {"versions": {"torch": "2.14"}, "weights": "from memory"})
    assert machine_differences(here, here | {"threads": 2}) == "threads: 1 and 2"


def attentions_of(family, spec):
    case = BY_NAME[family]
    model = case.build()
    if spec:
        model = pack_(convert_(model, [rule(match="*", role="attn.self", op=spec)]))
    rows = count_ops(model, **case.inputs()).rows
    return {row.module.removesuffix(".core").removeprefix("model."): row.attentions for row in rows if row.attentions}


@pytest.mark.parametrize("spec", [None, "adder_attention", "binary_linear"])
def test_counting_knows_the_calls_of_attentions(spec):
    free, causal = (AttentionShape(2, 2, 8, 6, 6, causal) for causal in (False, True))
    assert attentions_of("vit", spec) == {f"vit.layers.{i}.attention": (AttentionShape(2, 2, 8, 5, 5),) for i in (0, 1)}
    assert attentions_of("marian", spec) == {
        f"{stack}.layers.{i}.{name}": (shape,)
        for i in (0, 1)
        for stack, name, shape in (
            ("encoder", "self_attn", free),
            ("decoder", "self_attn", causal),
            ("decoder", "encoder_attn", free),
        )
    }


def test_a_single_target_is_not_causal():
    case = BY_NAME["llama"]
    inputs = {"input_ids": torch.ones(1, 1, dtype=torch.long)}
    rows = count_ops(case.build(), **inputs).rows
    assert {shape for row in rows for shape in row.attentions} == {AttentionShape(1, 2, 8, 1, 1)}
