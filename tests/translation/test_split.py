"""The split: no template on two sides, the same cut in every process."""

import os
import subprocess
import sys

import pytest

from tasks.errors import TaskError
from tasks.translation.pairs import Pair
from tasks.translation.split import cut, position, share, template

FAMILIES = [
    "cannot open file",
    "unknown option",
    "missing value for",
    "too many arguments near",
    "wrong type in",
]


def corpus():
    names = [
        '"a.txt"',
        "'b'",
        "%s",
        "--verbose",
        "$HOME",
        "/usr/lib/x.so",
        "{name}",
        "<b>",
        "17",
        "http://x.org/y",
    ]
    return [Pair(f"{start} {name} {word}", "x") for start in FAMILIES for word in "abcdefghijk" for name in names]


def test_no_template_is_shared_and_held_out_parts_have_each_once():
    parts = cut(corpus(), (10, 10))
    seen = [{template(pair.source) for pair in part} for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert [len(part) for part in parts[1:]] == [10, 10]
    assert len(seen[1]) == len(seen[2]) == 10
    assert len(parts[0]) == 10 * (55 - 20)


@pytest.mark.parametrize(
    "variants",
    [
        (
            'open "a"',
            "open 'b c'",
            "open »x«",
            "Open “long name”",
            "open %s",
            "open %(name)s",
            "open {0}",
            "open ${x}",
        ),
        ("use --color=auto", "use -v", "use --x", "Use $PATH"),
        ("in /etc/passwd at 12", "in ~/x at 99", "in ./a/b at 0", "In C:\\x at 3"),
        ("run main() on a.txt", "run other_thing on b.cfg"),
        ("<b>Name</b> of FILE", "<i>name</i> of SIZE"),
    ],
)
def test_one_template(variants):
    assert len({template(text) for text in variants}) == 1


def test_different_sentences_have_different_templates():
    assert template("open the file") != template("close the file")
    assert template("12 34") == "12 34"  # no word: the sentence itself


def test_the_order_of_the_corpus_does_not_decide():
    forward, backward = cut(corpus(), (10, 10)), cut(reversed(corpus()), (10, 10))
    for a, b in zip(forward[1:], backward[1:], strict=True):
        assert {template(p.source) for p in a} == {template(p.source) for p in b}


def test_the_hash_is_the_same_in_another_process():
    code = "from tasks.translation.split import position; print(position('open file'))"
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) == position("open file")


def test_too_few_templates():
    with pytest.raises(TaskError, match="only 1 distinct sentence patterns"):
        cut([Pair(f"error {i}", "x") for i in range(50)], (5, 5))


@pytest.mark.parametrize(("total", "expected"), [(3, 1), (1000, 50), (1_000_000, 500)])
def test_share(total, expected):
    assert share(total, 0.05, 500) == expected
    assert share(total, 0.0, 500) == 0
