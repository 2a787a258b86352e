"""Which decisions does a model offer? Vocabularies resolved against its sites, as rules are by `make_plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from shiftadd_transformers.plan import Entry
from shiftadd_transformers.planning import make_plan
from shiftadd_transformers.sites import Site, separate_projections, sites
from shiftadd_transformers.specs import MixerSpec, SoftmaxSpec, Spec, nearest

from .decisions import Decision, Same, SizeDecision, SpecDecision, Vocabulary, named
from .sizes import Sizes

Frame = Mapping[str, Entry]
"""Every site of a model in module order, as it is: dense layers and softmax attentions."""


def frame_of(model: nn.Module) -> dict[str, Entry]:
    """The model's sites; protected and tied layers carry their reason."""
    layers = make_plan(model, []).entries
    return {site.name: layers.get(site.name) or Entry(SoftmaxSpec(), site.role, site.shape) for site in sites(model)}


def readers_of(model: nn.Module, frame: Frame) -> dict[str, str]:
    """Query and key projections that an attention's core may read in part or not at all → that attention."""
    return {
        f"{name}.{child}": name
        for name, entry in frame.items()
        if is_attention(entry)
        for child in separate_projections(name, model.get_submodule(name))
        if f"{name}.{child}" in frame
    }


def is_attention(entry: Entry) -> bool:
    """Whether an entry of a frame is an attention."""
    return entry.spec.place == "attention"


def query_share(spec: Spec) -> float:
    """The share of an attention's heads whose queries and keys a core reads.

    >>> query_share(SoftmaxSpec()), query_share(MixerSpec(attention=True)), query_share(MixerSpec())
    (1.0, 0.5, 0.0)
    """
    if isinstance(spec, MixerSpec):
        return 0.5 if spec.attention else 0.0
    return 1.0


def decisions_of(model: nn.Module, vocabularies: Sequence[Vocabulary | Sizes], frame: Frame) -> list[Decision]:
    """Group the sites that each vocabulary of operators selects; the first that selects a site decides it.

    Raises:
        ValueError: A vocabulary selects nothing, only protected layers, or only what earlier ones decide.
    """
    free = {s.name: s for s in sites(model) if not frame[s.name].reason.startswith("protected")}
    decisions: list[Decision] = []
    for number, vocabulary in enumerate(vocabularies, start=1):
        if isinstance(vocabulary, Sizes):
            continue
        rules = vocabulary.rules()
        for rule in rules:
            _insist(model, number, rule.to_dict())
        selected = [site for site in free.values() if all(rule.selects(site) for rule in rules)]
        if not selected:
            raise ValueError(
                f"vocabulary {number} ({vocabulary}): no module is left that can take each of "
                f"{', '.join(map(str, vocabulary.choices))}; earlier vocabularies decide it, or the choices mix "
                "operators of layers and of attentions"
            )
        for site in selected:
            del free[site.name]
            _refuse_crossed(number, vocabulary, site)
        decisions += _grouped(vocabulary, selected, {d.name for d in decisions})
    return decisions


def _insist(model: nn.Module, number: int, rule: dict[str, object]) -> None:
    """Let `make_plan` say what is wrong with a selector."""
    try:
        make_plan(model, [rule])
    except ValueError as error:
        raise ValueError(str(error).replace("rule 1", f"vocabulary {number}", 1)) from None


def _refuse_crossed(number: int, vocabulary: Vocabulary, site: Site) -> None:
    if site.role == "attn.cross" and any(isinstance(spec, MixerSpec) for spec in vocabulary.choices):
        raise ValueError(
            f"vocabulary {number} ({vocabulary}) offers a token mixer to the cross-attention {site.name}, where "
            "targets have no neighbours; select self-attentions with role='attn.self'"
        )


def refuse_halved(decisions: Sequence[Decision]) -> None:
    """Insist that attentions that may have one head alone are not offered to attend with half of their heads.

    Raises:
        ValueError: There is such an attention.
    """
    single = {name for d in decisions if isinstance(d, SizeDecision) and 1 in d.values for name in d.extents}
    for decision in decisions:
        specs = decision.values if isinstance(decision, SpecDecision) else ()
        halves = [spec for spec in specs if 0 < query_share(spec) < 1]
        for site in decision.sites if isinstance(decision, SpecDecision) and halves else ():
            if site in single:
                raise ValueError(
                    f"one head of {site} cannot be halved by {halves[0]}; leave out 1 from its heads, or the operator"
                )


def _grouped(vocabulary: Vocabulary, selected: Iterable[Site], taken: set[str]) -> list[Decision]:
    groups: dict[str, list[str]] = {}
    for site in selected:
        name = site.name
        if vocabulary.together == "layer":
            layer = f"{site.stack}.{site.layer}" if site.stack else "outside"
            name = f"{layer}:{vocabulary.label}"
        elif vocabulary.together == "all":
            name = vocabulary.label
        groups.setdefault(name, []).append(site.name)
    return [SpecDecision(_unique(name, taken), vocabulary.choices, tuple(group)) for name, group in groups.items()]


def _unique(name: str, taken: set[str]) -> str:
    names = (name, *(f"{name}#{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in names if candidate not in taken)


def joined(decisions: Sequence[Decision], constraint: Same) -> list[Decision]:
    """The decisions after those that are to be the same have become one, under the first one's name.

    Raises:
        ValueError: A pattern fits no decision, or the decisions offer different choices.
    """
    names = [d.name for d in decisions]
    for pattern in constraint.groups:
        if not any(named(name, pattern) for name in names):
            raise ValueError(f"same({pattern!r}) fits no decision; {nearest(pattern, names)}")
    found = [d for d in decisions if any(named(d.name, pattern) for pattern in constraint.groups)]
    if len({(type(d), d.values) for d in found}) > 1 or type(found[0]) is Decision:
        offers = "; ".join(f"{d.name}: {', '.join(d.labels)}" for d in found)
        raise ValueError(f"decisions that are to be the same must offer the same choices in the same order: {offers}")
    whole = _merged(found)
    return [whole if d is found[0] else d for d in decisions if d is found[0] or d not in found]


def _merged(decisions: Sequence[Decision]) -> Decision:
    """One decision about all that these are about, under the first one's name."""
    first = decisions[0]
    if isinstance(first, SizeDecision):
        extents = tuple(name for d in decisions if isinstance(d, SizeDecision) for name in d.extents)
        return replace(first, extents=extents)
    sites = tuple(name for d in decisions if isinstance(d, SpecDecision) for name in d.sites)
    return SpecDecision(first.name, first.values, sites)


def silencing_of(decision: Decision) -> frozenset[int]:
    """The choices that read no queries and keys."""
    specs = decision.values if isinstance(decision, SpecDecision) else ()
    return frozenset(choice for choice, spec in enumerate(specs) if not query_share(spec))


def watched_of(
    decisions: Sequence[Decision],
    readers: Mapping[str, str],
    silencing: Sequence[frozenset[int]],
    lacks: Callable[[str], bool],
) -> list[frozenset[int]]:
    """Per decision, those that can together leave it without effect: of all attentions that read its modules.

    Args:
        decisions: What is decided.
        readers: Query and key projections → the attention that reads them.
        silencing: Per decision, the choices that read no queries and keys.
        lacks: Whether a module is in a layer that is left out.
    """
    deciders = {site: i for i, d in enumerate(decisions) if isinstance(d, SpecDecision) for site in d.sites}
    watched = []
    for decision in decisions:
        own = decision.sites if isinstance(decision, SpecDecision) else ()
        left = [site for site in own if not lacks(site)]
        found = [deciders.get(readers[site]) if site in readers else None for site in left]
        able = [i for i in found if i is not None and silencing[i]]
        watched.append(frozenset(able) if len(able) == len(found) else frozenset[int]())
    return watched
