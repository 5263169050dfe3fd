"""Where the relevance of an explanation went, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pnpxai.relevance._call import Account

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = ("relevance in", "relevance out", "bias", "epsilon", "constants", "unexplained")


@dataclass(frozen=True)
class Entry:
    """One operation; sums over the batch, in units of the model's output.

    Attributes:
        operation: its plain name, such as ``conv2d``.
        place: the module it was called from.
        relevance_in: what arrived from above.
        relevance_out: what went down to tensors computed from the inputs.
        bias: what biases absorbed (running means and shifts of a merged batch norm among them).
        epsilon: what stabilizers absorbed; negative where a rule creates relevance, as αβ does where nothing is
            negative.
        constants: what tensors absorbed that do not depend on the inputs: class tokens, position embeddings, padding.
        magnitude: Σ|R| of what arrived.
    """

    operation: str
    place: str
    relevance_in: float
    relevance_out: float
    bias: float
    epsilon: float
    constants: float
    magnitude: float

    @property
    def unexplained(self) -> float:
        """What arrived and is found nowhere: a wrong rule, or rounding."""
        return self.relevance_in - self.relevance_out - self.bias - self.epsilon - self.constants

    @property
    def gap(self) -> float:
        """The unexplained as a share of Σ|R| of what arrived."""
        return abs(self.unexplained) / self.magnitude if self.magnitude else abs(self.unexplained)


@dataclass(frozen=True)
class Ledger:
    """Every operation that relevance went through, in the order in which the model ran them.

    Attributes:
        entries: the operations.
        output: the relevance that started at the model's outputs.
        explained: the relevance that reached the inputs: the sum of the map.
    """

    entries: tuple[Entry, ...]
    output: float
    explained: float

    @classmethod
    def of(cls, accounts: Sequence[Account], output: float, explained: float) -> Ledger:
        """From the accounts of a propagation; operations that no relevance reached are left out."""
        reached = (vars(each) for each in accounts if each.magnitude or each.absorbed)
        return cls(tuple(Entry(**each) for each in reached), output, explained)

    @property
    def bias(self) -> float:
        """What biases absorbed, in all."""
        return sum(each.bias for each in self.entries)

    @property
    def epsilon(self) -> float:
        """What stabilizers absorbed, in all."""
        return sum(each.epsilon for each in self.entries)

    @property
    def constants(self) -> float:
        """What constants absorbed, in all."""
        return sum(each.constants for each in self.entries)

    @property
    def unexplained(self) -> float:
        """The output's relevance that is neither in the map nor absorbed."""
        return self.output - self.explained - self.bias - self.epsilon - self.constants

    @property
    def largest_gap(self) -> float:
        """The largest `Entry.gap`: how well the ledger closes."""
        return max((each.gap for each in self.entries), default=0.0)

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each operation."""
        import pandas as pd

        rows = [(each.operation, each.place, *_cells(each)) for each in self.entries]
        return pd.DataFrame(rows, columns=["operation", "place", *COLUMNS])

    def __str__(self) -> str:
        table = "no operation that relevance reached"
        if self.entries:
            table = self.to_frame().to_string(index=False, float_format=lambda each: f"{each:.4g}")
        total = (
            f"output {self.output:.6g} = map {self.explained:.6g} + bias {self.bias:.4g} + epsilon {self.epsilon:.4g}"
            f" + constants {self.constants:.4g} + unexplained {self.unexplained:.2g}"
        )
        return f"{table}\n{total}"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False, float_format=lambda each: f"{each:.4g}"))

    def plot(self) -> Figure:
        """What is still on its way down after each operation, and what was absorbed on the way."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.5), layout="constrained")
        _draw(self, figure)
        return figure


def _cells(entry: Entry) -> tuple[float, ...]:
    return (
        entry.relevance_in,
        entry.relevance_out,
        entry.bias,
        entry.epsilon,
        entry.constants,
        entry.unexplained,
    )


def _draw(ledger: Ledger, figure: Figure) -> None:
    """From the output (left) to the input (right): absorbed so far, stacked, by what."""
    axes = figure.subplots()
    down = ledger.entries[::-1]
    places = range(len(down))
    for name, colour in (("bias", "#4477aa"), ("epsilon", "#ee6677"), ("constants", "#ccbb44"), ("unexplained", "k")):
        total, line = 0.0, []
        for each in down:
            total += getattr(each, name)
            line.append(total)
        axes.plot(places, line, label=f"{name} {total:.3g}", color=colour, drawstyle="steps-mid")
    axes.axhline(ledger.output, color="0.7", linestyle=":", label=f"output {ledger.output:.3g}")
    axes.axhline(ledger.explained, color="0.4", linestyle="--", label=f"map {ledger.explained:.3g}")
    axes.set_xticks(places, [f"{each.operation} {each.place.split(' (')[0]}" for each in down], rotation=90, fontsize=6)
    if len(down) > 60:
        axes.set_xticks([])
    axes.set_xlabel("operations, from the output to the input")
    axes.set_ylabel("relevance absorbed so far")
    axes.legend(fontsize=8)
