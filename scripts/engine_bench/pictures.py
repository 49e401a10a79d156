"""Pictures through the engine: the vision model alone, and a prompt's whole way to its first token.

Every run has a picture of its own, so that no cache knows it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.config.model import ModelConfig, VisionConfig
from backend.engine.core import EngineCore
from backend.media.item import make_item, merged_grid
from backend.media.positions import rotary_positions
from backend.models import Model
from backend.request import SamplingParams
from backend.wire import EngineRequest, MediaSpan
from scripts.engine_bench.routing import mean_distinct, recorded_layers

PICTURES = {"448x448": (1, 32, 32), "868x1120": (1, 62, 80), "3584x3584": (1, 256, 256)}
"""Grids of patches by the size in pixels."""

NUM_TEXT_TOKENS = 32
"""Before and behind a picture, half of them each."""

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class PicturePrompt:
    """ids int32 [n], positions int32 [3, n], pixels uint8 [patches, patch_dim]."""

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    span: MediaSpan


@dataclass(frozen=True)
class PromptFigures:
    """Medians: `arrival_s` of what the engine does before it has the request (it hashes the
    pixels), `first_token_s` from the same moment to the first token. `distinct`: routed experts of
    text and of vision with a token, means over a step's layers (None without experts); tokens of a
    random picture are much alike, so these are fewer than of balanced routing."""

    arrival_s: float
    first_token_s: float
    distinct: tuple[float, float] | None


def num_vision_tokens(config: ModelConfig, grid: Grid) -> int:
    """A picture's placeholders and the two tokens around them, which take the same experts."""
    merge = _vision(config).spatial_merge_size
    return int(np.prod(merged_grid("image", grid, merge))) + 2


def num_prompt_tokens(config: ModelConfig, grid: Grid) -> int:
    return NUM_TEXT_TOKENS + num_vision_tokens(config, grid)


def picture_prompt(config: ModelConfig, grid: Grid, seed: int) -> PicturePrompt:
    """Random text around a random picture, as the preprocessor hands it to the engine."""
    vision = _vision(config)
    random = np.random.default_rng([seed, *grid])
    merge = vision.spatial_merge_size
    pixels = random.integers(0, 256, (grid[1] * grid[2], vision.patch_dim), np.uint8)
    item = make_item("image", grid, pixels, merge, vision.temporal_merge_size)
    start, end = config.vision_boundary_token_ids[:2]
    text = random.integers(200, min(config.image_token_id, start, end), NUM_TEXT_TOKENS)
    half = NUM_TEXT_TOKENS // 2
    placeholders = [config.image_token_id] * item.num_tokens
    ids = np.array([*text[:half], start, *placeholders, end, *text[half:]], np.int32)
    span = MediaSpan("image", half + 1, item.num_tokens, grid, 0, item.digest)
    positions = rotary_positions(len(ids), [(span.offset, merged_grid("image", grid, merge))])
    return PicturePrompt(ids, positions, item.patches, span)


def encoder_seconds(model: Model, config: ModelConfig, grid: Grid, repeats: int = 3) -> float:
    """Median of vision transformer and resampler; one run before is not counted."""
    shape = (grid[1] * grid[2], _vision(config).patch_dim)
    patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        model.encode_media(patches, [grid])
        model.ops.context.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def prompt_figures(
    core: EngineCore, config: ModelConfig, grid: Grid, repeats: int = 3
) -> PromptFigures:
    """A prompt with one picture at an idle engine; one run before, which tells the routing, is not
    counted. Raises RuntimeError when the engine answers with an error.
    """
    with recorded_layers() as layers:
        _run_prompt(core, config, grid, 0)
    layers = [layer for layer in layers if layer.has_vision]
    distinct = mean_distinct(layers) if layers else None
    runs = [_run_prompt(core, config, grid, 1 + repeat) for repeat in range(repeats)]
    arrivals, first_tokens = zip(*runs, strict=True)
    return PromptFigures(statistics.median(arrivals), statistics.median(first_tokens), distinct)


def _run_prompt(
    core: EngineCore, config: ModelConfig, grid: Grid, seed: int
) -> tuple[float, float]:
    """Seconds until the engine has the request, and until the first token."""
    prompt = picture_prompt(config, grid, seed)
    request = EngineRequest(
        stream_key=f"picture-{grid}-{seed}",
        request_id=str(seed),
        sampling=SamplingParams(temperature=1.0, max_tokens=1, ignore_eos=True, seed=seed),
        media=(prompt.span,),
    )
    began = time.perf_counter()
    core.add(request, prompt.ids, prompt.positions, prompt.pixels)
    arrived = time.perf_counter()
    outputs = []
    while core.has_work() and not outputs:
        outputs = core.step()
    answered = time.perf_counter()
    if outputs[0].error is not None:
        raise RuntimeError(f"a picture of {grid} patches: {outputs[0].error.message}")
    while core.has_work():
        core.step()
    return arrived - began, answered - began


def _vision(config: ModelConfig) -> VisionConfig:
    if config.vision is None:
        raise ValueError(f"{config.architecture} has no vision model")
    return config.vision
