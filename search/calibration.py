"""How long does a whole forward take, beyond its layers and attentions? Two numbers, fitted to models that were run.

    whole forward = overhead + factor · (sum of a latency table's times)

The overhead is what every plan pays alike (embeddings, normalisations, the framework); the factor says how much
slower, or faster, operators are inside of a model than one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shiftadd_transformers.cost.latency import LatencyTable, machine_differences

from .costs import Costs
from .work import Work

FORMAT = 1


@dataclass(frozen=True)
class Timed:
    """A plan that was run.

    Args:
        name: For people.
        table_us: Sum of the table's times.
        us: Microseconds of a forward.
    """

    name: str
    table_us: float
    us: float


@dataclass(frozen=True)
class Calibration:
    """From the sum of a table's times to the time of a whole forward.

    Args:
        overhead_us: Microseconds of what is not in the table.
        factor: What the table's times are multiplied with.
        timed: What both were fitted to.
        tau: Kendall's τ between predicted and measured times: 1 is the same order.
        model: Which model, and which inputs; see `model_key`.
        machine: Where it ran, as in the table.

    >>> dense = Timed("dense", table_us=100.0, us=250.0)
    >>> calibration = Calibration(60.0, 2.0, (dense,), tau=1.0)
    >>> calibration.us(100.0), round(calibration.error(dense), 2)
    (260.0, 0.04)
    """

    overhead_us: float
    factor: float
    timed: tuple[Timed, ...]
    tau: float
    model: str = ""
    machine: Mapping[str, Any] | None = None

    def us(self, table_us: float) -> float:
        """Microseconds of a forward.

        Args:
            table_us: Sum of the table's times for the plan.
        """
        return self.overhead_us + self.factor * table_us

    def error(self, timed: Timed) -> float:
        """How far the prediction for a plan is off, in parts of what was measured; positive is too slow."""
        return self.us(timed.table_us) / timed.us - 1

    def summary(self) -> str:
        """Predictions beside measurements, plan by plan, as aligned text."""
        width = max(len(timed.name) for timed in self.timed)
        lines = [f"{'plan':{width}} {'table µs':>10} {'predicted':>10} {'measured':>10} {'error':>7}"]
        lines += [
            f"{t.name:{width}} {t.table_us:10.0f} {self.us(t.table_us):10.0f} {t.us:10.0f} {self.error(t):+7.1%}"
            for t in self.timed
        ]
        errors = [abs(self.error(timed)) for timed in self.timed]
        lines.append(
            f"forward = {self.overhead_us:.0f} µs + {self.factor:.2f} x table; error {sum(errors) / len(errors):.1%} "
            f"on average, {max(errors):.1%} at most; Kendall's τ {self.tau:.2f} over {len(self.timed)} plans"
        )
        return "\n".join(lines)

    def require(self, costs: Costs, table: LatencyTable) -> None:
        """Insist that this calibration is of the model whose plans are priced, and of the table's machine.

        Raises:
            ValueError: It is not; the message says in what.
        """
        again = "calibrate again with `shiftadd profile search`"
        if self.machine and table.machine and (other := machine_differences(self.machine, table.machine)):
            raise ValueError(f"the calibration and the latency table are of different machines ({other}); {again}")
        if self.model and self.model != (wanted := model_key(costs)):
            raise ValueError(f"the calibration is of {self.model}, not of {wanted}; {again}")

    def to_json(self) -> str:
        """The calibration as text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It holds no calibration, or one of another format.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}, not {FORMAT}")
            timed = tuple(Timed(**each) for each in data["timed"])
            return cls(data["overhead_us"], data["factor"], timed, data["tau"], data["model"], data["machine"])
        except (ValueError, KeyError, TypeError) as error:
            again = "write it anew with `shiftadd profile search`"
            raise ValueError(f"{path} is no calibration ({error!r}); {again}") from error


def calibration_file(table: Path) -> Path:
    """Where the calibration of a latency table is kept: beside it.

    >>> calibration_file(Path("board/latency.json")).name
    'latency.calibration.json'
    """
    return table.with_suffix(".calibration.json")


def table_us(work: Work, table: LatencyTable) -> float:
    """Microseconds of the layers and attentions of some work, one after the other.

    Raises:
        ValueError: The table lacks an operator or a shape.
    """
    try:
        linears = sum(table.us(spec, m.rows, m.in_features, m.out_features) for spec, m in work.linears)
        return linears + sum(table.attention_us(spec, shape) for spec, shape in work.attentions)
    except KeyError as error:
        raise ValueError(
            f"the latency table cannot price the space: {error.args[0]}. Measure it with `shiftadd profile search`, or "
            "`shiftadd profile kernels` (its options name operators, shapes, rows and tokens), or leave the choice out "
            "of the space"
        ) from None


def model_key(costs: Costs) -> str:
    """A name for a model and the sizes of its inputs, whatever is made of its parts.

    Equal for spaces over the same sites with the same numbers of rows, and different otherwise.
    """
    space = costs.space
    plan = space.to_plan(space.repair([0] * len(space.decisions)))
    rows = sorted({shape.rows for _, shape in costs.work(plan).linears})
    sites = [(name, entry.role, tuple(entry.shape)) for name, entry in space.frame.items()]
    digest = hashlib.sha256(repr((sites, rows)).encode()).hexdigest()[:12]
    return f"{space.model} with {len(sites)} sites, {', '.join(map(str, rows))} rows ({digest})"
