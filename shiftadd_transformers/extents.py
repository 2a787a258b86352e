"""What of a model may be smaller? The widths, heads and layers of which a leading part can stay alone.

The hidden width of a feed-forward is the outputs of its first layer and the inputs of its second; the heads of an
attention are outputs of its query, key and value projections and inputs of the one behind them; the depth of a stack
is its layers. So a smaller model is a leading part of every tensor of the larger one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from torch import nn

from .layers.base import is_dense
from .rules import name_matches
from .sites import Site, aliases, sites, tied_layers
from .specs import nearest

Kind = Literal["width", "heads", "depth"]
Shape = tuple[int, int]


@dataclass(frozen=True)
class Extent:
    """One width, number of heads, or depth of a model.

    Args:
        name: The first layer of the feed-forward, the attention, or the stack.
        kind: Which of the three.
        size: The model's own.
        rows: Dense layers whose outputs it is.
        columns: Dense layers whose inputs it is.
        step: Smaller sizes are multiples of it.
    """

    name: str
    kind: Kind
    size: int
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    step: int = 1

    def kept(self, features: int, size: int) -> int:
        """How many of a layer's inputs or outputs stay at a size.

        >>> Extent("attention", "heads", 4).kept(32, size=3)
        24
        """
        return features * size // self.size

    def check(self, size: int) -> None:
        """Insist that this can be the size.

        Raises:
            ValueError: It is no number of them, or not a multiple of the step.
        """
        if not isinstance(size, int) or not 1 <= size <= self.size or size % self.step:
            steps = f", in steps of {self.step}" if self.step > 1 else ""
            raise ValueError(f"{self.name}: {size!r} is no possible {self.kind}; 1 to {self.size} can stay{steps}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "rows": list(self.rows), "columns": list(self.columns)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Extent:
        """Rebuild from the JSON form."""
        return cls(**{**data, "rows": tuple(data["rows"]), "columns": tuple(data["columns"])})


def beyond(module: str, stack: str, size: int) -> bool:
    """Whether a module is in a layer that a stack of so many layers does not have.

    >>> beyond("encoder.layers.2.fc1", "encoder.layers", 2), beyond("encoder.layers.1.fc1", "encoder.layers", 2)
    (True, False)
    """
    layer = module.removeprefix(stack + ".").partition(".")[0]
    return module.startswith(stack + ".") and layer.isdigit() and int(layer) >= size


@dataclass(frozen=True)
class Cuts:
    """How much smaller than it is a model is to be.

    Args:
        sizes: Extent → size, each less than the model's own, none in a layer that another one leaves out.
        extents: All that `sizes` names, by name.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    extents: Mapping[str, Extent] = field(default_factory=dict)

    @classmethod
    def to(cls, sizes: Mapping[str, int], extents: Mapping[str, Extent]) -> Self:
        """Only what makes a difference: sizes below the model's own, in layers that stay."""
        depths = {name: size for name, size in sizes.items() if extents[name].kind == "depth"}
        less = {
            name: size
            for name, size in sizes.items()
            if size < extents[name].size and not any(beyond(name, stack, depth) for stack, depth in depths.items())
        }
        return cls(less, {name: extents[name] for name in less})

    @classmethod
    def of(cls, model: nn.Module, wanted: Mapping[str, int], *, from_checkpoint: bool = False) -> Self:
        """Resolve sizes against a model.

        Args:
            model: Dense where something becomes smaller.
            wanted: Extents' names, or patterns over them as in a rule, → size.
            from_checkpoint: Pass over what the model lacks: a checkpoint with a head also loads into the model
                without one.

        Raises:
            ValueError: A name fits nothing, what it fits cannot be smaller, or a size is too large.
        """
        if not wanted:
            return cls()
        possible, reasons = extents(model)
        sizes: dict[str, int] = {}
        for pattern, size in wanted.items():
            fits = _fitting(pattern, (*possible, *reasons), model, from_checkpoint)
            if not fits and not from_checkpoint:
                raise ValueError(
                    f"sizes: {pattern!r} fits no width, heads or depth of {type(model).__name__}; "
                    f"{nearest(pattern, list(possible))}"
                )
            for name in fits:
                if name in reasons:
                    raise ValueError(f"{name} of {type(model).__name__} cannot be smaller: {reasons[name]}")
                possible[name].check(size)
                sizes[name] = size
        return cls.to(sizes, possible)

    def lacks(self, module: str) -> bool:
        """Whether a module is in a layer that is left out."""
        return any(beyond(module, name, size) for name, size in self.of_kind("depth").items())

    def of_kind(self, kind: Kind) -> dict[str, int]:
        """The sizes of one kind."""
        return {name: size for name, size in self.sizes.items() if self.extents[name].kind == kind}

    def shapes_after(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The sites that are left, in the same order, with their shapes.

        Args:
            shapes: Site → `(N, K)` of a dense layer, `(H, E)` of an attention.
        """
        left = {site: shape for site, shape in shapes.items() if not self.lacks(site)}
        for name, size in self.sizes.items():
            extent = self.extents[name]
            for site in left.keys() & {*extent.rows}:
                left[site] = (extent.kept(left[site][0], size), left[site][1])
            for site in left.keys() & {*extent.columns}:
                left[site] = (left[site][0], extent.kept(left[site][1], size))
            if extent.kind == "heads" and name in left:
                left[name] = (size, left[name][1])
        return left


def extents(model: nn.Module) -> tuple[dict[str, Extent], dict[str, str]]:
    """All extents of a model that can be smaller.

    Returns:
        Name → extent; and name → why not, for those that cannot.

    >>> mlp = nn.ModuleDict({"fc1": nn.Linear(8, 32), "fc2": nn.Linear(32, 8)})
    >>> extents(mlp)[0]["fc1"]
    Extent(name='fc1', kind='width', size=32, rows=('fc1',), columns=('fc2',), step=1)
    """
    found = sites(model)
    possible: dict[str, Extent] = {}
    reasons: dict[str, str] = {}
    for name, extent in (*_widths(found), *_heads(model, found), *_depths(model, found)):
        if isinstance(extent, str):
            reasons[name] = extent
        else:
            possible[name] = extent
    tied = tied_layers(model)
    for name, extent in list(possible.items()):
        if shared := sorted(tied & {*extent.rows, *extent.columns}):
            del possible[name]
            reasons[name] = f"{shared[0]} is tied to another module"
    return possible, reasons


def _widths(found: Sequence[Site]) -> Iterator[tuple[str, Extent | str]]:
    layers: dict[tuple[str, int | None], list[Site]] = {}
    for site in found:
        if site.role in ("mlp.up", "mlp.gate", "mlp.down", "mlp.gate_up"):
            layers.setdefault((site.stack, site.layer), []).append(site)
    for members in layers.values():
        up, gate, down, fused = (
            [s for s in members if s.role == f"mlp.{part}"] for part in ("up", "gate", "down", "gate_up")
        )
        if fused:
            yield fused[0].name, "gate and up projection are one layer, so its width is no leading part"
        elif len(up) != 1 or len(down) != 1 or len(gate) > 1:
            yield members[0].name, "it is not alone between one layer before and one behind"
        elif {down[0].shape[1], *(s.shape[0] for s in gate)} != {up[0].shape[0]}:
            yield up[0].name, f"its outputs are not what {down[0].name} reads"
        else:
            rows = tuple(s.name for s in (*gate, *up))
            yield up[0].name, Extent(up[0].name, "width", up[0].shape[0], rows, (down[0].name,))


def _heads(model: nn.Module, found: Sequence[Site]) -> Iterator[tuple[str, Extent | str]]:
    linear = [site for site in found if site.place == "linear"]
    for site in found:
        if site.place == "attention":
            yield site.name, _heads_of(site, model.get_submodule(site.name), linear)


def _heads_of(site: Site, attention: nn.Module, linear: Sequence[Site]) -> Extent | str:
    heads, width = site.shape
    parent = site.name.rpartition(".")[0]
    inside = {s.role: s for s in linear if s.name.startswith(site.name + ".")}
    behind = [s for s in linear if s.role == "attn.o" and s.name.startswith((site.name + ".", parent + ".output."))]
    if not {"attn.q", "attn.k", "attn.v"} <= inside.keys():
        return "its queries, keys and values are not three separate dense layers"
    if len(behind) != 1 or behind[0].shape[1] != heads * width:
        return "there is no one dense layer behind it that reads all heads"
    if hasattr(attention, "has_relative_attention_bias") or any(
        tensor.ndim > 1 and heads in tensor.shape for tensor in _others(attention)
    ):
        return "it has a position bias per head, which other layers may share"
    grouped = inside["attn.k"].shape[0] // width
    if heads % grouped:
        return f"{grouped} heads of keys do not divide {heads} heads of queries"
    rows = tuple(inside[role].name for role in ("attn.q", "attn.k", "attn.v"))
    return Extent(site.name, "heads", heads, rows, (behind[0].name,), heads // grouped)


def _others(attention: nn.Module) -> Iterator[nn.Parameter]:
    """What is in an attention beside its dense layers."""
    for module in attention.modules():
        if not is_dense(module):
            yield from module.parameters(recurse=False)


def _depths(model: nn.Module, found: Iterable[Site]) -> Iterator[tuple[str, Extent | str]]:
    for stack in dict.fromkeys(site.stack for site in found if site.stack):
        layers = model.get_submodule(stack)
        if not isinstance(layers, nn.ModuleList):
            yield stack, f"it is a {type(layers).__name__}, not a list of layers"
        elif len({type(layer) for layer in layers}) > 1 or len({_norm_shapes(layer) for layer in layers}) > 1:
            yield stack, "its layers are of different kinds or widths"
        else:
            yield stack, Extent(stack, "depth", len(layers))


def _norm_shapes(layer: nn.Module) -> frozenset[tuple[int, ...]]:
    """What is as wide as the stream of tokens, and not part of any dense layer."""
    norms = (module for module in layer.modules() if "norm" in type(module).__name__.lower())
    return frozenset(tuple(p.shape) for norm in norms for p in norm.parameters(recurse=False))


def _fitting(pattern: str, names: Iterable[str], model: nn.Module, from_checkpoint: bool) -> list[str]:
    """The extents that a pattern means; a checkpoint's name is also tried without its first part."""
    patterns = (pattern, pattern.partition(".")[2]) if from_checkpoint else (pattern,)
    for tried in filter(None, patterns):
        fits = [name for name in names if any(name_matches(tried, alias) for alias in aliases(name, model))]
        if fits:
            return fits
    return []
