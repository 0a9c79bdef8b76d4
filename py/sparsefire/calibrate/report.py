"""What reports of calibrations that trade perplexity for speed have."""

from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar


class Measured(Protocol):
    """A setting whose perplexity was measured."""

    @property
    def perplexity(self) -> float:
        """Over the held-out tokens."""


S = TypeVar("S", bound=Measured)


@dataclass(frozen=True, kw_only=True)
class PerplexityReport(Generic[S]):
    """``chosen`` was written to ``output``; both are None if dense is best. Perplexities are over
    ``held_out_tokens`` that nothing was fitted on."""

    source: str
    output: str | None
    tokens: int
    held_out_tokens: int
    perplexity_dense: float
    perplexity_cost: float
    settings: tuple[S, ...]
    chosen: S | None

    def cost(self, setting: S) -> float:
        """The relative increase of the setting's perplexity over the dense one."""
        return setting.perplexity / self.perplexity_dense - 1

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def is_hopeless(perplexity: float, dense: float, most_cost: float) -> bool:
    """Whether a setting's increase in perplexity is so far above the accepted one, more than twice
    as high, that settings that leave out more need not be tried."""
    return perplexity > dense * (1 + 2 * most_cost)
