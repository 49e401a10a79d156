"""The parameters written in config.pbtxt are settings, with the values the code has anyway."""

import re
from pathlib import Path

import pytest

from backend.config.serving import (
    EngineSettings,
    PostprocessorSettings,
    PreprocessorSettings,
    load_settings,
)

REPOSITORY = Path(__file__).parents[3] / "model_repository"
PARAMETER = re.compile(r'parameters \{ key: "(\w+)" value \{ string_value: "(.*)" \} \}')


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ernie_engine", EngineSettings),
        ("multimodal_preprocessor", PreprocessorSettings),
        ("response_postprocessor", PostprocessorSettings),
    ],
)
def test_parameters_are_the_defaults(name, kind):
    parameters = dict(PARAMETER.findall((REPOSITORY / name / "config.pbtxt").read_text()))
    assert parameters.pop("model") == ""
    assert parameters
    settings = load_settings(
        kind, {k: v for k, v in parameters.items() if v}, {"ERNIE_MODEL": "/m"}
    )
    assert settings == kind(model=Path("/m"))


def test_every_model_has_a_version_and_a_config_of_its_name():
    folders = sorted(item for item in REPOSITORY.iterdir() if item.is_dir())
    assert len(folders) == 4
    for folder in folders:
        assert f'name: "{folder.name}"' in (folder / "config.pbtxt").read_text()
        assert (folder / "1").is_dir()
