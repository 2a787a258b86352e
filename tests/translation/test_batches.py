"""Token batches, vocabulary, averaging: the parts of training."""

import pytest
import torch
from safetensors.torch import save_file
from translation.toy import reverse_pairs

from shiftadd_transformers.hf import save
from tasks.errors import TaskError
from tasks.training.checkpoints import average_checkpoints, checkpoints
from tasks.translation.batches import Collator, TokenBatches, encode_pairs
from tasks.translation.config import ModelConfig, TokenizerConfig
from tasks.translation.model import build_model
from tasks.translation.pairs import Pair
from tasks.translation.tokenizer import load_tokenizer, train_tokenizer

PAIRS = [Pair(*pair) for pair in reverse_pairs(300)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(PAIRS, TokenizerConfig(vocab_size=4000), tmp_path_factory.mktemp("tokenizer"))


def test_the_vocabulary_shrinks_to_the_text(tokenizer):
    assert 8 < len(tokenizer) < 200
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        len(tokenizer) - 1,
    )


def test_a_vocabulary_too_small_for_the_characters_grows(tmp_path):
    text = [Pair("".join(chr(0x4E00 + i + j) for j in range(5)), "abc") for i in range(200)]
    assert len(train_tokenizer(text, TokenizerConfig(vocab_size=10), tmp_path)) > 200


def test_text_survives_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    for again in (tokenizer, load_tokenizer(tmp_path)):
        ids = again(text_target="ab cd op")["input_ids"]
        assert again.decode(ids, skip_special_tokens=True) == "ab cd op"


def test_fast_encoding_equals_the_tokenizer(tokenizer):
    pairs = [*PAIRS, Pair("unknown ß %s", "Ω x"), Pair(" a  b", "c")]
    expected = [
        (tokenizer(source)["input_ids"], tokenizer(text_target=target)["input_ids"]) for source, target in pairs
    ]
    assert encode_pairs(tokenizer, pairs, 1000) == expected
    assert all(max(map(len, example)) <= 5 for example in encode_pairs(tokenizer, pairs, 5))


def test_batches_hold_every_sentence_once_and_keep_to_the_size():
    examples = [([1] * (1 + i % 17), [2] * (1 + i % 13)) for i in range(500)]
    batches = TokenBatches(examples, 120, seed=3)
    first = [list(batches.order), [len(batches[i]) for i in range(len(batches))]]
    assert sorted(batches.order) == list(range(500))
    for i in range(len(batches)):
        longest = max(max(len(s), len(t)) for s, t in batches[i])
        assert 2 * longest * len(batches[i]) <= 120
    batches.shuffle(1)
    assert batches.order != first[0]
    assert [len(batches[i]) for i in range(len(batches))] == first[1]
    batches.shuffle(0)
    assert batches.order == first[0]


def test_a_sentence_longer_than_a_batch_stands_alone():
    batches = TokenBatches([([1] * 50, [1]), ([1], [1])], 10)
    assert [len(batches[i]) for i in range(len(batches))] == [1, 1]


def test_collator_pads_masks_and_shifts(tokenizer):
    model = build_model(ModelConfig(d_model=16, ffn=16, heads=2), tokenizer)
    pad = tokenizer.pad_token_id
    batch = Collator(model)([[([5, 6, 0], [7, 0]), ([5, 0], [7, 8, 0])]])
    assert batch["input_ids"].tolist() == [[5, 6, 0], [5, 0, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 0, -100], [7, 8, 0]]
    assert batch["decoder_input_ids"].tolist() == [[pad, 7, 0], [pad, 7, 8]]


def checkpoint(folder, **tensors):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_average_is_over_floats_only(tmp_path):
    a = checkpoint(tmp_path / "checkpoint-2", w=torch.tensor([1.0, 2.0]), n=torch.tensor([1]))
    b = checkpoint(tmp_path / "checkpoint-10", w=torch.tensor([3.0, 6.0]), n=torch.tensor([5]))
    mean = average_checkpoints([a, b])
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["n"].tolist() == [5]
    assert checkpoints(tmp_path) == [a, b]


def test_average_refuses_other_models(tmp_path):
    a = checkpoint(tmp_path / "checkpoint-1", w=torch.ones(2))
    b = checkpoint(tmp_path / "checkpoint-2", w=torch.ones(3))
    with pytest.raises(TaskError, match="different models"):
        average_checkpoints([a, b])
    with pytest.raises(TaskError, match="no checkpoints"):
        average_checkpoints([])


class Unsaveable:
    def save_pretrained(self, folder):
        raise OSError(28, "No space left on device")


def test_a_failed_save_leaves_the_old_model(tmp_path, tokenizer):
    model = build_model(ModelConfig(d_model=16, ffn=16, heads=2), tokenizer)
    save(model, tmp_path / "model", tokenizer)
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "model").iterdir())
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path / "model", Unsaveable())
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "model").iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
