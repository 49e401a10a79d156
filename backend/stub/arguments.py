"""What the four Triton models share around their stubs; knows the arguments' form, not Triton.

`args` is what Triton passes to `initialize`: strings, among them `model_config` as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping

import numpy as np

from backend.errors import ConfigError

FIRST_VERSION_FOR_NUMPY_2 = (24, 11)


def parameters_of(args: Mapping[str, str]) -> dict[str, str]:
    """The `parameters` of a config.pbtxt, without those left empty."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    values = {name: str(value["string_value"]) for name, value in parameters.items()}
    return {name: value for name, value in values.items() if value}


def check_numpy(triton_version: str, numpy_version: str = np.__version__) -> None:
    """Refuse the pair that aborts the stub at the first BYTES tensor.

    `triton_version` is NVIDIA_TRITON_SERVER_VERSION, "24.10"; empty for the nvidia-pytriton wheel.
    Raises ConfigError.
    """
    if int(numpy_version.split(".")[0]) < 2:
        return
    try:
        year, month = (int(part) for part in triton_version.split(".")[:2])
    except ValueError:
        year, month = 0, 0
    if (year, month) < FIRST_VERSION_FOR_NUMPY_2:
        raise ConfigError(
            f"numpy {numpy_version} with Triton {triton_version or '24.10 (wheel)'}: the Python "
            "backend before 24.11 needs numpy 1 (pip install 'numpy<2')"
        )


def configure_logging() -> None:
    """Log to stderr: Triton's own logger costs a round trip per call, even when it is off."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
