"""From data to scores on a toy: training, resuming, interrupting, scoring, translating, converting."""

import json
import signal

import pytest
import torch
from transformers import TrainerCallback

from tasks.config import build
from tasks.errors import Interrupted, TaskError
from tasks.training.checkpoints import checkpoints
from tasks.training.folder import locate_run
from tasks.training.losses import SmoothedCrossEntropy
from tasks.training.schedule import EachEpoch
from tasks.translation import train as training
from tasks.translation.config import DecodeConfig, TranslationConfig
from tasks.translation.evaluate import bleu_tokenizer, evaluate_run, score
from tasks.translation.model import load_model
from tasks.translation.train import train
from tasks.translation.translate import translate

SMALL = {
    "tokenizer": {"vocab_size": 64},
    "model": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "ffn": 32, "heads": 2, "dropout": 0.0},
    "train": {"max_steps": 8, "eval_steps": 4, "warmup_steps": 2, "batch_tokens": 512, "threads": 1},
    "decode": {"beams": 1, "max_length": 12},
}


@pytest.fixture
def config(tmp_path, reverse_file):
    """A function: config(train={...}) -> a tiny config in a folder of its own."""

    def make(run="run", **tables):
        merged = {name: {**SMALL.get(name, {}), **tables.get(name, {})} for name in {*SMALL, *tables}}
        data = {
            "source": str(reverse_file),
            "split": "source",
            "target_language": "xx",
            **merged.pop("data", {}),
        }
        return build(TranslationConfig, {"run_dir": str(tmp_path / run), "data": data, **merged})

    return make


def weights(folder):
    return load_model(folder)[0].state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_and_its_scores(config, tmp_path):
    run = train(config(train={"average_checkpoints": 2}), quiet=True)
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.toml", "data", "tokenizer", "checkpoints", "model", "history.json"}
    assert run.fit.steps == 8
    assert any("eval_loss" in row for row in json.loads((folder / "history.json").read_text()))
    scores = evaluate_run(folder, progress=False)
    written = json.loads((folder / "results" / "model-test-beam1.json").read_text())
    assert written["bleu"] == scores.bleu
    assert "|tok:13a|" in written["bleu_signature"]
    assert "nw:2" in written["chrf_signature"]
    assert len((folder / "results" / "model-test-beam1.tsv").read_text().splitlines()) == scores.sentences
    assert evaluate_run(folder / "model", beams=2, progress=False).beams == 2


def test_the_model_learns_to_reverse(config):
    run = train(
        config(
            model={"d_model": 64, "ffn": 64, "heads": 4, "init_std": 0.1},
            train={
                "max_steps": 300,
                "eval_steps": 150,
                "learning_rate": 3e-3,
                "warmup_steps": 30,
                "label_smoothing": 0.0,
            },
        ),
        quiet=True,
    )
    pairs = run.corpus.test
    found = translate(run.model, run.tokenizer, [pair.source for pair in pairs], DecodeConfig(beams=1, max_length=12))
    assert sum(text == pair.target for text, pair in zip(found, pairs, strict=True)) > 0.5 * len(pairs)


def test_translation_keeps_the_order_and_empty_lines(config):
    run = train(config(), quiet=True)
    texts = ["ab cd", "", "op", "ab cd ef gh ij"]
    alone = [translate(run.model, run.tokenizer, [text], DecodeConfig(beams=1, max_length=5))[0] for text in texts]
    assert translate(run.model, run.tokenizer, texts, DecodeConfig(beams=1, max_length=5, batch_size=2)) == alone
    assert alone[1] == ""


class InterruptAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_interrupted_and_resumed_equals_uninterrupted(config, tmp_path, monkeypatch):
    # 40 steps over several epochs, so that the resumed order of batches is tested, too.
    settings = {"max_steps": 40, "eval_steps": 20, "batch_tokens": 1024}
    train(config("whole", train=settings), quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(training, "EachEpoch", lambda begin: _both(InterruptAt(27), begin))
        with pytest.raises(Interrupted, match="stopped at step 27"):
            train(config("parts", train=settings), quiet=True)
    assert checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "checkpoint-27"
    run = train(config("parts", train=settings), resume=True, quiet=True)
    assert run.fit.steps == 40
    assert equal(weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model"))


def _both(interrupt, begin):
    callback = EachEpoch(begin)
    callback.on_step_end = interrupt.on_step_end
    return callback


def test_minutes_end_a_training(config):
    run = train(config(train={"max_steps": None, "max_minutes": 0.05, "eval_steps": 100_000}), quiet=True)
    assert 0 < run.fit.minutes < 0.2
    assert run.fit.validation_loss == run.fit.validation_loss  # validated at the end


def test_a_run_is_not_overwritten_by_accident(config):
    train(config(), quiet=True)
    with pytest.raises(TaskError, match="already holds a run: use --resume, --overwrite"):
        train(config(), quiet=True)
    train(config(), overwrite=True, quiet=True)


def test_nothing_to_resume(config):
    with pytest.raises(TaskError, match="nothing to resume"):
        train(config(), resume=True, quiet=True)


def test_all_sentences_too_long(config):
    with pytest.raises(TaskError, match=r"no train pair is shorter than train.max_length = 2"):
        train(config(train={"max_length": 2}), quiet=True)


def test_a_plan_trains_and_packs(config, tmp_path):
    dense = train(config("dense"), quiet=True)
    plan = {
        "rules": [
            {"role": "mlp.*", "op": {"kind": "shift", "bits": 4}},
            {"role": "attn.q", "op": {"kind": "adder"}},
        ],
        "distill": {"alpha": 0.5},
    }
    model = {"pretrained": str(dense.folder / "model")}
    train(config("hybrid", model=model, plan=plan), quiet=True)
    latent = evaluate_run(tmp_path / "hybrid", progress=False)
    packed = evaluate_run(tmp_path / "hybrid", model="packed", progress=False)
    assert packed.bleu == pytest.approx(latent.bleu, abs=0.05)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rules": [{"role": "mpl.*", "op": {"kind": "shift"}}]}, r"\[plan\]: .*mlp"),
        ({"rules": [{"role": "mlp.*", "op": {"kind": "shft"}}]}, r"\[plan\]: .*shift"),
        ({"rules": [{"role": "mlp.*", "op": {"kind": "shift"}}], "distill": {}}, "needs a teacher"),
    ],
)
def test_bad_plans(config, plan, message):
    with pytest.raises(TaskError, match=message):
        train(config(plan=plan), quiet=True)


def test_loss_is_the_mean_over_tokens():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [4, -100, -100]])
    outputs = type("Outputs", (), {"logits": logits})
    expected = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], label_smoothing=0.1)
    assert torch.allclose(SmoothedCrossEntropy(0.1)(outputs, labels), expected)
    assert torch.allclose(SmoothedCrossEntropy(0.1)(outputs, labels, torch.tensor(6)), expected / 2)
    with torch.no_grad():
        plain = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
        assert torch.allclose(SmoothedCrossEntropy(0.1)(outputs, labels), plain)


def test_scores_need_sentences_and_know_languages():
    with pytest.raises(TaskError, match="no sentences"):
        score([], [])
    assert [bleu_tokenizer(code) for code in ("de", "zh_CN", "ja", "pt-BR")] == ["13a", "zh", "char", "13a"]


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(TaskError, match="not a run folder"):
        locate_run(tmp_path)
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "data").mkdir()
    with pytest.raises(TaskError, match=r"no model 'packed'; it has: none yet"):
        locate_run(tmp_path, "packed")
    with pytest.raises(TaskError, match="cannot load a translation model"):
        load_model(tmp_path)


def test_damaged_weights(config):
    run = train(config(), quiet=True)
    path = run.folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(TaskError, match=r"damaged|cannot load"):
        load_model(run.folder / "model")
