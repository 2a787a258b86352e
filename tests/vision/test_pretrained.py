"""Starting from a classifier of another architecture, with the same or with other classes."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model
from vision.toy import MODELS, SIZES, small_config

from tasks.errors import TaskError
from tasks.image_classification.evaluate import evaluate_run
from tasks.image_classification.images import ImageSet
from tasks.image_classification.model import class_names, load_model, load_pretrained, make_processor, relabelled
from tasks.image_classification.train import train

PLAN = {"rules": [{"role": "attn.*", "op": "shift"}, {"role": "mlp.*", "op": {"kind": "shift", "bits": 4}}]}


@pytest.fixture
def saved(tmp_path):
    """A function: saved("swin", ["cat", "dog"]) -> a folder with a tiny classifier, its image processor too."""

    def make(name, classes, processor=True):
        model_class, config_class, sizes = MODELS[name]
        model = model_class(config_class(**sizes, id2label=dict(enumerate(classes))))
        folder = tmp_path / f"{name}-{len(classes)}"
        model.save_pretrained(folder)
        if processor:
            make_processor(8, 8).save_pretrained(folder)
        return str(folder)

    return make


@pytest.mark.parametrize("name", MODELS)
def test_other_classes_get_a_new_head_and_packed_equals_latent(name, saved, tmp_path):
    config = small_config(
        tmp_path / "run",
        model={"pretrained": saved(name, ["cat", "dog", "cow"])},
        train={"max_steps": 4, "eval_steps": 2},
        plan=PLAN,
    )
    run = train(config, quiet=True)
    assert class_names(run.model) == tuple("0123456789")
    assert run.fit.validation_loss > 0
    latent, packed = (
        evaluate_run(run.folder, model=kind, progress=False, report=False) for kind in ("model", "packed")
    )
    assert latent.top1 == packed.top1
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        logits = [load_model(run.folder / kind)[0](pixel_values=pixels).logits for kind in ("model", "packed")]
    assert logits[0].shape == (2, 10)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_body_is_kept(name, saved):
    path = saved(name, ["cat", "dog", "cow"])
    before, (after, _, knows) = load_model(path)[0].state_dict(), load_pretrained(path, ["a", "b"])
    assert not knows
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if "classifier" in key and key.endswith("weight")} | {
        key for key in before if "classifier" in key and key.endswith("bias")
    }


def test_other_names_of_the_same_number_are_other_classes(saved):
    path = saved("deit", ["cat", "dog"])
    before, (after, _, knows) = load_model(path)[0], load_pretrained(path, ["dog", "cow"])
    assert not knows
    assert not torch.equal(before.cls_classifier.weight, after.cls_classifier.weight)
    assert not torch.equal(before.distillation_classifier.weight, after.distillation_classifier.weight)


def test_the_same_classes_in_any_order_keep_the_head(saved):
    path = saved("vit", ["dog", "cat"])
    model, _, knows = load_pretrained(path, ["cat", "dog"])
    assert knows
    assert class_names(model) == ("dog", "cat")
    images = ImageSet(["x", "y"], [0, 1], lambda i: None)
    assert list(relabelled(images, ["cat", "dog"], model).labels) == [1, 0]
    with pytest.raises(TaskError, match="does not know the classes cow"):
        relabelled(images, ["cat", "cow"], model)


def test_classes_without_names_take_those_of_the_data(saved):
    path = saved("vit", ["LABEL_0", "LABEL_1"])
    model, _, knows = load_pretrained(path, ["cat", "dog"])
    assert knows
    assert class_names(model) == ("cat", "dog")


def test_a_body_without_a_head(tmp_path):
    Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)).save_pretrained(tmp_path)
    model, processor, knows = load_pretrained(str(tmp_path), ["cat", "dog"])
    assert not knows
    assert model.classifier.out_features == 2
    assert processor.size["height"] == 8  # no processor was saved


def test_a_damaged_body_is_refused(tmp_path, saved):
    from safetensors.torch import load_file, save_file

    path = saved("vit", ["cat", "dog", "cow"]) + "/model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if "layer.0" in key or "layers.0" in key)]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TaskError, match="lacks weights of ViTForImageClassification"):
        load_pretrained(path.rpartition("/")[0], ["a", "b"])


def test_nothing_to_load(tmp_path):
    with pytest.raises(TaskError, match="cannot load an image classifier from"):
        load_model(tmp_path)


def test_a_converted_model_keeps_its_classes(trained, tmp_path, saved):
    config = small_config(tmp_path / "run", train={"max_steps": 2, "eval_steps": 2}, plan=PLAN)
    run = train(config, quiet=True)
    with pytest.raises(TaskError, match="converted already and knows other classes"):
        load_pretrained(str(run.folder / "model"), ["a", "b"])
    assert load_pretrained(str(run.folder / "model"), list("0123456789"))[2]
