import pytest

from backend.engine.metrics import FAMILIES, EngineMetrics


class FakeMetric:
    def __init__(self):
        self.value = 0.0
        self.num_calls = 0

    def set(self, value):
        self.value = value
        self.num_calls += 1

    def increment(self, value):
        assert value > 0
        self.value += value
        self.num_calls += 1


@pytest.fixture
def page():
    """(family name, label value) → metric, as a scrape would show them."""
    return {}


@pytest.fixture
def metrics(page):
    def make(kind, name, description, labels):
        made = [FakeMetric() for _ in labels]
        for metric, item in zip(made, labels, strict=True):
            page[name, next(iter(item.values()), "")] = metric
        return made

    return EngineMetrics(make)


def test_numbers_appear_under_their_names(metrics, page):
    metrics.publish(
        {
            "engine_up": 1,
            "running": 3,
            "waiting": 2,
            "kv_blocks_total": 100,
            "kv_blocks_free": 60,
            "kv_blocks_cached": 15,
            "generation_tokens_total": 7,
            "block_size": 16,
        }
    )
    expected = {
        ("ernie_engine_up", ""): 1,
        ("ernie_requests_running", ""): 3,
        ("ernie_requests_waiting", ""): 2,
        ("ernie_generation_tokens_total", ""): 7,
        ("ernie_kv_blocks", "cached"): 15,
        ("ernie_kv_cache_usage", ""): 0.25,
        ("nv_trt_llm_request_metrics", "scheduled"): 3,
        ("nv_trt_llm_kv_cache_block_metrics", "used"): 25,
        ("nv_trt_llm_kv_cache_block_metrics", "tokens_per"): 16,
    }
    assert {key: page[key].value for key in expected} == expected


def test_a_number_that_did_not_change_costs_no_call(metrics, page):
    for _ in range(3):
        metrics.publish({"running": 3, "generation_tokens_total": 5})
    assert page["ernie_requests_running", ""].num_calls == 1
    assert page["ernie_generation_tokens_total", ""].num_calls == 1
    assert page["ernie_requests_waiting", ""].num_calls == 0


def test_counters_go_on_when_the_engine_starts_from_zero(metrics, page):
    for stats in ({"preemptions_total": 5}, {}, {"preemptions_total": 2}):
        metrics.publish(stats)
    assert page["ernie_preemptions_total", ""].value == 7


def test_gauges_of_an_engine_that_is_down_fall_to_zero(metrics, page):
    metrics.publish({"engine_up": 1, "running": 4})
    metrics.publish({"engine_up": 0})
    assert page["ernie_engine_up", ""].value == 0
    assert page["ernie_requests_running", ""].value == 0


def test_family_names_are_unique():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
