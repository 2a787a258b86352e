"""What `[plan.dynamics]` does to a training."""

import json

import pytest
import torch
from vision.toy import small_config

from tasks.config import build, read_config, write_config
from tasks.errors import TaskError
from tasks.image_classification.config import ImageConfig
from tasks.image_classification.train import train
from tasks.training import conversion
from tasks.training.config import DynamicsConfig, TrainConfig

BLOCKS = [
    {"role": "attn.self", "op": {"kind": "mixer", "op": "add", "kernel_size": 3}, "layers": "0"},
    {"role": "attn.self", "op": {"kind": "adder_attention"}, "layers": "1"},
    {"role": "mlp.up", "op": {"kind": "adder", "norm": True}},
    {"role": "mlp.down", "op": {"kind": "mixture"}},
    {"match": "*", "op": {"kind": "shift"}},
]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """A run with a block of every kind, whose shift weights stay as they are from the start."""
    dynamics = {"adder_learning_rate": 0.01, "adder_warmup": 3, "freeze": {"shift": 0.0}}
    folder = tmp_path_factory.mktemp("hybrid") / "run"
    plan = {"rules": BLOCKS, "dynamics": dynamics}
    logged = {"max_steps": 10, "eval_steps": 5, "logging_steps": 2, "batch_size": 16, "threads": 1}
    return train(small_config(folder, plan=plan, train=logged), quiet=True)


def test_a_hybrid_of_all_blocks_trains_and_packs(hybrid):
    assert (hybrid.folder / "packed" / "config.json").is_file()
    assert all(parameter.isfinite().all() for parameter in hybrid.model.parameters())


def test_dead_features_and_expert_shares_are_in_the_history(hybrid):
    rows = json.loads((hybrid.folder / "history.json").read_text())
    shares = [row["dead_features"] for row in rows if "dead_features" in row]
    assert shares
    assert all(0 <= share < 0.5 for share in shares)
    assert any("dense_share" in row for row in rows)


def test_frozen_weights_stay_and_others_move(hybrid, tmp_path):
    start = train(
        small_config(tmp_path / "start", plan={"rules": BLOCKS}, train={"max_steps": 1, "learning_rate": 1e-12}),
        quiet=True,
    ).model.state_dict()
    moved = {
        name: not torch.allclose(value.float(), start[name].float())
        for name, value in hybrid.model.state_dict().items()
    }
    assert not moved["vit.layers.0.attention.v_proj.weight"]
    assert moved["vit.layers.0.attention.v_proj.bias"]
    assert moved["vit.layers.0.attention.core.taps"]
    assert moved["vit.layers.1.attention.core.gain"]
    assert moved["vit.layers.0.mlp.fc1.weight"]


def test_adder_weights_get_their_own_rate_and_warm_up(hybrid):
    dynamics = DynamicsConfig(adder_learning_rate=0.01, adder_warmup=3)
    optimizer = conversion.latent_optimizer(hybrid.model, TrainConfig(learning_rate=1e-3), dynamics)
    (group,) = [group for group in optimizer.param_groups if group["name"] == "adder"]
    assert (group["lr"], group["warmup"]) == (0.01, 3)
    assert len(group["params"]) == 3  # two layers, and the taps of a mixer that sums distances


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        ({"freeze": {"shfit": 0.5}}, "no weights to freeze in layers of kind 'shfit'; nearest: 'shift'"),
        ({"freeze": {"shift": 1.5}}, "0 to 1, not 1.5"),
        ({"adder_learning_rate": 0.0}, "adder_learning_rate must be positive"),
        ({"adder_warmup": -1}, "must not be negative"),
        ({"adder_warm": 1}, "unknown key 'plan.dynamics.adder_warm'"),
    ],
)
def test_mistakes_are_named(dynamics, message, tmp_path):
    with pytest.raises(TaskError, match=message):
        train(small_config(tmp_path, plan={"rules": BLOCKS, "dynamics": dynamics}), quiet=True)


def test_the_config_reads_back_equal(tmp_path):
    tables = {"plan": {"rules": BLOCKS, "dynamics": {"freeze": {"shift": 0.5}, "adder_warmup": 4}}}
    config = build(ImageConfig, tables)
    write_config(config, tmp_path / "c.toml")
    assert read_config(ImageConfig, tmp_path / "c.toml") == config
