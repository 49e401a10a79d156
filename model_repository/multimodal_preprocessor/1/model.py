"""`multimodal_preprocessor`: REQUEST and MEDIA → EngineRequest, prompt ids and positions.

The package `backend` is looked for beside this repository; where the repository was copied away
from it, set ERNIE_HOME to the folder that holds `backend/` (the stub ignores PYTHONPATH).
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.environ.get("ERNIE_HOME") or str(Path(__file__).resolve().parents[3]))

from backend import wire
from backend.config.serving import PreprocessorSettings, load_settings
from backend.errors import ErnieError
from backend.preprocess import Preprocessor
from backend.stub import arguments
from backend.stub.preprocess_pool import EngineInput, Job, PreprocessPool


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        arguments.configure_logging()
        try:
            arguments.check_numpy(os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
            settings = load_settings(PreprocessorSettings, arguments.parameters_of(args))
            self._preprocessor = Preprocessor(settings)
            self._pool = PreprocessPool(self._preprocessor, settings.preprocess_threads)
        except ErnieError as error:
            raise pb_utils.TritonModelException(error.message) from None

    def execute(self, requests) -> None:
        for request in requests:
            self._pool.submit(
                Job(
                    # Without REQUEST (Triton counts inputs, it does not look for the required one)
                    # this is no valid JSON, which is answered as such.
                    body=b"".join(_strings(request, "REQUEST")),
                    media=_strings(request, "MEDIA"),
                    request_id=request.request_id(),
                    reply=partial(_reply, request.get_response_sender()),
                )
            )

    def finalize(self) -> None:
        self._pool.close()
        self._preprocessor.close()


def _strings(request, name: str) -> list[bytes]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [bytes(item) for item in tensor.as_numpy().flat]


def _reply(sender, result: EngineInput) -> None:
    tensors = [
        pb_utils.Tensor("ENGINE_REQUEST", np.frombuffer(wire.encode(result.request), np.uint8)),
        pb_utils.Tensor("PROMPT_IDS", result.prompt_ids),
        pb_utils.Tensor("POSITIONS", result.positions),
    ]
    sender.send(
        pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    )
