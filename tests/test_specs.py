"""Specs are values: they check their fields, compare, hash and travel through JSON."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from shiftadd_transformers.specs import (
    SPECS,
    AdderSpec,
    BcqSpec,
    DenseSpec,
    MixtureSpec,
    ShiftAddSpec,
    ShiftSpec,
    as_spec,
    nearest,
    spec_from_dict,
)

VALUES = [
    DenseSpec(),
    ShiftSpec(),
    ShiftSpec(bits=5, terms=2, group_size=32, activation_bits=8),
    ShiftSpec(bits=3, zero=False),
    ShiftSpec(parametrization="denseshift"),
    AdderSpec(bits=None, center=False, eta=0.1),
    AdderSpec(norm=True),
    ShiftAddSpec(bits=3),
    MixtureSpec(bits=5, terms=2, dense_latency=1.5, balance=0),
    BcqSpec(planes=2, grouping="block", group_size=16, scale_terms=1),
    BcqSpec(grouping="column", activation_bits=8),
]


@pytest.mark.parametrize("spec", VALUES, ids=str)
def test_json_round_trip(spec):
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("spec", VALUES, ids=str)
def test_is_a_value(spec):
    for twin in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert twin == spec
        assert hash(twin) == hash(spec)


def test_json_holds_only_what_differs_from_the_defaults():
    assert ShiftSpec(bits=3).to_dict() == {"kind": "shift", "bits": 3}
    assert [cls().to_dict() for cls in SPECS.values()] == [{"kind": kind} for kind in SPECS]


def test_reads_well():
    assert str(ShiftSpec(bits=3, group_size=32)) == "shift(bits=3, group_size=32)"
    assert str(AdderSpec()) == "adder"


def test_as_spec_takes_a_spec_its_json_or_a_name():
    assert as_spec("bcq") == as_spec({"kind": "bcq"}) == as_spec(BcqSpec()) == BcqSpec()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"kind": "shfit"}, "unknown operator 'shfit'; nearest: 'shift'"),
        ({}, "unknown operator None"),
        ({"kind": "shift", "bit": 3}, "no field 'bit'; nearest: 'bits'"),
        ({"kind": "bcq", "plane": 3}, "no field 'plane'; nearest: 'planes'"),
        ({"kind": "dense", "bits": 4}, "'dense' has no field 'bits'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(data, said):
    with pytest.raises(ValueError, match=said) as caught:
        spec_from_dict(data)
    assert not str(caught.value).endswith(": ")


@pytest.mark.parametrize(
    ("cls", "fields", "said"),
    [
        (ShiftSpec, {"bits": 1}, "bits must be an integer from 2 to 5, not 1"),
        (ShiftSpec, {"bits": 6}, "bits"),
        (ShiftSpec, {"bits": 4.0}, "bits"),
        (ShiftSpec, {"bits": True}, "bits"),
        (ShiftSpec, {"terms": 0}, "terms"),
        (ShiftSpec, {"bits": 2, "terms": 2}, "bits=2 terms=2"),
        (ShiftSpec, {"bits": 3, "terms": 3}, "bits=3 terms=3"),
        (ShiftSpec, {"terms": 2, "zero": False}, "zero"),
        (ShiftSpec, {"zero": 1}, "zero"),
        (ShiftSpec, {"group_size": 0}, "group_size"),
        (ShiftSpec, {"parametrization": "s"}, "'q', 'ps', 'denseshift'"),
        (ShiftSpec, {"parametrization": "ps", "terms": 2}, "one term"),
        (ShiftSpec, {"parametrization": "denseshift", "zero": True}, "no zero level"),
        (ShiftSpec, {"parametrization": "ps", "zero": False}, "ternary"),
        (ShiftSpec, {"activation_bits": 4}, "activation_bits must be one of None, 8"),
        (AdderSpec, {"bits": 4}, "adder: bits must be one of None, 8"),
        (AdderSpec, {"eta": 0.0}, "eta must be positive"),
        (AdderSpec, {"eta": "fast"}, "eta must be positive"),
        (AdderSpec, {"center": "no"}, "center"),
        (ShiftAddSpec, {"bits": 8}, "bits"),
        (ShiftAddSpec, {"eta": -1}, "eta"),
        (BcqSpec, {"planes": 5}, "planes"),
        (BcqSpec, {"grouping": "rows"}, "'row', 'column', 'block'"),
        (BcqSpec, {"group_size": -8}, "group_size"),
        (BcqSpec, {"scale_terms": 4}, "scale_terms"),
        (BcqSpec, {"grouping": "column", "activation_bits": 4}, "activation_bits must be one of None, 8"),
        (BcqSpec, {"activation_bits": 8}, "not 'row' groups of the default size; set grouping='column'"),
        (BcqSpec, {"grouping": "column", "group_size": 16, "activation_bits": 8}, "leave group_size unset"),
    ],
)
def test_impossible_fields_are_refused(cls, fields, said):
    with pytest.raises(ValueError, match=said):
        cls(**fields)


def test_every_format_of_the_operators_is_reachable():
    formats = [(2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (4, 2), (5, 2), (4, 3), (5, 3)]
    assert [len(ShiftSpec(bits, terms).format.magnitudes) for bits, terms in formats] == [
        2 ** (bits - 1) for bits, _ in formats
    ]


@pytest.mark.parametrize(("parametrization", "zero"), [("q", True), ("ps", True), ("denseshift", False)])
def test_zero_follows_the_parametrization(parametrization, zero):
    assert ShiftSpec(parametrization=parametrization).format.zero is zero
    assert ShiftSpec(zero=False).format.zero is False


def test_nearest_falls_back_to_what_there_is():
    assert nearest("zzz", ["b", "a"]) == "nearest: 'a', 'b'"
    assert nearest("zzz", []) != "nearest: "
