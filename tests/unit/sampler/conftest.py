import numpy as np
import pytest

from backend.request import SamplingParams
from backend.sampler import SamplingState, seed_key


@pytest.fixture
def make_state():
    def _make_state(prompt=(0,), output=(), key=None, stop_ids=(), **params):
        return SamplingState(
            params=SamplingParams(**params),
            key=key or seed_key(params.get("seed", 1)),
            prompt_ids=np.array(prompt, dtype=np.int32),
            output_ids=list(output),
            stop_ids=tuple(stop_ids),
        )

    return _make_state
