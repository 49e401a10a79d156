"""Transformers reads our HF-layout checkpoints as its own, and we read what it writes."""

import json

import numpy as np
import pytest

from backend.config.model import load_model_config

pytestmark = pytest.mark.oracle

CLASSES = {
    "dense": "Ernie4_5ForCausalLM",
    "moe": "Ernie4_5_MoeForCausalLM",
    "vl": "Ernie4_5_VLMoeForConditionalGeneration",
}


def _vl_config(folder):
    """Our flat config.json in the nested spelling of transformers' classes."""
    transformers = pytest.importorskip("transformers")
    config = load_model_config(folder)
    start_image, end_image, start_video, end_video = config.vision_boundary_token_ids
    moe, vision = config.moe, config.vision
    return transformers.Ernie4_5_VLMoeConfig(
        text_config={
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "max_position_embeddings": config.max_position_embeddings,
            "moe_num_experts": moe.num_experts[0],
            "moe_k": moe.top_k,
            "moe_intermediate_size": list(moe.intermediate_size),
            "moe_num_shared_experts": moe.num_shared_experts,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "mrope_section": list(config.rope_sections),
            },
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "num_heads": vision.num_heads,
            "intermediate_size": vision.intermediate_size,
        },
        image_token_id=config.image_token_id,
        video_token_id=config.vocab_size - 1,
        image_start_token_id=start_image,
        image_end_token_id=end_image,
        video_start_token_id=start_video,
        video_end_token_id=end_video,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_loads_our_checkpoint_and_we_load_what_it_saves(
    kind, shards, make_checkpoint, load_arrays, tmp_path
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = make_checkpoint(kind, "hf", shards=shards, dtype="float32", seed=5)
    options = {"config": _vl_config(folder)} if kind == "vl" else {}
    model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, **options
    )
    assert {key: value for key, value in info.items() if value} == {}

    model.save_pretrained(tmp_path)
    ours, theirs = load_arrays(folder), load_arrays(tmp_path)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name]), name


def test_transformers_config_of_a_saved_model_means_the_same_to_us(make_checkpoint, tmp_path):
    ours = load_model_config(make_checkpoint("vl", "hf"))
    saved = json.loads(_vl_config(make_checkpoint("vl", "hf")).to_json_string())
    saved["architectures"] = [CLASSES["vl"]]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    theirs = load_model_config(tmp_path)
    assert (theirs.moe, theirs.vision) == (ours.moe, ours.vision)
    assert theirs.rope_sections == ours.rope_sections
    assert theirs.vision_boundary_token_ids == ours.vision_boundary_token_ids
    assert theirs.image_token_id == ours.image_token_id
