"""The checkpoint maker: released names and shapes, usable tokenizer, same seed same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest
import safetensors
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config.model import load_model_config
from backend.models.parameters import parameter_specs
from scripts.tiny_checkpoint import canonical_shapes, make_tiny_checkpoint
from scripts.tiny_checkpoint.files import round_to_bfloat16

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "make_tiny_checkpoint.py"
KINDS = ("vl", "dense", "moe")
PADDLE_VL_SHAPES = {
    "ernie.embed_tokens.weight": [1280, 128],
    "ernie.layers.0.self_attn.qkv_proj.weight": [128, (4 + 2 * 2) * 32],
    "ernie.layers.0.self_attn.o_proj.weight": [4 * 32, 128],
    "ernie.layers.0.mlp.up_gate_proj.weight": [128, 2 * 256],
    "ernie.layers.0.mlp.down_proj.weight": [256, 128],
    "ernie.layers.1.mlp.gate.weight": [128, 8],
    "ernie.layers.1.mlp.gate.weight_1": [128, 8],
    "ernie.layers.1.mlp.moe_statics.e_score_correction_bias": [2, 8],
    "ernie.layers.1.mlp.experts.7.up_gate_proj.weight": [128, 2 * 64],
    "ernie.layers.1.mlp.experts.8.up_gate_proj.weight": [128, 2 * 32],
    "ernie.layers.1.mlp.experts.15.down_proj.weight": [32, 128],
    "ernie.layers.1.mlp.shared_experts.up_gate_proj.weight": [128, 2 * 128],
    "ernie.norm.weight": [128],
    "vision_model.patch_embed.proj.weight": [588, 64],
    "vision_model.blocks.1.attn.qkv.weight": [64, 192],
    "vision_model.blocks.1.mlp.fc1.bias": [256],
    "vision_model.ln.bias": [64],
    "ernie.resampler_model.spatial_linear.0.weight": [256, 256],
    "ernie.resampler_model.temporal_linear.0.weight": [512, 256],
    "ernie.resampler_model.temporal_linear.3.bias": [256],
    "ernie.resampler_model.mlp.weight": [256, 128],
    "ernie.resampler_model.after_norm.weight": [128],
}
HF_VL_SHAPES = {
    "model.layers.0.self_attn.q_proj.weight": [4 * 32, 128],
    "model.layers.0.self_attn.k_proj.weight": [2 * 32, 128],
    "model.layers.0.mlp.gate_proj.weight": [256, 128],
    "model.layers.0.mlp.down_proj.weight": [128, 256],
    "model.layers.1.mlp.gate.weight": [128, 8],
    "model.layers.1.mlp.gate.weight_1": [128, 8],
    "model.layers.1.mlp.moe_statics.e_score_correction_bias": [2, 8],
    "model.layers.1.mlp.experts.15.up_proj.weight": [32, 128],
    "model.layers.1.mlp.shared_experts.gate_proj.weight": [128, 128],
    "vision_model.patch_embed.proj.weight": [64, 588],
    "vision_model.blocks.1.attn.qkv.weight": [192, 64],
    "model.resampler_model.temporal_linear.0.weight": [256, 512],
    "model.resampler_model.mlp.weight": [128, 256],
}
HF_TEXT_SHAPES = {"model.layers.1.mlp.moe_statics.e_score_correction_bias": [1, 8]}


def _stored(folder):
    """Shape and dtype of each tensor, as the reference library sees the file."""
    with safetensors.safe_open(str(folder / "model.safetensors"), "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}


@pytest.mark.parametrize(
    ("kind", "layout", "expected"),
    [
        ("vl", "paddle", PADDLE_VL_SHAPES),
        ("vl", "hf", HF_VL_SHAPES),
        ("moe", "hf", HF_TEXT_SHAPES),
        ("dense", "paddle", {"ernie.layers.0.self_attn.o_proj.weight": [8 * 32, 128]}),
    ],
)
def test_files_have_the_released_names_and_shapes(kind, layout, expected, make_checkpoint):
    stored = _stored(make_checkpoint(kind, layout))
    assert {name: stored[name][0] for name in expected} == expected


def test_routers_and_correction_biases_alone_are_float32(make_checkpoint):
    kept = {
        name.split(".mlp.")[1]
        for name, (_, dtype) in _stored(make_checkpoint("vl")).items()
        if dtype == "F32"
    }
    assert kept == {"gate.weight", "gate.weight_1", "moe_statics.e_score_correction_bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_those_of_the_served_model(kind, make_checkpoint):
    folder = make_checkpoint(kind)
    config = json.loads((folder / "config.json").read_text())
    specs = parameter_specs(load_model_config(folder))
    assert dict(canonical_shapes(config)) == {name: spec.shape for name, spec in specs.items()}


def test_a_layout_is_told_by_the_spelling_of_its_dtype(make_checkpoint):
    paddle = json.loads((make_checkpoint("vl", "paddle") / "config.json").read_text())
    hf = json.loads((make_checkpoint("vl", "hf") / "config.json").read_text())
    assert (paddle["dtype"], hf["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert "torch_dtype" not in paddle and "dtype" not in hf


def _contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_command_writes_the_same_bytes_for_the_same_seed(tmp_path, make_checkpoint):
    command = [sys.executable, str(SCRIPT), "--kind", "vl", "--layout", "hf", "--seed", "9"]
    subprocess.run([*command, "--shards", "2", str(tmp_path)], check=True, timeout=60)
    assert _contents(tmp_path) == _contents(make_checkpoint("vl", "hf", seed=9, shards=2))


def test_another_seed_gives_other_weights_and_the_same_tokenizer(make_checkpoint):
    first, second = _contents(make_checkpoint("moe")), _contents(make_checkpoint("moe", seed=1))
    different = {name for name in first if first[name] != second[name]}
    assert different == {"model.safetensors"}


def test_the_default_is_a_few_megabytes(make_checkpoint):
    assert sum(map(len, _contents(make_checkpoint("vl")).values())) < 6_000_000


def test_shards_are_listed_in_an_index(make_checkpoint):
    folder = make_checkpoint("vl", shards=3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(set(index["weight_map"].values())) == names
    sizes = [(folder / name).stat().st_size for name in names]
    assert max(sizes) < 1.2 * min(sizes)
    assert 0 < index["metadata"]["total_size"] < sum(sizes)


def test_more_shards_than_tensors_leave_no_file_empty(tmp_path, load_arrays):
    make_tiny_checkpoint(tmp_path, "dense", shards=1000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 26
    assert len(load_arrays(tmp_path)) == 26


def test_values_are_lively_nowhere_zero_or_one(make_checkpoint, load_arrays):
    for name, array in load_arrays(make_checkpoint("vl")).items():
        assert array.std() > 0.01, name


def test_the_tokenizer_spells_like_the_released_one(make_checkpoint):
    folder = make_checkpoint("vl")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert [pieces.id_to_piece(index) for index in range(4)] == ["<unk>", "<s>", "</s>", "0"]
    assert [pieces.id_to_piece(index) for index in (13, 268)] == ["<0x00>", "<0xFF>"]
    assert pieces.encode("a\nb", out_type=str) == ["a", "<0x0A>", "b"]
    assert pieces.encode("2025", out_type=str) == ["2", "0", "2", "5"]
    text = "  Hello,  世界 🙂\t{x}\n\n你好\ufeff①"
    assert pieces.decode(pieces.encode(text)) == text
    assert len(pieces.encode("请描述一下这张图片的内容。")) <= 10


def test_control_tokens_follow_the_pieces_without_gap(make_checkpoint):
    folder = make_checkpoint("vl")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    added = json.loads((folder / "added_tokens.json").read_text())
    first = pieces.get_piece_size()
    assert sorted(added.values()) == list(range(first, first + len(added)))
    config = load_model_config(folder)
    assert first + len(added) <= config.vocab_size
    assert config.image_token_id == added["<|IMAGE_PLACEHOLDER|>"]
    names = ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<think>", "</think>", "<tool_call>")
    assert set(names) <= set(added)
    assert "<|image@placeholder|>" not in added
    assert all(pieces.piece_to_id(name) == 0 for name in added)


def test_a_chat_template_comes_only_when_asked_for(make_checkpoint):
    plain = json.loads((make_checkpoint("vl") / "tokenizer_config.json").read_text())
    asked = make_checkpoint("vl", chat_template=True) / "tokenizer_config.json"
    assert "chat_template" not in plain
    assert "<|image@placeholder|>" in json.loads(asked.read_text())["chat_template"]


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, min_value=-(2.0**100), max_value=2.0**100))
def test_rounding_to_bfloat16_picks_the_nearest(value):
    exact = np.array([value], np.float32)
    bits = round_to_bfloat16(exact).astype(np.int64)[0]
    neighbours = np.array([bits - 1, bits, bits + 1], np.int64) % 2**16
    values = (neighbours.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    distances = np.abs(values - float(exact[0]))
    assert distances[1] == np.nanmin(distances)


TURNS = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}
PARTS = [PICTURE, {"type": "video_url"}, {"type": "text", "text": "Compare."}, PICTURE]
MEDIA_PROMPT = (
    "<|begin_of_sentence|>User: Picture 1:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>"
    "Video 1:<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>Compare."
    "Picture 2:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>\nAssistant: <think>"
)


@pytest.mark.parametrize(
    ("kind", "messages", "options", "prompt"),
    [
        (
            "dense",
            [*TURNS, {"role": "user", "content": "Bye"}],
            {},
            "<|begin_of_sentence|>You are helpful.\nUser: Hi\n"
            "Assistant: Hello!<|end_of_sentence|>User: Bye\nAssistant: ",
        ),
        (
            "vl",
            [*TURNS, {"role": "user", "content": "Bye"}],
            {"enable_thinking": False},
            "<|begin_of_sentence|>You are helpful.\nUser: Hi\n"
            "Assistant: Hello!<|end_of_sentence|>User: Bye\n"
            "Assistant: <think>\n\n</think>\n\n",
        ),
        ("vl", [{"role": "user", "content": PARTS}], {}, MEDIA_PROMPT),
    ],
)
def test_the_carried_templates_render_the_released_prompts(
    kind, messages, options, prompt, make_checkpoint
):
    folder = make_checkpoint(kind, chat_template=True)
    source = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    rendered = template.render(messages=messages, add_generation_prompt=True, **options)
    assert rendered == prompt
