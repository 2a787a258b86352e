"""How good are the translations?  sacreBLEU's BLEU and chrF++, always together with their signatures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.config import read_config, write_text
from tasks.errors import TaskError
from tasks.training.folder import locate_run
from tasks.translation.config import DecodeConfig, TranslationConfig
from tasks.translation.data import load_split
from tasks.translation.model import load_model
from tasks.translation.pairs import Pair
from tasks.translation.translate import translate


@dataclass(frozen=True)
class Scores:
    """BLEU and chrF++ of one set of translations, with what is needed to reproduce them."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    sentences: int
    beams: int
    seconds: float

    def __str__(self) -> str:
        search = "greedy" if self.beams == 1 else f"beam {self.beams}"
        return (
            f"BLEU {self.bleu:.2f} ({self.bleu_signature})\n"
            f"chrF++ {self.chrf:.2f} ({self.chrf_signature})\n"
            f"{self.sentences} sentences, {search}, {self.seconds:.1f} s"
        )


def evaluate(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    decode: DecodeConfig | None = None,
    *,
    target_language: str = "",
    progress: bool = True,
) -> tuple[Scores, list[str]]:
    """Translate the sources and score them against the targets.

    Args:
        model: a seq2seq model.
        tokenizer: its tokenizer.
        pairs: sentences with one reference each.
        decode: search settings.
        target_language: chooses sacreBLEU's tokenisation for Chinese, Japanese and Korean.
        progress: show a bar.

    Returns:
        Scores, and the translations in the order of `pairs`.
    """
    decode = decode or DecodeConfig()
    start = time.perf_counter()
    hypotheses = translate(model, tokenizer, [pair.source for pair in pairs], decode, progress=progress)
    seconds = time.perf_counter() - start
    references = [pair.target for pair in pairs]
    return score(hypotheses, references, decode.beams, seconds, target_language), hypotheses


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    beams: int = 1,
    seconds: float = 0.0,
    target_language: str = "",
) -> Scores:
    """BLEU and chrF++ of given translations.

    Examples:
        >>> score(["ein Haus am See"], ["ein Haus am See"]).bleu
        100.0
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if not references:
        raise TaskError("there are no sentences to score")
    bleu, chrf = BLEU(tokenize=bleu_tokenizer(target_language)), CHRF(word_order=2)
    bleu_score, chrf_score = (m.corpus_score(list(hypotheses), [list(references)]) for m in (bleu, chrf))
    return Scores(
        bleu=round(bleu_score.score, 4),
        bleu_signature=str(bleu.get_signature()),
        chrf=round(chrf_score.score, 4),
        chrf_signature=str(chrf.get_signature()),
        sentences=len(references),
        beams=beams,
        seconds=round(seconds, 2),
    )


def bleu_tokenizer(target_language: str) -> str:
    """13a, but characters for scripts without spaces (ja-mecab and ko-mecab need extra packages)."""
    code = target_language.replace("-", "_").split("_")[0]
    return {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "lo": "char", "km": "char"}.get(code, "13a")


def evaluate_run(
    path: str | Path,
    *,
    split: str = "test",
    beams: int | None = None,
    model: str = "model",
    progress: bool = True,
) -> Scores:
    """Score a model of a run folder and write the result and the translations beside it.

    Args:
        path: a run folder, or a model folder inside one.
        split: "test" or "validation".
        beams: overrides the config of the run; 1 is greedy.
        model: which model of the run: "model", "packed", or "dense" where the run started from one.
        progress: show a bar.

    Returns:
        The scores; `results/<model>-<split>-beam<n>.json` and `.tsv` hold them and every translation.

    Raises:
        TaskError: not a run folder, or the model does not exist in it.
    """
    run, name = locate_run(path, model)
    config = read_config(TranslationConfig, run / "config.toml")
    decode = config.decode if beams is None else replace(config.decode, beams=beams)
    pairs = load_split(run / "data", split)
    network, tokenizer = load_model(run / name)
    language = json.loads((run / "data" / "report.json").read_text(encoding="utf-8"))["target_language"]
    scores, hypotheses = evaluate(network, tokenizer, pairs, decode, target_language=language, progress=progress)
    save_scores(run / "results" / f"{name}-{split}-beam{decode.beams}", scores, pairs, hypotheses)
    return scores


def save_scores(stem: Path, scores: Scores, pairs: Sequence[Pair], hypotheses: Sequence[str]) -> None:
    """Write `<stem>.json` (scores and samples) and `<stem>.tsv` (source, reference, translation)."""
    rows = [(pair.source, pair.target, text) for pair, text in zip(pairs, hypotheses, strict=True)]
    samples = [dict(zip(("source", "reference", "translation"), row, strict=True)) for row in rows[:20]]
    text = json.dumps({**asdict(scores), "samples": samples}, indent=2, ensure_ascii=False)
    write_text(stem.with_name(stem.name + ".tsv"), "".join("\t".join(row) + "\n" for row in rows))
    write_text(stem.with_name(stem.name + ".json"), text + "\n")
