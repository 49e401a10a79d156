import pytest

from backend.ops import create_ops


@pytest.fixture(scope="session")
def ops():
    return create_ops("paddle", "cpu", 1)
