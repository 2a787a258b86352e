"""The page of a run: it stands alone and shows what was measured."""

import re

import matplotlib.pyplot as plt
import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification
from vision.toy import MODELS

from shiftadd_transformers import hf
from tasks.drawing import plan_cells
from tasks.image_classification.evaluate import evaluate_run
from tasks.image_classification.model import load_model
from tasks.image_classification.pictures import attention_sheet, choose_samples, patch_grid


def test_the_page_stands_alone_and_shows_the_scores(trained):
    scores = evaluate_run(trained.folder, progress=False)
    page = (trained.folder / "report.html").read_text()
    assert f"{scores.top1:.2%}" in page
    assert "hardest classes" in page
    assert page.count("<svg") >= 3
    assert not re.search(r'(?:src|href)="(?!#|http://www.w3.org|data:image)', page)


def test_the_surest_mistakes_come_first():
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.99, 0.01], [0.6, 0.4]])
    assert choose_samples(shares, [0, 0, 0, 1, 0], count=4) == [3, 1, 0, 4]


def test_where_layers_stand(trained):
    cells = plan_cells(trained.model)
    assert {cell["row"] for cell in cells} == {"layers 0", "layers 1"}
    assert {cell["column"] for cell in cells} >= {"attention.q_proj", "mlp.fc2"}
    assert {cell["kind"] for cell in cells} == {"dense"}
    _, _, sizes = MODELS["swin"]
    swin = plan_cells(SwinForImageClassification(SwinConfig(**sizes)))
    assert {cell["row"] for cell in swin} >= {"encoder layers 0 blocks 0", "encoder layers 1 blocks 0"}


def test_attention_becomes_a_picture_of_the_patches():
    weights = torch.zeros(2, 3, 17, 17)
    weights[:, :, 0, 6] = 1.0  # the class token looks at patch 5
    grid = patch_grid(weights, images=2)
    assert grid.shape == (2, 4, 4)
    assert grid[0].flatten().argmax() == 5
    assert patch_grid(torch.ones(2, 3, 18, 18), images=2).shape == (2, 4, 4)  # DeiT's second token
    assert patch_grid(torch.ones(8, 3, 16, 16), images=2) is None  # windows of Swin
    assert patch_grid(torch.ones(2, 3, 8, 8), images=2) is None


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_drawn_where_it_has_a_grid(name, trained):
    model_class, config_class, sizes = MODELS[name]
    figure = attention_sheet(model_class(config_class(**sizes)), trained.processor, trained.corpus.test, [0, 1])
    # Swin looks inside windows; in its last block here, one window is the whole image.
    assert len(figure.axes) == 2 * (1 + (1 if name == "swin" else 2))
    plt.close(figure)


def test_attention_of_a_converted_model_is_drawn(trained):
    model, processor = load_model(trained.folder / "model")
    hf.pack_(hf.convert_(model, [{"role": "attn.*", "op": "shift"}]))
    figure = attention_sheet(model, processor, trained.corpus.test, [0])
    assert len(figure.axes) == 3
    plt.close(figure)
