"""Counters and histograms of `telemetry`: counted as prometheus_client's own counters and histograms count."""

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from handler.telemetry import Counter, Histogram

BUCKETS = (0.01, 0.1, 1.0)


def text(registry: CollectorRegistry) -> str:
    return prometheus_client.generate_latest(registry).decode()


@given(values=st.lists(st.sampled_from((0.0, 0.01, 0.1, 1.0)) | st.floats(0, 2), max_size=20))
def test_a_histogram_says_what_the_librarys_own_says(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    cheap = Histogram("took_seconds", "Time.", ("stage",), BUCKETS, ours).labels("l1")
    own = prometheus_client.Histogram(
        "took_seconds", "Time.", ("stage",), buckets=BUCKETS, registry=theirs
    ).labels("l1")

    for value in values:
        cheap.observe(value)
        own.observe(value)

    assert text(ours) == text(theirs)


@given(counts=st.lists(st.integers(0, 3), max_size=20))
def test_a_counter_says_what_the_librarys_own_says(counts: list[int]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    cheap = Counter("asked", "Asked.", ("wire", "code"), ours)
    own = prometheus_client.Counter("asked", "Asked.", ("wire", "code"), registry=theirs)

    for count in counts:
        cheap.labels("native", str(count)).inc(count)
        own.labels("native", str(count)).inc(count)

    assert text(ours) == text(theirs)


@pytest.mark.parametrize("kind", ["counter", "histogram"])
def test_a_series_without_labels_is_there_from_the_start(kind: str) -> None:
    registry = CollectorRegistry()
    if kind == "counter":
        Counter("asked", "Asked.", (), registry)
    else:
        Histogram("asked", "Asked.", (), BUCKETS, registry)

    assert "asked" in text(registry)
    assert " 0.0\n" in text(registry)


def test_a_series_needs_a_value_for_each_of_its_labels() -> None:
    with pytest.raises(ValueError, match="wire"):
        Counter("asked", "Asked.", ("wire",), CollectorRegistry()).labels()
