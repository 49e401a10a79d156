"""Scheduler's chunks → one forward pass → next tokens.

media of the chunks → embeddings     (MediaEncoder)
chunks → Batch                       (build_batch)
Batch → logits                       (Model.forward)
logits → tokens                      (Sampler)
"""

from backend.runner.batch_builder import build_batch
from backend.runner.media_encoder import MediaEncoder
from backend.runner.runner import ChunkResult, Computation, ModelRunner, RunnableModel

__all__ = [
    "ChunkResult",
    "Computation",
    "MediaEncoder",
    "ModelRunner",
    "RunnableModel",
    "build_batch",
]
