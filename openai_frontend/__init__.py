"""The OpenAI-compatible translator in front of Triton."""

__version__ = "0.1.0"
