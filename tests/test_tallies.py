"""Tallies say to a scrape what prometheus-client's own metrics would."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from fallback.api.tallies import Tallies

BOUNDS = (0.05, 0.5, 1, 7.5)

observed = st.floats(min_value=0.0, max_value=20.0) | st.sampled_from(BOUNDS)
asked = st.lists(st.tuples(st.sampled_from(["groq", 'a"\n\\']), st.sampled_from(["ok", "error"]), observed))


@given(asked=asked)
def test_the_text_is_that_of_the_librarys_own_counters_and_histograms(
    asked: list[tuple[str, str, float]],
) -> None:
    theirs = CollectorRegistry()
    counter = Counter("calls", "Calls.", ("provider", "outcome"), namespace="x", registry=theirs)
    histogram = Histogram("took", "Time.", ("provider",), namespace="x", registry=theirs, buckets=BOUNDS)
    ours, tallies = CollectorRegistry(), Tallies("x")
    ours.register(tallies)
    calls = tallies.counts("calls", "Calls.", "provider", "outcome")
    took = tallies.spreads("took", "Time.", BOUNDS, "provider")
    for provider, outcome, seconds in asked:
        counter.labels(provider, outcome).inc(seconds)
        histogram.labels(provider).observe(seconds)
        with tallies.lock:
            calls.of(provider, outcome).value += seconds
            took.of(provider).add(seconds)
    expected = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == expected


def test_a_counter_without_labels_is_there_before_it_counts() -> None:
    registry, tallies = CollectorRegistry(), Tallies("x")
    registry.register(tallies)
    tallies.counts("rare", "Hardly ever.").of()
    assert b"x_rare_total 0.0" in generate_latest(registry)


def test_nothing_is_lost_between_threads_and_no_scrape_sees_half_of_it() -> None:
    registry, tallies = CollectorRegistry(), Tallies("x")
    registry.register(tallies)
    first, second = tallies.counts("first", "First.").of(), tallies.counts("second", "Second.").of()

    def move() -> None:
        for _ in range(2_000):
            with tallies.lock:
                first.value += 1
                second.value += 1

    threads = [threading.Thread(target=move) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        a, b = (family.samples[0].value for family in registry.collect())
        assert a == b
    for thread in threads:
        thread.join()
    assert (first.value, second.value) == (8_000, 8_000)
