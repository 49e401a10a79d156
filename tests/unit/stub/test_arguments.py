import json

import pytest

from backend.errors import ConfigError
from backend.stub.arguments import check_numpy, parameters_of


def test_parameters_are_read_and_empty_ones_left_out():
    config = {"parameters": {"a": {"string_value": "1"}, "b": {"string_value": ""}}}
    assert parameters_of({"model_config": json.dumps(config)}) == {"a": "1"}
    assert parameters_of({"model_config": "{}"}) == {}


@pytest.mark.parametrize(
    ("triton", "numpy"), [("24.10", "1.26.4"), ("", "1.26.4"), ("24.11", "2.1.0"), ("26.07", "2.3")]
)
def test_pairs_that_work_are_accepted(triton, numpy):
    check_numpy(triton, numpy)


@pytest.mark.parametrize(("triton", "numpy"), [("24.10", "2.0.0"), ("", "2.1.0"), ("x", "3.0")])
def test_numpy_2_is_refused_on_an_old_server(triton, numpy):
    with pytest.raises(ConfigError, match="numpy<2"):
        check_numpy(triton, numpy)
