"""Random weights that behave: logits vary, greedy text is not one repeated token, routing is clear.

Each tensor has its own generator, seeded by its name, so that a model's other dimensions or the
layout never change its values.
"""

from __future__ import annotations

import zlib

import numpy as np

from .shapes import Config, canonical_shapes

# Larger than 1/sqrt(in) so that layers outweigh the token's own embedding, which tied logits
# would otherwise just repeat.
_LINEAR_GAIN = 1.4
_ROUTER_GAIN = 3.0
_EMBEDDING_STD = 0.25
_BIAS_STD = 0.1


def random_tensors(
    config: Config, seed: int, embedding_scale: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Canonical float32 tensors of a flat config.json.

    `embedding_scale` [V], if given, multiplies the embedding's rows: small rows make a token rare.
    """
    tensors = {}
    for name, shape in canonical_shapes(config):
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        noise = generator.standard_normal(shape, dtype=np.float32)
        tensors[name] = _scaled(name, noise)
    if embedding_scale is not None:
        rows = embedding_scale.astype(np.float32)
        tensors["embed_tokens.weight"] *= rows[:, None]
        if "lm_head.weight" in tensors:
            tensors["lm_head.weight"] *= rows
    return tensors


def _scaled(name: str, noise: np.ndarray) -> np.ndarray:
    if name == "embed_tokens.weight":
        return noise * np.float32(_EMBEDDING_STD)
    if name.endswith("e_score_correction_bias"):
        return noise * np.float32(0.05)
    if name.endswith(".bias"):
        return noise * np.float32(_BIAS_STD)
    if noise.ndim == 1:
        return 1 + noise * np.float32(0.1)
    gain = _ROUTER_GAIN if ".mlp.gate." in name else _LINEAR_GAIN
    return noise * np.float32(gain / np.sqrt(noise.shape[-2]))
