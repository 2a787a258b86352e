"""The latency table: what is read back, what is interpolated, what is refused."""

import json

import pytest

from shiftadd_transformers import AdderSpec, BcqSpec, ShiftSpec
from shiftadd_transformers.cost.latency import LatencyTable

SHIFT = ShiftSpec(activation_bits=8)


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
