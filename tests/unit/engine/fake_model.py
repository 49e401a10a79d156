"""A model whose next token can be computed by hand, over a KV cache that can be misused.

A token's own value is `id + T + 2 H + 3 W`, plus 100 if it is routed to the vision experts; where a
media embedding replaces it, the embedding's value stands for the id. Its K/V is the running sum of
own values up to it, so that it depends on the whole prefix. The next token is the sum of all K/V of
the context modulo 89, so that it is always text: Σ (n - j) · own_j for n tokens j = 0, 1, ...

By hand: prompt 5, 7 (text, positions 0 and 1): own 5 and 13, K/V 5 and 18, next token 23.

Like a real kernel it reads whole blocks and multiplies what lies beyond the context by zero, so NaN
left in a block, or in the block that pads tables, reaches the logits.
"""

import numpy as np

from backend.config.model import ModelConfig, VisionConfig

VOCAB_SIZE = 101
NUM_TEXT_IDS = 89
IMAGE_ID = 90
START_ID, END_ID = 91, 92
EOS_ID = 2
NAN_ID = 95  # computing this token gives NaN
CRASH_ID = 96  # a batch with this token fails
BAD_PIXEL = 255  # media whose first value is this cannot be encoded

CONFIG = ModelConfig(
    architecture="Ernie4_5_VLMoeForConditionalGeneration",
    vocab_size=VOCAB_SIZE,
    hidden_size=1,
    intermediate_size=1,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    use_bias=False,
    rope_sections=(0, 0, 1),
    moe=None,
    vision=VisionConfig(
        depth=1,
        hidden_size=4,
        num_heads=1,
        intermediate_size=4,
        patch_size=2,
        in_channels=3,
        spatial_merge_size=2,
        temporal_merge_size=2,
        layer_norm_eps=1e-6,
    ),
    image_token_id=IMAGE_ID,
    video_token_id=IMAGE_ID,
    vision_boundary_token_ids=(START_ID, END_ID),
)
PATCH_DIM = CONFIG.vision.patch_dim


class FakeOps:
    """NumPy arrays are the tensors."""

    def to_numpy(self, tensor):
        return tensor

    def slice_rows(self, x, start, stop):
        return x[start:stop]

    def concat_rows(self, parts):
        return np.concatenate(parts)


class FakeModel:
    media_bytes_per_token = 8

    def __init__(self):
        self.ops = FakeOps()
        self.batches = []
        self.encoded_grids = []

    def allocate_kv_cache(self, num_blocks, block_size):
        return np.zeros((num_blocks, block_size))

    def kv_block_bytes(self, block_size):
        return self.allocate_kv_cache(1, block_size).nbytes

    def encode_media(self, patches, grids):
        (grid,) = grids
        if patches[0, 0] == BAD_PIXEL:
            raise RuntimeError("device memory at 0xdeadbeef")
        self.encoded_grids.append(grid)
        return embedding_values(patches, grid)[:, None]

    def forward(self, batch, kv_cache):
        self.batches.append(batch)
        if CRASH_ID in batch.token_ids:
            raise RuntimeError("illegal address 0xdeadbeef")
        ids = batch.token_ids.astype(np.float64)
        if batch.media_embeddings is not None:
            ids[batch.media_rows] = batch.media_embeddings[:, 0]
        is_vision = np.isin(np.arange(len(ids)), batch.vision_rows)
        own = own_values(ids, batch.positions, is_vision)
        own[batch.token_ids == NAN_ID] = np.nan
        flat = kv_cache.reshape(-1)
        sums = np.zeros(len(ids))
        for seq in range(batch.num_seqs):
            first, end = batch.query_starts[seq : seq + 2]
            context, new = batch.context_lens[seq], end - first
            table = batch.block_tables[seq]
            slots = self._slots(table, context, kv_cache.shape[1])
            assert batch.slot_mapping[first:end].tolist() == slots[context - new :].tolist()
            before = flat[slots[context - new - 1]] if context > new else 0.0
            flat[slots[context - new :]] = before + np.cumsum(own[first:end])
        for seq in range(batch.num_seqs):
            kept = np.arange(batch.block_tables.shape[1] * kv_cache.shape[1])
            kept = (kept < batch.context_lens[seq]).astype(np.float64)
            values = kv_cache[batch.block_tables[seq]].reshape(-1)
            sums[batch.query_starts[seq + 1] - 1] = (values * kept).sum()
        return _logits(sums[batch.logit_rows])

    @staticmethod
    def _slots(table, context, block_size):
        index = np.arange(context)
        return table[index // block_size] * block_size + index % block_size


def _logits(sums):
    logits = np.zeros((len(sums), VOCAB_SIZE), dtype=np.float32)
    for row, total in zip(logits, sums, strict=True):
        if np.isnan(total):
            row[:] = np.nan
        else:
            row[int(total) % NUM_TEXT_IDS] = 10.0
    return logits


def own_values(ids, positions, is_vision):
    return ids + positions[0] + 2 * positions[1] + 3 * positions[2] + 100 * is_vision


def embedding_values(patches, grid):
    """Per token: 200 + first value of its first patch, summed over its one or two frames."""
    frames, height, width = grid
    first = patches[::4, 0].astype(np.float64).reshape(frames, height * width // 4)
    if frames > 1:
        first = first[0::2] + first[1::2]
    return 200 + first.reshape(-1)


def next_token(ids, positions, is_vision=None):
    """The formula of the module's docstring. `ids` float64 [n], embeddings already in place."""
    ids = np.asarray(ids, dtype=np.float64)
    is_vision = np.zeros(len(ids), dtype=bool) if is_vision is None else is_vision
    own = own_values(ids, np.asarray(positions), is_vision)
    return int(np.cumsum(own).sum()) % NUM_TEXT_IDS


def answer(ids, max_tokens, positions=None, is_vision=None, stop_ids=(EOS_ID,)):
    """Greedy tokens of a request that has the engine to itself, its stop token included."""
    ids = [float(value) for value in ids]
    if positions is None:
        positions = np.tile(np.arange(len(ids)), (3, 1))
    positions = np.asarray(positions)
    is_vision = np.zeros(len(ids), dtype=bool) if is_vision is None else np.asarray(is_vision)
    tokens = []
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in stop_ids):
        tokens.append(next_token(ids, positions, is_vision))
        ids.append(tokens[-1])
        positions = np.concatenate([positions, np.full((3, 1), positions.max() + 1)], axis=1)
        is_vision = np.append(is_vision, False)
    return tokens
