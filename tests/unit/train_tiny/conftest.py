"""The shipped checkpoint, as the generator's tests need it."""

from __future__ import annotations

import pytest

from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.prompt import Prompter


@pytest.fixture(scope="session")
def prompter() -> Prompter:
    return Prompter(CHECKPOINT)
