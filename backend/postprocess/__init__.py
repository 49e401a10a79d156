"""Engine outputs → events: text, stop strings, reasoning, tool calls, logprobs, usage.

Owns one stream's state per request; knows nothing of Triton or HTTP.
"""

from backend.postprocess.postprocessor import Postprocessor

__all__ = ["Postprocessor"]
