"""Checkpoint folders → canonical tensors: safetensors of both layouts, nothing else, ever."""

from backend.weights.load import load_weights, store_weights

__all__ = ["load_weights", "store_weights"]
