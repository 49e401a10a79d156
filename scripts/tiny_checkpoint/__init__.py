"""Small ERNIE-4.5 checkpoints in the released layouts; parts are reusable for a trained one."""

from .command import make_tiny_checkpoint
from .files import write_checkpoint, write_safetensors
from .random_weights import random_tensors
from .shapes import canonical_shapes, dense_config, moe_config, vl_config
from .tokenizer import train_tokenizer

__all__ = [
    "canonical_shapes",
    "dense_config",
    "make_tiny_checkpoint",
    "moe_config",
    "random_tensors",
    "train_tokenizer",
    "vl_config",
    "write_checkpoint",
    "write_safetensors",
]
