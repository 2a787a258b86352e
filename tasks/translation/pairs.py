"""What is a sentence pair, and what is known about a corpus?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """One sentence and its translation."""

    source: str
    target: str


@dataclass
class Report:
    """What was read, kept and dropped, and why; nothing is skipped without being counted here.

    Args:
        origin: where the text came from, in words.
        read: raw entries seen.
        kept: pairs that survived.
        dropped: number of pairs per reason.
        notes: anything else worth telling (unreadable files, a fallback that was taken).
    """

    origin: str
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {
            "origin": self.origin,
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped.most_common()),
            "notes": self.notes,
        }

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        lines = [f"{self.origin}: {self.kept} pairs kept; dropped: {reasons or 'none'}", *self.notes]
        return "\n  ".join(lines)


@dataclass
class Corpus:
    """A corpus cut into three parts that share no template, with the report about it."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    source_language: str
    target_language: str
    report: Report

    def summary(self) -> dict[str, Any]:
        """Sizes and report as plain data."""
        sizes = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        languages = {"source_language": self.source_language, "target_language": self.target_language}
        return {**languages, **sizes, **self.report.to_dict()}
