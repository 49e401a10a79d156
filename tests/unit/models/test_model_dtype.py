"""Where the model dtype is not float32 (bfloat16 on a GPU), every operation must keep it.

Paddle's CPU build computes no bfloat16, so float64 stands in: an operation that forgets to cast
back shows just the same.
"""

import numpy as np
import pytest

from backend.ops.paddle_ops import PaddleOps
from tests.oracle.cases import WEIGHT_SEED, make_prompts
from tests.oracle.models import CONFIGS, load_model, make_config, random_weights
from tests.oracle.paged import PagedRunner

FLOAT32_RESULTS = {"logits"}
NOT_COMPUTED = {"from_numpy", "parameter", "to_numpy", "slice_rows"}


class Float64Ops:
    """PaddleOps with float64 as model dtype; notes the dtypes that each operation returns."""

    def __init__(self):
        self._ops = PaddleOps("cpu", 1)
        self._ops.dtype = "float64"
        self.dtypes = {}

    def __getattr__(self, name):
        operation = getattr(self._ops, name)

        def recorded(*args, **kwargs):
            result = operation(*args, **kwargs)
            for tensor in result if isinstance(result, tuple) else (result,):
                if hasattr(tensor, "dtype"):
                    self.dtypes.setdefault(name, set()).add(str(tensor.dtype))
            return result

        return recorded


@pytest.mark.parametrize("name", CONFIGS)
def test_every_operation_keeps_the_model_dtype(name):
    ops, config = Float64Ops(), make_config(name)
    model = load_model(config, random_weights(config, WEIGHT_SEED), ops)
    outputs = PagedRunner(model, list(make_prompts(config.is_multimodal).values())).run(9)
    assert all(np.isfinite(logits).all() for logits in outputs)
    computed = {op: dtypes for op, dtypes in ops.dtypes.items() if op not in NOT_COMPUTED}
    assert {"linear", "paged_attention", "project_qkv", "add_rms_norm"} <= set(computed)
    for op, dtypes in computed.items():
        expected = "paddle.float32" if op in FLOAT32_RESULTS else "paddle.float64"
        assert dtypes == {expected}, op
