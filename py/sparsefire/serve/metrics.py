"""The server's metrics in Prometheus text format."""

from __future__ import annotations

from collections import Counter

_HELP = {
    "requests_total": "Requests answered, by path and status.",
    "requests_cancelled_total": "Requests whose client went away before the answer was complete.",
    "prompt_tokens_total": "Tokens of prompts.",
    "generated_tokens_total": "Tokens generated.",
    "busy_seconds_total": "Seconds in which the model worked.",
    "requests_running": "Requests that the model works on, 0 or 1.",
    "requests_waiting": "Requests that wait for their turn.",
}


class Metrics:
    """Counters by name and labels. Used from one thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        for name in ("requests_cancelled_total", "prompt_tokens_total", "generated_tokens_total"):
            self._counts[name, ""] = 0

    def add(self, name: str, amount: int = 1, **labels: object) -> None:
        """Increments a counter. Label values must come from the server, never from a client."""
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        self._counts[name, f"{{{text}}}" if text else ""] += amount

    def text(self, **now: float) -> str:
        """All metrics, with the current values of gauges in `now`."""
        lines: list[str] = []
        values: dict[tuple[str, str], float] = {**self._counts}
        values |= {(name, ""): value for name, value in now.items()}
        for name, help_text in _HELP.items():
            full = f"sparsefire_{name}"
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {full} {help_text}", f"# TYPE {full} {kind}"]
            lines += [
                f"{full}{labels} {value:g}"
                if isinstance(value, float)
                else f"{full}{labels} {value}"
                for (each, labels), value in sorted(values.items())
                if each == name
            ]
        return "\n".join(lines) + "\n"
