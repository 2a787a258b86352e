"""Every operation and byte is charged, at the width that it has."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, MarianConfig, MarianMTModel

from shiftadd_transformers.cost import CostReport, Row, compare, count_ops, load_table, table_names
from shiftadd_transformers.cost.operators import reads_int8
from shiftadd_transformers.layers import AdderLinear, BcqLinear, ShiftAddLinear, latent_type
from shiftadd_transformers.layers.distance import finish_counts
from shiftadd_transformers.operators.counts import OpCounts, adder_linear_counts, dense_linear_counts
from shiftadd_transformers.specs import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec

SMOOTH = OpCounts(multiply=1, add=1, lookup=1)


def counts_of(module, *inputs):
    return count_ops(module, *inputs).total.counts


def test_linear_by_hand():
    report = count_ops(nn.Linear(5, 3), torch.randn(2, 4, 5))
    (row,) = report.rows
    assert (row.module, row.kind) == ("(model)", "dense")
    assert row.operations == {"float32": OpCounts(multiply=8 * 15, add=8 * 15)}
    assert row.weights == {"float32": 4 * (15 + 3)}
    assert row.activations == {"float32": 4 * 8 * (5 + 3)}


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)])
def test_operands_are_charged_at_their_stored_width(dtype, size):
    report = count_ops(nn.Linear(8, 8, bias=False).to(dtype), torch.randn(1, 8, dtype=dtype))
    (row,) = report.rows
    assert row.operations == {str(dtype)[6:]: OpCounts(multiply=64, add=56)}
    assert (row.weight_bytes, row.activation_bytes) == (64 * size, 16 * size)


def test_a_cast_weight_is_read_at_its_stored_width():
    linear, x = nn.Linear(8, 8, bias=False), torch.randn(1, 8, dtype=torch.bfloat16)

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return F.linear(x, self.linear.weight.to(x.dtype))

    report = count_ops(Cast(), x)
    assert report.total.weights == {"float32": 256, "bfloat16": 0}
    assert report.total.activations == {"bfloat16": 32}


def test_elementwise_norm_and_softmax_by_hand():
    x = torch.randn(3, 10)
    norm = OpCounts(multiply=1 + 11 + 20, add=9 + 10 + 9 + 1 + 10) + SMOOTH
    assert counts_of(nn.LayerNorm(10), x) == norm * 3
    assert counts_of(nn.Softmax(-1), x) == OpCounts(multiply=10 + 11, add=9 + 10 + 10 + 9, lookup=10) * 3
    assert counts_of(nn.GELU(), x) == SMOOTH * 30
    assert counts_of(nn.ReLU(), x) == OpCounts(add=30)

    class Chain(nn.Module):
        def forward(self, x):
            return (x * 2 + x) / 3 - x.mean(-1, keepdim=True)

    assert counts_of(Chain(), x) == OpCounts(multiply=30 + 30 + 3, add=30 + 27 + 30)


def test_rms_norm_by_hand():
    ours = counts_of(nn.RMSNorm(10), torch.randn(3, 10))
    assert ours.multiply == 3 * (10 + 1 + 10 + 10 + 1)
    assert (ours.add, ours.lookup) == (3 * (9 + 1 + 1), 3)


def test_convolution_by_hand():
    report = count_ops(nn.Conv2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 9, 9))
    outputs, taps = 2 * 6 * 4 * 4, 2 * 9
    assert report.total.counts == OpCounts(multiply=outputs * taps, add=outputs * taps)
    assert report.total.weight_bytes == 4 * (6 * taps + 6)


def test_attention_by_hand():
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)

    class Attend(nn.Module):
        def forward(self, q, k):
            return F.scaled_dot_product_attention(q, k, k)

    softmax = OpCounts(multiply=3 * (5 + 6), add=3 * (4 + 5 + 5 + 4), lookup=15)
    scores = dense_linear_counts(3, 5, 8) + OpCounts(multiply=15)
    assert counts_of(Attend(), q, k) == (scores + softmax + dense_linear_counts(3, 8, 5)) * 2


def test_embedding_moves_the_gathered_rows_and_computes_nothing():
    report = count_ops(nn.Embedding(1000, 8), torch.zeros(2, 3, dtype=torch.long))
    assert report.total.counts == OpCounts()
    assert report.total.weight_bytes == 6 * 8 * 4
    assert report.total.activation_bytes == 6 * 8 + 6 * 8 * 4


def test_tied_and_reused_weights_are_read_once():
    shared = nn.Linear(8, 8, bias=False)
    report = count_ops(nn.Sequential(shared, shared), torch.randn(1, 8))
    assert report.total.weight_bytes == 256
    assert report.total.counts.multiply == 128

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    assert count_ops(Tied(), torch.arange(3)).total.weight_bytes == 16 * 8 * 4


def test_views_copies_and_index_arithmetic_are_free():
    class Shuffle(nn.Module):
        def forward(self, x):
            positions = torch.arange(x.shape[-1]).cumsum(0) + 1
            return torch.cat([x.t().contiguous(), x.reshape(-1, x.shape[0])])[: positions.numel()].expand(2, -1, -1)

    assert count_ops(Shuffle(), torch.randn(4, 6)).rows == ()


def test_unknown_operators_are_named():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).real

    report = count_ops(Spectrum(), torch.randn(2, 8))
    assert list(report.uncounted) == ["aten._fft_r2c"]
    assert report.total.activation_bytes > 0
    assert "aten._fft_r2c" in report.table()


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    model[0].eval()
    count_ops(model, torch.randn(2, 4))
    assert [m.training for m in model.modules()] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError):
        count_ops(model, torch.randn(2, 5))
    assert [m.training for m in model.modules()] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_fused_encoder_layer_is_taken_apart():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    report = count_ops(layer, torch.randn(1, 3, 8))
    assert not report.uncounted
    assert report.by_kind()["dense"].counts.multiply == 3 * (8 * 24 + 8 * 8 + 2 * 8 * 16)


SPECS = [
    ShiftSpec(),
    ShiftSpec(bits=5, terms=2, group_size=8),
    ShiftSpec(activation_bits=8),
    ShiftSpec(bits=5, activation_bits=8),
    ShiftSpec(parametrization="ps"),
    ShiftSpec(bits=3, parametrization="denseshift"),
    AdderSpec(),
    AdderSpec(bits=None, center=False),
    ShiftAddSpec(),
    BcqSpec(),
    BcqSpec(grouping="column"),
    BcqSpec(grouping="column", activation_bits=8),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["latent", "packed"])
def test_our_layers_are_counted_by_their_formula(spec, packed):
    layer = latent_type(spec).from_dense(nn.Linear(16, 8), spec)
    layer = layer.pack() if packed else layer
    report = count_ops(nn.Sequential(layer, nn.ReLU()), torch.randn(2, 5, 16))
    row = report.rows[0]
    assert (row.module, row.kind) == ("0", spec.kind)
    assert len(report.rows) == 2, "inner operators are suppressed"
    # Quantising activations and returning to float is charged on top of the layer's own formula.
    own, counted = layer.counts(10), row.counts
    extra = {name: getattr(counted, name) - getattr(own, name) for name in ("multiply", "add", "shift", "lookup")}
    quantises = getattr(spec, "activation_bits", None) == 8 or getattr(spec, "bits", None) == 8
    cascade = isinstance(spec, ShiftAddSpec)
    assert all(value >= 0 for value in extra.values())
    assert any(extra.values()) is (quantises or cascade)
    assert row.weight_bytes == layer.stored_bytes() > 0
    read = 1 if reads_int8(layer) else 4
    assert row.activation_bytes == 10 * (16 * read + 8 * 4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_formulas_of_layers_and_operators_agree(spec):
    layer, x = latent_type(spec).from_dense(nn.Linear(16, 8), spec).pack(), torch.randn(3, 16)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        layer(x)
    around = OpCounts()
    if isinstance(spec, AdderSpec | ShiftAddSpec):
        around = finish_counts(3, 8, getattr(spec, "center", True), bias=True)
    assert counts_of(layer, x).total == flops.get_total_flops() + around.total


def test_widths_of_the_shift_layer():
    floating, integer, wide = (
        latent_type(spec).from_dense(nn.Linear(16, 8), spec)
        for spec in (ShiftSpec(), ShiftSpec(activation_bits=8), ShiftSpec(bits=5, activation_bits=8))
    )
    x = torch.randn(1, 16)
    assert count_ops(floating, x).rows[0].operations == {"float32": OpCounts(shift=8 * 17, add=8 * 16)}
    quantise = OpCounts(multiply=16 + 1 + 8, add=15)
    expected = {
        "int16": OpCounts(shift=8 * 16),  # 8 bits shifted by up to 6 places
        "int32": OpCounts(shift=8, add=8 * 15),
        "float32": OpCounts(add=8) + quantise,
    }
    assert count_ops(integer, x).rows[0].operations == expected
    assert count_ops(wide, x).rows[0].operations["int32"].shift == 8 * 17  # by up to 14 places


def test_widths_of_the_adder_layer():
    layer = AdderLinear.from_dense(nn.Linear(16, 8), AdderSpec())
    operations = count_ops(layer, torch.randn(1, 16)).rows[0].operations
    assert operations["int8"] == operations["int32"] == OpCounts(add=8 * 16)
    rest = operations["float32"]
    own = layer.counts(1)
    assert rest.add == own.add - adder_linear_counts(1, 8, 16).add + 16
    assert rest.shift == own.shift + 16 + 8


def test_widths_of_the_table_layer():
    layer = BcqLinear.from_dense(nn.Linear(16, 8), BcqSpec(2, "column", activation_bits=8))
    entries = 16 * 2  # of two planes' four entries, two are the others negated
    assert count_ops(layer, torch.randn(1, 16)).rows[0].operations == {
        "int8": OpCounts(lookup=8 * 16),
        "int16": OpCounts(shift=8 * 16),  # 8 bits shifted by up to 7 places
        "int32": OpCounts(shift=8, add=8 * 15),
        "float32": OpCounts(add=8) + OpCounts(multiply=entries, shift=entries, add=entries + 16 + 15),
    }


def test_reused_packed_layer_reads_its_weights_once():
    layer = BcqLinear.from_dense(nn.Linear(16, 16), BcqSpec()).pack()
    report = count_ops(nn.Sequential(layer, layer), torch.randn(3, 16))
    assert report.total.weight_bytes == layer.stored_bytes()
    assert report.total.counts == layer.counts(3) * 2


# -- whole models


def bert(**options):
    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=40,
        ),
        **options,
    )


def marian(attention="sdpa"):
    config = MarianConfig(
        vocab_size=60,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=48,
        pad_token_id=59,
        eos_token_id=0,
        bos_token_id=None,
        decoder_start_token_id=59,
        forced_eos_token_id=None,
        attn_implementation=attention,
    )
    return MarianMTModel(config)


def source_and_target(source=7, target=5, batch=2):
    return {
        "input_ids": torch.randint(1, 50, (batch, source)),
        "decoder_input_ids": torch.randint(1, 50, (batch, target)),
    }


def test_bert_by_hand():
    report = count_ops(bert(), input_ids=torch.randint(0, 50, (2, 7)))
    tokens, layers = 14, 2
    per_token = 4 * 32 * 32 + 2 * 32 * 64
    dense = layers * tokens * per_token + 2 * 32 * 32  # and the pooler, on one token of each sentence
    kinds = report.by_kind()
    assert kinds["dense"].counts == OpCounts(multiply=dense, add=dense)  # all with bias
    biases = layers * (4 * 32 + 64 + 32) + 32
    assert kinds["dense"].weight_bytes == 4 * (layers * per_token + 32 * 32 + biases)
    assert kinds["norm"].counts.lookup == (2 * layers + 1) * tokens
    assert kinds["activation"].counts.lookup == layers * tokens * 64 + 2 * 32
    assert not report.uncounted


def test_marian_by_hand():
    report = count_ops(marian(), **source_and_target())
    encoder = 14 * 2 * (4 * 32 * 32 + 2 * 32 * 64)
    decoder = 10 * (4 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 48) + 14 * 2 * 32 * 32  # keys and values of the source
    head = 10 * 32 * 60
    assert report.by_kind()["dense"].counts.multiply == encoder + decoder + head
    rows = {row.module: row for row in report.rows if row.kind == "dense"}
    assert rows["lm_head"].counts == OpCounts(multiply=head, add=10 * 31 * 60)
    assert rows["model.decoder.layers.0.encoder_attn.k_proj"].counts.multiply == 14 * 32 * 32
    assert not report.uncounted


def test_stored_bytes_are_read_once_over_a_whole_model():
    model = marian()
    report = count_ops(model, **source_and_target())
    read = report.total.weight_bytes
    positions = 2 * (model.config.max_position_embeddings * 32 * 4)
    rows_read = (7 + 5) * 32 * 4
    stored = sum(p.numel() * 4 for p in model.parameters()) + model.final_logits_bias.numel() * 4
    assert read == stored - positions + rows_read


def test_products_agree_with_torchs_flop_counter():
    model, inputs = marian("eager").eval(), source_and_target()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(**inputs)
    kinds = count_ops(model, **inputs).by_kind()
    products = kinds["dense"].counts.multiply + kinds["matmul"].counts.multiply
    assert products == flops.get_total_flops() // 2


def test_fused_attention_costs_what_its_parts_cost():
    inputs = source_and_target()
    eager, fused = (count_ops(marian(kind), **inputs) for kind in ("eager", "sdpa"))
    products, softmax = (eager.by_kind()[kind].counts for kind in ("matmul", "softmax"))
    scores = 2 * 4 * (2 * 7 * 7 + 5 * 5 + 5 * 7)  # each is scaled once
    attention = fused.by_kind()["attention"].counts
    assert attention.multiply == products.multiply + softmax.multiply + scores
    assert attention.lookup == softmax.lookup
    masked = attention.add - products.add - softmax.add
    assert masked in (0, 2 * 4 * 5 * 5)


def test_totals_are_sums_and_nothing_that_computes_moves_nothing():
    report = count_ops(marian(), **source_and_target())
    total = report.total
    for field in ("multiply", "add", "shift", "lookup"):
        assert getattr(total.counts, field) == sum(getattr(row.counts, field) for row in report.rows)
    assert total.weight_bytes == sum(row.weight_bytes for row in report.rows)
    assert total.activation_bytes == sum(row.activation_bytes for row in report.rows)
    for row in report.rows:
        assert not row.counts.total or row.activation_bytes > 0
        assert row.kind != "dense" or row.weight_bytes > 0
        assert row.kind not in ("dense", "matmul", "attention") or row.counts.add > 0, "accumulates are charged"


# -- energy


def test_energy_by_hand():
    operations = {
        "int8": OpCounts(multiply=10),
        "int32": OpCounts(add=10),
        "float32": OpCounts(shift=3, lookup=2),
    }
    row = Row("a", "dense", operations, {"float32": 16}, {"int8": 4})
    energy = CostReport((row,)).energy("asic45")
    assert energy.compute_pj == pytest.approx(10 * 0.2 + 10 * 0.1 + 3 * 0.13 + 2 * 0.37)
    assert energy.memory_pj == pytest.approx(16 * 8 / 16 * 200 + 4 * 8 / 16 * 6)
    assert energy.by_kind["dense"] == (energy.compute_pj, energy.memory_pj)
    assert energy.total_pj == energy.compute_pj + energy.memory_pj


def test_energy_parts_sum_to_the_whole():
    energy = count_ops(marian(), **source_and_target()).energy()
    assert sum(c for c, _ in energy.by_kind.values()) == pytest.approx(energy.compute_pj)
    assert sum(m for _, m in energy.by_kind.values()) == pytest.approx(energy.memory_pj)


def test_memory_ratios_are_eyeriss_ratios():
    memory = load_table("asic45").memory
    unit = memory["register_file"]
    ratios = {level: value / unit for level, value in memory.items()}
    assert ratios == {"dram": 200, "global_buffer": 6, "noc": 2, "register_file": 1}


def test_the_second_table_changes_memory_only():
    tables = [load_table(name) for name in table_names()]
    assert tables[0].compute == tables[1].compute
    assert tables[1].memory["dram"] > tables[0].memory["dram"]


@pytest.mark.parametrize("name", table_names())
def test_every_figure_has_a_source_and_a_unit(name):
    table = load_table(name)
    figures = len(table.compute) + len(table.memory) + len(table.area)
    assert len(table.sources) == figures
    assert all("(" in source for source in table.sources.values())


def test_errors_propose_names():
    report = count_ops(nn.Linear(4, 4), torch.randn(1, 4))
    with pytest.raises(ValueError, match="asic45"):
        report.energy("asic54")
    with pytest.raises(ValueError, match="float64"):
        count_ops(nn.Linear(4, 4).double(), torch.randn(1, 4).double()).energy()
    with pytest.raises(ValueError, match="kind"):
        report.table(by="layer")


# -- comparison


def test_dense_baselines_by_hand():
    both = compare(nn.Linear(256, 8), torch.randn(2, 256))
    rows = {name: report.rows[0] for name, report in both.columns.items()}
    assert rows["fp32"] == rows["actual"]
    assert rows["fp16"].operations == {"float16": OpCounts(multiply=4096, add=4096)}
    assert rows["fp16"].weight_bytes == 2 * (2048 + 8)
    for bits in (8, 4):
        row = rows[f"int{bits}"]
        assert row.operations == {
            "int8": OpCounts(multiply=4096),
            "int32": OpCounts(add=4096),
            "float32": OpCounts(multiply=16),
        }
        assert row.activations == {"int8": 2 * (256 + 8)}
    assert rows["int8"].weights == {"int8": 2048, "int32": 32, "scales": 32}
    assert rows["int4"].weights == {"int4": 1024, "int32": 32, "scales": 2 * 8 * 2}


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_baselines_of_a_converted_layer_are_those_of_the_dense_one(spec):
    dense, x = nn.Linear(16, 8), torch.randn(3, 16)
    expected = compare(dense, x).columns
    converted = compare(latent_type(spec).from_dense(dense, spec).pack(), x).columns
    for name in ("fp32", "fp16", "int8", "int4"):
        assert converted[name] == expected[name]
    assert converted["actual"] != expected["actual"]


def test_baselines_leave_attention_and_norms_at_their_width():
    both = compare(marian(), **source_and_target()).columns
    for kind in ("attention", "norm", "activation"):
        assert both["int8"].by_kind()[kind] == both["actual"].by_kind()[kind]
        assert set(both["fp16"].by_kind()[kind].operations) == {"float16"}


def test_reports_are_text_and_json():
    both = compare(marian(), **source_and_target())
    report = both.columns["actual"]
    assert json.loads(json.dumps(report.to_dict()))["operations"]["multiply"] == report.total.counts.multiply
    assert json.loads(json.dumps(both.to_dict()))["int8"]["energy"]["compute_pj"] > 0
    assert "lm_head" in report.table()
    assert report.table("kind").splitlines()[-1].startswith("all")
    assert both.table().splitlines()[1].startswith("actual")


def test_shift_layer_saves_compute_and_memory_but_is_charged_its_accumulates():
    dense = nn.Linear(64, 64, bias=False)
    packed = latent_type(ShiftSpec()).from_dense(dense, ShiftSpec()).pack()
    both = compare(packed, torch.randn(1, 64))
    actual, fp32 = (both.columns[name].energy() for name in ("actual", "fp32"))
    per_tap = actual.compute_pj / 64**2
    assert per_tap == pytest.approx(0.13 + 0.9, rel=0.02)
    assert fp32.compute_pj / 64**2 == pytest.approx(3.7 + 0.9, rel=0.02)


def test_cascade_splits_its_halves():
    layer = ShiftAddLinear.from_dense(nn.Linear(16, 8), ShiftAddSpec())
    operations = count_ops(layer, torch.randn(1, 16)).rows[0].operations
    assert operations["int8"] == operations["int32"] == OpCounts(add=8 * 8)
    assert operations["float32"].shift >= 8 * 17
