"""Logits → token ids, one request at a time, on the host (NumPy, float64 probabilities).

    forced token, or:
    penalties → biases, bad words, min_tokens → grammar → [greedy: argmax]
                                → temperature → min_p → top_k → top_p → draw with (key, position)

What a request gets depends on its own logits, settings and key only, never on its batch.
"""

from backend.sampler.keys import derived_key, seed_key
from backend.sampler.sampler import SampledToken, Sampler
from backend.sampler.state import SamplingState

__all__ = ["SampledToken", "Sampler", "SamplingState", "derived_key", "seed_key"]
