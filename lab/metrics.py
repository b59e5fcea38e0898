"""What gateways say of themselves at /metrics, read as numbers. No clock, no network."""

import re
from collections.abc import Iterable


class Metrics(dict[str, float]):
    """Series by name and labels; of several gateways, their sums."""

    @classmethod
    def read(cls, expositions: Iterable[str]) -> "Metrics":
        found = cls()
        for text in expositions:
            for line in text.splitlines():
                if line and not line.startswith("#"):
                    series, _, value = line.rpartition(" ")
                    found[series] = found.get(series, 0.0) + float(value)
        return found

    def since(self, before: "Metrics") -> "Metrics":
        """What was counted after `before`. Of gauges, only the difference."""
        return Metrics({series: value - before.get(series, 0.0) for series, value in self.items()})

    def total(self, name: str, **labels: str) -> float:
        """A series by its full name; or the sum of a name's series that have these labels.

        A label's value is a regular expression. 0 where there is no such series.
        """
        if "{" in name:
            return self.get(name, 0.0)
        found = 0.0
        for series, value in self.items():
            bare, _, rest = series.partition("{")
            if bare == name and all(re.search(f'\\b{key}="{was}"', rest) for key, was in labels.items()):
                found += value
        return found

    def quantile_ms(self, name: str, fraction: float) -> float | None:
        """A histogram's quantile as Prometheus reckons it: evenly spread within a bucket. None without any."""
        edges = sorted(
            (float(match[1]), value)
            for series, value in self.items()
            if (match := re.fullmatch(rf'{name}_bucket{{.*le="([^"]+)".*}}', series))
        )
        if not edges or not edges[-1][1]:
            return None
        rank, below_s, below = fraction * edges[-1][1], 0.0, 0.0
        for edge_s, count in edges:
            if count >= rank:
                if edge_s == float("inf"):
                    return below_s * 1000
                return (below_s + (edge_s - below_s) * (rank - below) / max(count - below, 1)) * 1000
            below_s, below = edge_s, count
        return None
