"""The page of a search: it stands alone, says what was found and no more, and bears what was not measured."""

import copy
import html
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from nas import toys

from search import Objective, evolve
from shiftadd_transformers import MixerSpec, Plan
from tasks.plan_maps import map_cells, spec_labels
from tasks.search import charts, report

VOID = {"meta", "br", "hr", "img"}
HEADINGS = ["Retrained", "What the scores are worth", "Covered volume", "Supernet"]


def loss(plan):
    """Each change makes it worse, later ones more."""
    return 2 + sum(0.01 * (number + 1) for number, e in enumerate(plan.entries.values()) if e.spec.changes)


def energy(plan):
    return 1e6 - sum(1e4 * (number % 5 + 1) for number, e in enumerate(plan.entries.values()) if e.spec.changes)


def kept(plan):
    return float(len(plan.entries) - len(plan.converted))


def reported(*costs, evaluations=16):
    """What a search's dictionary holds, without anything that needs a supernet."""
    space, goals = toys.entangled(), [Objective("validation loss", loss), *costs]
    found = evolve(space, goals, evaluations=evaluations, population=8, seed=0)
    plans = {name: space.to_plan(candidate) for name, candidate in space.reference_points().items()}
    return {
        "title": "a toy",
        "task": "translation",
        "space": {
            "count": space.count(),
            "decisions": len(space.decisions),
            "table": [[d.name, ", ".join(d.labels)] for d in space.decisions],
        },
        "objectives": [goal.to_dict() for goal in goals],
        "points": [point.to_dict() for point in found.points],
        "front": [found.points.index(point) for point in found.front.points],
        "references": [
            {"name": name, "scores": {goal.name: goal.measure(plan) for goal in goals}, "plan": plan.to_dict()}
            for name, plan in plans.items()
        ],
        "hypervolume": {"reference": {}, "search": [], "random": None},
        "trust": None,
        "retrained": [],
        "supernet": None,
        "settings": {"sampler": "nsga2"},
    }


@pytest.fixture(scope="module")
def plain():
    return reported(Objective("energy", energy, unit="pJ"))


@pytest.fixture(scope="module")
def full(plain):
    """The same with a supernet, retraining and a comparison with chance."""
    row = {"quality": {"BLEU": 29.0}, "stored_bytes": 3_520_000, "minutes": 3.5, "steps": 1200, "seed": 0}
    return plain | {
        "hypervolume": {
            "reference": {"validation loss": 4.0, "energy": 1.2e6},
            "search": [0.0, 2.0, 4.0],
            "random": [[0.0, 1.0, 3.0], [0.0, 0.0, 2.0]],
        },
        "trust": {
            "tau": 0.3333,
            "p": 0.4667,
            "score": "validation loss",
            "plans": [{"name": f"plan {i}", "supernet": 3.0 + i, "retrained": 2.0 + i % 2} for i in range(4)],
            "warning": "four plans are too few",
            "sharing": "heterogeneous",
        },
        "retrained": [
            row | {"name": "dense", "energy_pj": 8e8},
            row | {"name": "front #0", "energy_pj": 4e8, "quality": {"BLEU": 28.5}},
        ],
        "supernet": {
            "parameters": 9_000_000,
            "dense_parameters": 7_500_000,
            "sharing": "heterogeneous",
            "steps": 3000,
            "minutes": 6.5,
            "validation_loss": 3.25,
        },
    }


class Tags(HTMLParser):
    """Refuses tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, but not drawn: quick, for what is said in words."""

    def frame(figure, caption=""):
        plt.close(figure)
        return f"<figure><svg></svg>{html.escape(caption)}</figure>"

    monkeypatch.setattr(report, "picture", frame)


def read(found):
    """The page, checked for form, and the words on it."""
    whole = report.render(found)
    parser = Tags()
    parser.feed(whole)
    parser.close()
    assert parser.open == []
    assert not re.search(r'(?:src|href)="(?!#|http://www.w3.org|data:image)', whole)
    return whole, " ".join(" ".join(parser.text).split())


@pytest.mark.usefixtures("undrawn")
def test_a_page_names_every_plan_of_the_front(plain):
    whole, words = read(plain)
    assert 1 < len(plain["front"]) < len(plain["points"])
    for number, index in enumerate(plain["front"]):
        assert f"<td>#{number}</td>" in whole
        assert f"{plain['points'][index]['scores']['validation loss']:.3f}" in words
        assert Plan.from_dict(plain["points"][index]["plan"]).summary() in words
    assert f"<td>#{len(plain['front'])}</td>" not in whole
    assert f"Of <b>{plain['space']['count']:,}</b> possible plans, <b>{len(plain['points'])}</b> were" in whole
    assert "nsga2" in words


@pytest.mark.usefixtures("undrawn")
def test_what_is_none_is_left_out(plain, full):
    whole, _ = read(plain)
    assert whole.count("<svg") == 2
    assert not [heading for heading in HEADINGS if f"<h2>{heading}</h2>" in whole]
    whole, words = read(full)
    assert whole.count("<svg") == 4
    assert [heading for heading in HEADINGS if f"<h2>{heading}</h2>" in whole] == HEADINGS
    assert "<p class='warning'>four plans are too few</p>" in whole
    assert "τ = <b>0.3333</b> (p = 0.4667)" in whole
    assert "cover 50.0% to 75.0% of it" in words
    assert "1.20× dense" in words
    assert "<td>400 uJ</td><td>50%</td><td>3.52 MB</td>" in whole
    alone = full | {"hypervolume": full["hypervolume"] | {"random": None}}
    assert "at random" not in read(alone)[1]


@pytest.mark.usefixtures("undrawn")
def test_gains_are_those_of_plans_that_score_as_well(plain, monkeypatch):
    monkeypatch.setattr(report, "plan_figure", lambda _: None)
    front = [plain["points"][index]["scores"] for index in plain["front"]]
    dense = {"name": "dense", "plan": plain["points"][0]["plan"]}

    def beside(loss, energy):
        scores = {"validation loss": loss, "energy": energy}
        return read(plain | {"references": [dense | {"scores": scores}]})[1]

    assert "No plan on the front that improves energy scores as well as the dense model" in beside(1.0, 2e6)
    assert "No plan on the front improves energy" in beside(1.0, 1.0)
    middle = front[len(front) // 2]
    words = beside(middle["validation loss"], 2 * middle["energy"])
    assert f"score as well as the dense model, #{front.index(middle)} improves energy most" in words
    assert "(−50% against dense)" in words
    assert "dense model" not in read(plain | {"references": []})[1]


def test_a_drawn_page_is_well_formed_and_text_in_it_is_escaped(full):
    evil = "<script>$a_$ & 'b'</script>"
    found = copy.deepcopy(full)
    found["title"] = found["trust"]["warning"] = found["trust"]["sharing"] = evil
    found["trust"]["plans"][0]["name"] = found["trust"]["score"] = evil
    found["retrained"][0]["name"] = found["references"][0]["name"] = evil
    found["settings"] = {evil: evil}
    found["space"]["table"] = [[evil, evil]]
    found["objectives"][1]["name"] = evil
    for scored in [*found["points"], *found["references"]]:
        scored["scores"][evil] = scored["scores"].pop("energy")
    whole, words = read(found)
    assert "<script" not in whole
    assert words.count(evil) > 10
    assert "#0" in re.findall(r"<text[^>]*>([^<]*)</text>", whole)


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
def test_three_objectives(direction):
    sign = 1 if direction == "minimise" else -1
    third = Objective("third", lambda plan: sign * kept(plan), direction)
    found = reported(Objective("energy", energy, unit="pJ", budget=0.95e6), third)
    unscored = [point["scores"]["energy"] for point in found["points"] if point["scores"]["validation loss"] is None]
    figure = charts.front_figure(found)
    first, second = figure.axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("energy", "third")
    lines = {line.get_label(): list(line.get_xdata()) for line in first.get_lines()}
    assert lines["budget"] == [0.95e6, 0.95e6]
    assert unscored
    assert lines["beyond a budget, not scored"] == unscored
    assert "budget" not in [line.get_label() for line in second.get_lines()]
    staircase = second.get_lines()[0]
    ends = staircase.get_xdata()
    assert (ends[0] < ends[-1]) == (direction == "minimise")
    assert (staircase.get_ydata()[1:] < staircase.get_ydata()[:-1]).all()
    named = {words.get_text() for words in first.texts}
    assert {"#0", *(reference["name"] for reference in found["references"])} <= named
    plt.close(figure)


@pytest.mark.usefixtures("undrawn")
def test_one_point(plain):
    whole, _ = read(plain | {"points": plain["points"][:1], "front": [0]})
    assert "<b>1</b> was evaluated" in whole
    assert "<td>#0</td>" in whole


@pytest.mark.usefixtures("undrawn")
def test_one_objective():
    whole, words = read(reported())
    assert "<h2>Fronts</h2>" not in whole
    assert "evaluated for validation loss" in words


@pytest.mark.usefixtures("undrawn")
def test_nothing_within_the_budgets():
    found = reported(Objective("energy", energy, unit="pJ", budget=10.0), evaluations=8)
    assert found["front"] == []
    whole, words = read(found)
    assert "No evaluated plan is within the budgets" in words
    closest = min(point["scores"]["energy"] for point in found["points"])
    assert f"validation loss not measured, energy {charts.shown(closest, 'pJ')} (budget 10 pJ)" in words
    assert "<h2>Plans on the front</h2>" not in whole
    assert "No plan was evaluated" in read(found | {"points": []})[1]


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_a_file(plain, tmp_path):
    path = report.write(plain, tmp_path / "runs" / "report.html")
    assert path.read_text() == report.render(plain)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_maps_tell_cores_that_stay_and_projections_that_are_left_out():
    space = toys.entangled()
    dense, mixed = (space.to_plan(space.uniform(kind)) for kind in ("dense", "mixer"))
    labels = spec_labels([dense, mixed])
    cells = {(cell["row"], cell["column"]): cell["kind"] for cell in map_cells(dense, [mixed], labels)}
    assert cells["encoder 0", "core"] == "softmax"
    assert cells["decoder 1", "cross q"] == "dense"
    assert ("encoder 0", "cross q") not in cells
    cells = {(cell["row"], cell["column"]): cell["kind"] for cell in map_cells(mixed, [], labels)}
    kinds = {cells["encoder 0", part] for part in ("q", "k")}
    assert (cells["encoder 0", "core"], kinds, cells["encoder 0", "v"]) == ("mixer conv", {"left out"}, "dense")


def test_operators_that_differ_in_settings_are_told_apart():
    specs = [MixerSpec(kernel_size=3), MixerSpec(kernel_size=5), MixerSpec("add")]
    entry = next(iter(toys.entangled().to_plan(toys.entangled().uniform("mixer")).entries.values()))
    plan = Plan({f"layers.{i}.self_attn": type(entry)(spec, "attn.self", (4, 8)) for i, spec in enumerate(specs)})
    labels = spec_labels([plan])
    assert [labels[spec] for spec in specs] == ["mixer(kernel_size=3)", "mixer(kernel_size=5)", "mixer add"]


def test_plans_are_spread_over_the_front():
    assert charts.spread(30, 6) == [0, 6, 12, 17, 23, 29]
    assert charts.spread(6, 6) == [0, 1, 2, 3, 4, 5]
