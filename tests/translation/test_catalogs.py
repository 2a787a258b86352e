"""Reading binary message catalogs: every entry is used or counted."""

import pytest
from translation.toy import mo_bytes

from tasks.errors import TaskError
from tasks.translation.catalogs import harvest, languages, parse_mo
from tasks.translation.pairs import Pair


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order):
    messages = list(parse_mo(mo_bytes({"File": "Datei"}, order=order)))
    assert [m.kind for m in messages] == ["header", "plain"]
    assert messages[1][:2] == ("File", "Datei")


def test_a_declared_charset_is_used():
    messages = list(parse_mo(mo_bytes({"size": "Größe"}, charset="iso-8859-1")))
    assert messages[1].translation == "Größe"


def test_kinds_are_counted(locale_dir):
    entries = {
        "menu\x04Open": "Öffnen",
        "%d file\x00%d files": "%d Datei\x00%d Dateien",
        "Close": "Schließen",
    }
    pairs, report = harvest("de", folders=[locale_dir("de", "a", entries)])
    assert pairs == [Pair("Close", "Schließen")]
    assert report.read == 4
    assert report.dropped == {"header": 1, "with context": 1, "plural": 1}


def test_a_wrong_charset_loses_only_the_broken_message(locale_dir):
    entries = {"size": "Größe".encode("latin-1"), "file": "Datei"}
    pairs, report = harvest("de", folders=[locale_dir("de", "a", entries, declared="utf-8")])
    assert pairs == [Pair("file", "Datei")]
    assert report.dropped["undecodable"] == 1


@pytest.mark.parametrize("data", [b"", b"not a catalog at all....", mo_bytes({"a b": "c d"})[:-12]])
def test_a_damaged_catalog_is_reported(locale_dir, data):
    locale_dir("de", "bad", data)
    pairs, report = harvest("de", folders=[locale_dir("de", "good", {"file": "Datei"})])
    assert pairs == [Pair("file", "Datei")]
    assert report.dropped["in unreadable catalogs (files)"] == 1
    assert "bad.mo" in report.notes[0]


def test_a_variant_only_fills_in(locale_dir):
    locale_dir("de", "a", {"Street": "Straße"})
    locale_dir("de_CH", "a", {"Street": "Strasse"})
    root = locale_dir("de_CH", "b", {"Size": "Grösse"})
    assert harvest("de", folders=[root])[0] == [Pair("Street", "Straße"), Pair("Size", "Grösse")]
    assert harvest("de_CH", folders=[root])[0] == [Pair("Street", "Strasse"), Pair("Size", "Grösse")]


def test_without_the_plain_language_only_the_largest_variant(locale_dir):
    locale_dir("zh_CN", "a", {"File": "文件"})
    locale_dir("zh_CN", "b", {"Edit": "编辑"})
    root = locale_dir("zh_TW", "c", {"File": "檔案"})
    assert {pair.target for pair in harvest("zh", folders=[root])[0]} == {"文件", "编辑"}


def test_two_languages_meet_through_english(locale_dir):
    locale_dir("fr", "a", {"File": "Fichier", "Edit": "Éditer"})
    root = locale_dir("de", "a", {"File": "Datei", "View": "Ansicht"})
    pairs, report = harvest("de", "fr", [root])
    assert pairs == [Pair("Fichier", "Datei")]
    assert report.dropped["without counterpart"] == 1


def test_an_unknown_language_lists_what_is_there(locale_dir):
    locale_dir("fr", "a", {"File": "Fichier"})
    root = locale_dir("fr", "b", {"File": "Fichier"})
    with pytest.raises(TaskError, match=r"no message catalogs for language 'xx'(.|\n)*fr \(2\)(.|\n)*cldr:xx"):
        harvest("xx", folders=[root])
    assert languages([root]) == {"fr": 2}


def test_the_same_language_twice(locale_dir):
    with pytest.raises(TaskError, match="both 'de'"):
        harvest("de", "de", [locale_dir("de", "a", {"File": "Datei"})])


def test_lists_of_names_are_not_text(locale_dir):
    root = locale_dir("de", "iso_639-3", {"Danish": "Dänisch"})
    locale_dir("de", "iso_639_3", {"Danish": "Dänisch"})
    locale_dir("de", "shell", {"File": "Datei"})
    pairs, report = harvest("de", folders=[root])
    assert pairs == [Pair("File", "Datei")]
    assert report.dropped["in ISO name lists"] >= 1
