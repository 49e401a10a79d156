"""The packed training pass equals transformers' own, and weights survive their export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.train_tiny.mixture import make_sample, random_of
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.prompt import Example, Prompter

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(config: dict[str, Any]) -> Any:
    from scripts.train_tiny.architecture import transformers_config
    from scripts.train_tiny.weights import load_weights

    made = transformers.Ernie4_5_VLMoeForConditionalGeneration(transformers_config(config))
    load_weights(made, config, CHECKPOINT)
    return made.eval()


@pytest.fixture(scope="module")
def examples(prompter: Prompter) -> list[Example]:
    tasks = ("pictures", "films", "tools", "comparing")
    return [
        prompter.example(make_sample(task, random_of(8, i, False), False, thinking=i % 2 == 0))
        for i, task in enumerate(tasks)
    ]


def _vision_ids(config: dict[str, Any], prompter: Prompter) -> tuple[int, ...]:
    names = ("image_start", "image_end", "video_start", "video_end")
    return (prompter.placeholder_id, *(config[f"{name}_token_id"] for name in names))


def _their_logits(model: Any, example: Example, vision: tuple[int, ...]) -> Any:
    """transformers' logits of one example, by its public arguments."""
    from scripts.train_tiny.forward import IMAGE_MEAN, IMAGE_STD

    ids = torch.from_numpy(example.token_ids).long()[None]
    is_media = ids == vision[0]
    is_film = any(item.kind == "video" for item in example.items)
    inputs: dict[str, Any] = {}
    if example.items:
        mean, std = (torch.tensor(v).repeat_interleave(196) for v in (IMAGE_MEAN, IMAGE_STD))
        pixels = torch.cat([torch.from_numpy(item.patches.copy()) for item in example.items])
        suffix, kind = ("_videos", "video") if is_film else ("", "image")
        inputs[f"pixel_values{suffix}"] = (pixels / 255 - mean) / std
        inputs[f"{kind}_grid_thw"] = torch.tensor([item.grid for item in example.items])
    if is_film:
        ids = torch.where(is_media, model.config.video_token_id, ids)
    with torch.no_grad():
        return model(
            input_ids=ids,
            mm_token_type_ids=is_media.int() * (2 if is_film else 1),
            moe_mm_token_type_ids=torch.isin(
                torch.from_numpy(example.token_ids).long()[None], torch.tensor(vision)
            ).int(),
            position_ids=torch.from_numpy(example.positions.copy()).long()[:, None],
            **inputs,
        ).logits[0]


def test_packed_batches_have_transformers_logits(
    model: Any, config: dict[str, Any], prompter: Prompter, examples: list[Example]
) -> None:
    from scripts.train_tiny.chunk import Chunk
    from scripts.train_tiny.forward import TrainingForward
    from scripts.train_tiny.pool import Limits, Pool

    vision = _vision_ids(config, prompter)
    chunk, patches = Chunk.of(examples, [0] * len(examples))
    pool = Pool(len(patches), 30, torch.device("cpu"), vision, rectangles=True)
    pool.add(chunk, patches)
    step = pool.step(np.arange(len(examples)), Limits(6400))
    forward = TrainingForward(model, ragged_kernel=False).eval()
    with torch.no_grad():
        hidden = forward.decode(forward.embed(step, pool.patches), step)
        ours = hidden @ model.lm_head.weight.T
    start = 0
    for example in examples:
        theirs = _their_logits(model, example, vision)
        mine = ours[start : start + len(theirs)]
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()
        start += len(theirs)


def test_an_exported_model_loads_back_the_same(
    model: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    from scripts.train_tiny.weights import export_weights

    flat = {key: value for key, value in config.items() if key != "dtype"}
    export_weights(model, flat, tmp_path)
    shipped = (CHECKPOINT / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == shipped


def test_the_hf_layout_gives_the_same_logits(
    model: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    from scripts.train_tiny.architecture import transformers_config
    from scripts.train_tiny.weights import export_weights

    flat = {key: value for key, value in config.items() if key != "dtype"}
    export_weights(model, flat, tmp_path, "hf")
    loaded = transformers.Ernie4_5_VLMoeForConditionalGeneration.from_pretrained(
        tmp_path, config=transformers_config(flat), dtype=torch.float32
    ).eval()
    ids = torch.arange(300, 340)[None]
    with torch.no_grad():
        difference = model(input_ids=ids).logits - loaded(input_ids=ids).logits
    assert difference.abs().max() <= 1e-5


def test_a_blend_lies_between_two_checkpoints(
    model: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    from scripts.train_tiny.architecture import transformers_config
    from scripts.train_tiny.blend import blended
    from scripts.train_tiny.weights import export_weights, load_weights

    flat = {key: value for key, value in config.items() if key != "dtype"}
    other = transformers.Ernie4_5_VLMoeForConditionalGeneration(transformers_config(flat))
    load_weights(other, flat, CHECKPOINT)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_((parameter + 1).bfloat16())
    export_weights(other, flat, tmp_path)
    middle = blended(flat, CHECKPOINT, tmp_path, 0.25)
    threes = zip(model.parameters(), other.parameters(), middle.parameters(), strict=True)
    for before, after, between in threes:
        assert torch.allclose(between, 0.75 * before + 0.25 * after, atol=1e-6)


def test_the_correction_bias_was_trained(config: dict[str, Any], model: Any) -> None:
    biases = [p for name, p in model.named_parameters() if name.endswith("e_score_correction_bias")]
    assert len(biases) == 2 * (config["num_hidden_layers"] - 1)
    assert max(float(bias.abs().max()) for bias in biases) > 0.1
