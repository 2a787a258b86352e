"""Cleaning: what is kept, what is dropped, and under which reason."""

import pytest

from tasks.translation.clean import clean_pairs, normalise, placeholders, split_lines, strip_mnemonic
from tasks.translation.pairs import Pair, Report


def cleaned(*pairs, strict=True, languages=("en", "de"), **kwargs):
    report = Report("test")
    kept = clean_pairs([Pair(*pair) for pair in pairs], report, strict=strict, languages=languages, **kwargs)
    return kept, {reason: count for reason, count in report.dropped.items() if count}


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("Open", ""), "empty side"),
        (("%s: %d\n", "%s: %d\n"), "markup or symbols only"),
        (("<b>%s</b>", "<i>%s</i>"), "markup or symbols only"),
        (("Linux kernel", "Linux kernel"), "untranslated"),
        (("Linux kernel", "linux KERNEL."), "untranslated"),
        (("one two three four five", "one two three four sechs"), "untranslated"),
        (("file %s not found", "Datei nicht gefunden"), "placeholders differ"),
        (("Hello world", "Привет мир"), "wrong script"),
        (("no", "Das ist eine sehr lange Übersetzung eines kurzen Wortes"), "length ratio"),
        (("a" * 400, "b " * 10), "too long"),
    ],
)
def test_dropped(pair, reason):
    kept, dropped = cleaned(pair)
    assert kept == []
    assert dropped == {reason: 1}


def test_light_cleaning_keeps_what_a_user_gave():
    kept, dropped = cleaned(("Linux", "Linux"), (" a  b ", "x"), ("", "y"), strict=False)
    assert kept == [Pair("Linux", "Linux"), Pair("a b", "x")]
    assert dropped == {"empty side": 1}


def test_duplicates_keep_the_first():
    kept, dropped = cleaned(("File", "Datei"), ("File", "Datei"), ("File", "Akte"))
    assert kept == [Pair("File", "Datei")]
    assert dropped == {"duplicate": 2}


@pytest.mark.parametrize(
    ("language", "text", "good"),
    [
        ("ru", "Файл не найден", True),
        ("ru", "File missing sir", False),
        ("ja", "ファイルを開く", True),
        ("zh_TW", "開啟檔案", True),
        ("el", "Άνοιγμα αρχείου", True),
        ("sr@latin", "Otvori datoteku", True),
        ("sr", "Отвори датотеку", True),
    ],
)
def test_scripts(language, text, good):
    assert bool(cleaned(("Open the file", text), languages=("en", language))[0]) is good


def test_whitespace_and_control_characters():
    assert normalise("a\u00a0b\t\n c\u200b\x07d") == "a b c d"
    assert normalise("u\u0308ber") == "über"


def test_corresponding_lines_are_split_and_wrapped_ones_joined():
    assert list(split_lines(Pair("One\n\nTwo", "Eins\nZwei"))) == [Pair("One", "Eins"), Pair("Two", "Zwei")]
    wrapped = Pair("This goes\non here", "Das geht\nhier weiter")
    assert list(split_lines(wrapped)) == [wrapped]
    uneven = Pair("One\nTwo", "Eins")
    assert list(split_lines(uneven)) == [uneven]
    assert cleaned(tuple(wrapped))[0] == [Pair("This goes on here", "Das geht hier weiter")]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("_File", "File"),
        ("Save _As...", "Save As..."),
        ("E_xit", "Exit"),
        ("&Open", "Open"),
        ("開く(_O)", "開く"),
        ("max_length", "max_length"),
        ("Tom &amp; Co", "Tom &amp; Co"),
        ("R & D", "R & D"),
        ("use _a and _b", "use _a and _b"),
        ("--with_x", "--with_x"),
    ],
)
def test_mnemonics(text, plain):
    assert strip_mnemonic(text) == plain


def test_placeholders_are_compared_without_order():
    assert placeholders("%s has %d") == placeholders("%2$d von %1$s")
    assert placeholders("100%% {name}") == placeholders("{name} 100%%")
    assert placeholders("%s") != placeholders("%d")
