"""Small checkpoints and a preprocessor over each."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from backend.config.model import ModelConfig, load_model_config
from backend.config.serving import PreprocessorSettings
from backend.preprocess import PreparedRequest, Preprocessor
from backend.tokenizer import Tokenizer
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.unit.preprocess.bodies import as_request


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vl")
    make_tiny_checkpoint(folder, "vl")
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    make_tiny_checkpoint(folder, "dense")
    return folder


@pytest.fixture(scope="session")
def config(vl_folder) -> ModelConfig:
    return load_model_config(vl_folder)


@pytest.fixture(scope="session")
def tokenizer(vl_folder) -> Tokenizer:
    return Tokenizer.load(vl_folder)


@pytest.fixture
def make_preprocessor(vl_folder):
    made = []

    def make(folder: Path | None = None, **settings) -> Preprocessor:
        known = {field.name for field in dataclasses.fields(PreprocessorSettings)}
        assert set(settings) <= known
        made.append(Preprocessor(PreprocessorSettings(folder or vl_folder, **settings)))
        return made[-1]

    yield make
    for preprocessor in made:
        preprocessor.close()


@pytest.fixture
def preprocessor(make_preprocessor) -> Preprocessor:
    return make_preprocessor()


@pytest.fixture
def prepare(preprocessor) -> Callable[..., PreparedRequest]:
    """prepare(messages=..., temperature=..., media=[...]): the fields of a body."""

    def call(media=(), **body) -> PreparedRequest:
        return preprocessor.prepare(as_request(**body), media, "request-1")

    return call


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A video: 8 frames of 60×60 at 4 per second, an animated GIF."""
    frames = [Image.new("RGB", (60, 60), (30 * index, 0, 0)) for index in range(8)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=250)
    return out.getvalue()
