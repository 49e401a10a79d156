import pytest

from tests.unit.trained.direct_engine import DirectEngine


@pytest.fixture(scope="session")
def engine():
    engine = DirectEngine()
    yield engine
    engine.close()
