"""Where does parallel text come from without catalogs?  From CLDR, the locale data that Babel carries.

Names of languages, countries, scripts, currencies and units, and phrases composed from them: dates, times,
amounts, lists.  The composed phrases are drawn with a fixed seed, so the corpus is the same everywhere.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import TaskError, nearest
from tasks.translation.pairs import Pair, Report

# Babel's names are <kind>-<unit>.
_UNITS_BY_KIND = {
    "length": ("kilometer", "meter", "centimeter", "mile", "foot", "inch"),
    "mass": ("kilogram", "gram", "pound"),
    "volume": ("liter", "gallon"),
    "duration": ("year", "month", "week", "day", "hour", "minute", "second"),
    "speed": ("kilometer-per-hour", "meter-per-second"),
    "temperature": ("celsius", "fahrenheit"),
    "energy": ("kilowatt-hour", "calorie"),
    "power": ("watt",),
    "area": ("hectare", "square-meter"),
    "digital": ("megabyte", "gigabyte", "bit"),
    "angle": ("degree",),
    "pressure": ("hectopascal",),
    "frequency": ("hertz",),
}
_UNITS = [f"{kind}-{unit}" for kind, units in _UNITS_BY_KIND.items() for unit in units]


COMPOSED = 24_000  # phrases, besides the plain names


def compose(
    language: str, source_language: str = "en", count: int | None = None, seed: int = 0
) -> tuple[list[Pair], Report]:
    """Names and composed phrases in both languages.

    Args:
        language: target, a code that Babel knows (`de`, `pt_BR`).
        source_language: the same for the source.
        count: composed phrases; None means `COMPOSED`.
        seed: of the draw.

    Returns:
        Raw pairs and a report.

    Raises:
        TaskError: a language without CLDR data.
    """
    locales = (_locale(source_language), _locale(language))
    pairs = [*_names(locales)]
    draw = random.Random(seed)
    shared = {
        table: sorted(set(getattr(locales[0], table)) & set(getattr(locales[1], table)))
        for table in ("territories", "languages", "currencies")
    }
    makers: list[Callable[[Any, dict[str, Any]], str]] = [
        _date,
        _moment,
        _delta,
        _amount,
        _price,
        _list,
        _tongues,
    ]
    for _ in range(COMPOSED if count is None else count):
        make, choice = draw.choice(makers), _choice(draw, shared)
        pairs.append(Pair(make(locales[0], choice), make(locales[1], choice)))
    return pairs, Report(origin=f"CLDR phrases {source_language}-{language}", read=len(pairs))


def _locale(language: str) -> Any:
    import babel
    from babel.localedata import locale_identifiers

    try:
        return babel.Locale.parse(language)
    except (ValueError, babel.UnknownLocaleError) as error:
        known = sorted(locale_identifiers())
        hint = nearest(language, known)
        if "did you mean" not in hint:
            hint = "; known: " + ", ".join(name for name in known if len(name) == 2)
        raise TaskError(f"CLDR has no data for language {language!r}{hint}") from error


def _names(locales: tuple[Any, Any]) -> Iterator[Pair]:
    for table in ("languages", "territories", "scripts", "currencies"):
        source, target = (getattr(locale, table) for locale in locales)
        yield from (Pair(source[key], target[key]) for key in sorted(source) if key in target)
    for width in ("months", "days"):
        source, target = (getattr(locale, width)["format"]["wide"] for locale in locales)
        yield from (Pair(source[key], target[key]) for key in sorted(source) if key in target)


def _choice(draw: random.Random, shared: dict[str, list[str]]) -> dict[str, Any]:
    """One draw of everything a phrase may need, the same for both languages."""
    moment = datetime.datetime(1950, 1, 1) + datetime.timedelta(minutes=draw.randrange(60_000_000))
    return {
        "moment": moment,
        "format": draw.choice(["full", "long", "medium"]),
        "skeleton": draw.choice(["yMMMMd", "MMMMEEEEd", "yMMMM", "yMMMEd", "Hm", "MMMMd"]),
        "delta": datetime.timedelta(seconds=draw.choice([-1, 1]) * draw.randrange(1, 60) * draw.choice(_SECONDS)),
        "number": draw.choice([1, 2, 3, 5, draw.randrange(100), draw.randrange(10_000), round(draw.uniform(0, 99), 1)]),
        "unit": draw.choice(_UNITS),
        "currency": draw.choice(shared["currencies"]),
        "territories": draw.sample(shared["territories"], draw.randrange(2, 5)),
        "languages": draw.sample(shared["languages"], draw.randrange(2, 4)),
        "style": draw.choice(["standard", "or"]),
    }


_SECONDS = (1, 60, 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)


def _date(locale: Any, choice: dict[str, Any]) -> str:
    from babel.dates import format_date

    return format_date(choice["moment"], choice["format"], locale=locale)


def _moment(locale: Any, choice: dict[str, Any]) -> str:
    from babel.dates import format_skeleton

    return format_skeleton(choice["skeleton"], choice["moment"], locale=locale)


def _delta(locale: Any, choice: dict[str, Any]) -> str:
    from babel.dates import format_timedelta

    return format_timedelta(choice["delta"], add_direction=True, threshold=1.2, locale=locale)


def _amount(locale: Any, choice: dict[str, Any]) -> str:
    from babel.units import format_unit

    return format_unit(choice["number"], choice["unit"], length="long", locale=locale)


def _price(locale: Any, choice: dict[str, Any]) -> str:
    from babel.numbers import format_currency

    return format_currency(choice["number"], choice["currency"], format_type="name", locale=locale)


def _list(locale: Any, choice: dict[str, Any]) -> str:
    from babel.lists import format_list

    return format_list([locale.territories[key] for key in choice["territories"]], choice["style"], locale=locale)


def _tongues(locale: Any, choice: dict[str, Any]) -> str:
    """Languages of a country and a time: a longer phrase, built in one order for every language."""
    from babel.lists import format_list

    spoken = format_list([locale.languages[key] for key in choice["languages"]], choice["style"], locale=locale)
    return f"{locale.territories[choice['territories'][0]]}: {spoken} ({_delta(locale, choice)})"
