"""The OpenAI-compatible translator in front of Triton."""
