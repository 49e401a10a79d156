"""Weights between two of one run: `python scripts/train_tiny/blend.py BEFORE AFTER 0.7 OUT`.

A further round on one skill costs the others a little. On the line from the weights it began with
to those it ended with, most of what was learnt comes early and most of what is lost comes late.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from scripts.tiny_checkpoint.tokenizer import write_json
from scripts.train_tiny.architecture import transformers_config
from scripts.train_tiny.files import write_settings
from scripts.train_tiny.weights import Config, export_weights, load_weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="blend.py", description=__doc__)
    parser.add_argument("before", type=Path, help="the checkpoint that the round began with")
    parser.add_argument("after", type=Path, help="what it ended with")
    parser.add_argument("share", type=float, help="of the latter, from 0 to 1")
    parser.add_argument("out", type=Path, help="where the result goes")
    parser.add_argument("--hf", action="store_true", help="write the HF layout too")
    options = parser.parse_args()
    stored = json.loads((options.after / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in stored.items() if key != "dtype"}
    model = blended(config, options.before, options.after, options.share)
    options.out.mkdir(parents=True, exist_ok=True)
    write_settings(options.out)
    export_weights(model, config, options.out)
    settings = json.loads((options.after / "training.json").read_text(encoding="utf-8"))
    write_json(options.out / "training.json", {**settings, "blended": options.share})
    if options.hf:
        (options.out / "hf").mkdir(exist_ok=True)
        export_weights(model, config, options.out / "hf", "hf")


def blended(config: Config, before: Path, after: Path, share: float) -> torch.nn.Module:
    """(1 − share) · before + share · after, parameter by parameter in float32."""
    from transformers import Ernie4_5_VLMoeForConditionalGeneration

    made = []
    for folder in (before, after):
        model = Ernie4_5_VLMoeForConditionalGeneration(transformers_config(config))
        load_weights(model, config, folder)
        made.append(model)
    first, second = made
    with torch.no_grad():
        for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
            mine.lerp_(theirs, share)
    return first


if __name__ == "__main__":
    main()
