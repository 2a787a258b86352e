"""Numbers that are reported: accuracy, intervals, tables per class."""

import pytest
import torch
from scipy import stats

from tasks.errors import TaskError
from tasks.image_classification.scores import per_class, score
from tasks.statistics import t_interval, wilson


def test_accuracy_and_top_five():
    shares = torch.eye(8) * 0.9 + torch.linspace(0.1, 0, 8)
    labels = [0, 1, 2, 3, 0, 7, 6, 0]
    scores = score(shares, labels)
    assert scores.top1 == 5 / 8
    # Row i prefers class i, then the classes in order: the fifth likeliest is class 3 or 4.
    assert scores.top5 == 1.0 - sum(label > 3 and label != row for row, label in enumerate(labels)) / 8
    assert score(shares[:5, :5], labels[:5]).top5 is None
    with pytest.raises(TaskError, match="no images to score"):
        score(shares[:0], [])


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (7, 10), (352, 359)])
def test_wilson_equals_scipy(hits, trials):
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_equals_scipy():
    values = [0.97, 0.98, 0.965, 0.99, 0.975]
    mean, half = t_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=mean, scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-12)
    assert t_interval([0.5]) == (0.5, None)


def test_classes_and_what_they_are_taken_for():
    shares = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2, 0]), 4).float()
    rows = per_class(shares, [0, 1, 1, 1, 2], ["a", "b", "c", "d"])
    assert rows[1] == {"class": "b", "images": 3, "precision": 1.0, "recall": 1 / 3, "taken_for": {"a": 1, "c": 1}}
    assert rows[0]["precision"] == pytest.approx(1 / 3)
    assert rows[3] == {"class": "d", "images": 0, "precision": None, "recall": None, "taken_for": {}}
