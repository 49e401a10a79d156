"""What is told of a routing that the kernels made."""

import numpy as np
import pytest

from scripts.engine_bench import routing
from tests.unit.ops import numpy_kernels


@pytest.fixture
def route(monkeypatch):
    """Routes three text tokens to experts 0, 0 and 2 of four, and two of vision, if any, to 1 of
    three; one shared expert."""
    monkeypatch.setattr(routing, "kernels", numpy_kernels)
    context = numpy_kernels.Context()

    def upload(rows):
        return context.upload(np.array(rows, np.float32))

    def run(with_vision):
        x = upload([[9, 0, 0, 0], [9, 0, 0, 0], [0, 0, 9, 0]] + [[0, 9, 0, 0]] * 2)
        vision = {}
        if with_vision:
            is_vision = context.upload(np.array([0, 0, 0, 1, 1], np.uint8))
            vision = {
                "vision_gate": upload(np.eye(3, 4)),
                "vision_bias": upload(np.zeros(3)),
                "is_vision": is_vision,
            }
        bias = upload(np.zeros(4))
        return numpy_kernels.moe_route(x, upload(np.eye(4)), bias, 1, 1e-12, 1, **vision)

    return run


def test_text_and_vision_are_counted_apart_and_shared_experts_not_at_all(route):
    with routing.recorded_layers() as layers:
        route(with_vision=True)
    (layer,) = layers
    text, vision = layer.counts()
    assert layer.has_vision
    assert text.tolist() == [2, 0, 1, 0]
    assert vision.tolist() == [0, 2, 0]


def test_distinct_experts_are_means_over_layers(route):
    with routing.recorded_layers() as layers:
        route(with_vision=False)
        route(with_vision=True)
    assert [layer.has_vision for layer in layers] == [False, True]
    assert routing.mean_distinct(layers) == (2.5, 0.5)


def test_what_runs_later_is_not_recorded(route):
    original = numpy_kernels.moe_route
    with pytest.raises(ZeroDivisionError), routing.recorded_layers() as layers:
        raise ZeroDivisionError
    assert numpy_kernels.moe_route is original
    route(with_vision=True)
    assert not layers
