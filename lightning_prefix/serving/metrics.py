"""Numbers about a server, as Prometheus reads them."""

from bisect import bisect_left
from collections import defaultdict

__all__ = ["Metrics"]

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "lightning_prefix_"
_HELP = {
    "requests_total": "Requests answered, by route and HTTP status.",
    "rows_total": "Inputs answered, by prefix.",
    "passes_total": "Batches answered; rows over passes is the mean size of a batch.",
    "prompt_tokens_total": "Tokens read by tasks that write texts, by prefix.",
    "new_tokens_total": "Tokens written, by prefix.",
}


class Metrics:
    """Counts what one process answers."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = {name: defaultdict(float) for name in _HELP}
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """One request that is answered completely."""
        self._counts["requests_total"][_labels(route=route, status=status)] += 1
        buckets = self._seconds.setdefault(route, [0] * (len(_BOUNDS) + 1))
        buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._sums[route] += seconds

    def count_row(self, prefix: str, rows_of_pass: int, prompt_tokens: int = 0, new_tokens: int = 0) -> None:
        """One input that is answered, in a pass with so many."""
        labels = _labels(prefix=prefix)
        self._counts["rows_total"][labels] += 1
        self._counts["passes_total"][""] += 1 / rows_of_pass
        if prompt_tokens:
            self._counts["prompt_tokens_total"][labels] += prompt_tokens
            self._counts["new_tokens_total"][labels] += new_tokens

    def render(self, requests_in_flight: int) -> str:
        """Prometheus' text format, version 0.0.4.

        Args:
            requests_in_flight: now.

        Example:
            >>> metrics = Metrics()
            >>> metrics.count_row("mood", 1)
            >>> print(metrics.render(3))  # doctest: +ELLIPSIS
            # HELP lightning_prefix_requests_in_flight Requests that wait for their answer.
            # TYPE lightning_prefix_requests_in_flight gauge
            lightning_prefix_requests_in_flight 3
            ...
            lightning_prefix_rows_total{prefix="mood"} 1
            ...
        """
        lines = _head("requests_in_flight", "gauge", "Requests that wait for their answer.")
        lines.append(f"{_PREFIX}requests_in_flight {requests_in_flight}")
        for name, text in _HELP.items():
            lines += _head(name, "counter", text)
            lines += [f"{_PREFIX}{name}{labels} {round(n, 6):g}" for labels, n in self._counts[name].items()]
        lines += _head("request_seconds", "histogram", "From the head of a request to the end of its answer.")
        for route, buckets in self._seconds.items():
            total = 0
            for bound, count in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f"{_PREFIX}request_seconds_bucket{_labels(route=route, le=bound)} {total}")
            lines.append(f"{_PREFIX}request_seconds_sum{_labels(route=route)} {self._sums[route]:.6f}")
            lines.append(f"{_PREFIX}request_seconds_count{_labels(route=route)} {total}")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]


def _labels(**labels: object) -> str:
    pairs = []
    for name, value in labels.items():
        text = str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        pairs.append(f'{name}="{text}"')
    return "{" + ",".join(pairs) + "}"
