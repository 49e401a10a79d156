"""Measure the trained checkpoint on held-out samples: `python scripts/train_tiny/evaluate.py`.

With `--url` a running server answers, otherwise transformers' model does (on a GPU if there is
one). Ends with status 1 when a threshold is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.train_tiny.judging import (
    THRESHOLDS,
    Case,
    Reply,
    Verdict,
    cases,
    judge,
    report,
    report_names,
)
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.shown import names_in


def main() -> None:
    options = _options()
    chosen = cases(options.samples, options.skills, options.excluded)
    began = time.monotonic()
    replies = _ask_server(chosen, options) if options.url else _ask_model(chosen, options)
    verdicts = [judge(case, reply) for case, reply in replies]
    table, passed = report(verdicts)
    if options.shown:
        shown = set(options.shown.read_text(encoding="utf-8").splitlines())
        table += "\n" + report_names(
            verdicts, lambda sample: not shown.issuperset(names_in(sample))
        )
    print(table)
    print(f"{len(verdicts)} answers in {time.monotonic() - began:.0f} s", flush=True)
    for verdict in [v for v in verdicts if not v.right][: options.show]:
        print(describe(verdict))
    if options.failures:
        wrong = [describe(verdict) for verdict in verdicts if not verdict.right]
        options.failures.write_text("\n".join(wrong), encoding="utf-8")
    if options.report:
        options.report.write_text(table, encoding="utf-8")
    sys.exit(0 if passed else 1)


def _ask_server(chosen: list[Case], options: argparse.Namespace) -> Iterator[tuple[Case, Reply]]:
    from scripts.train_tiny.asking import ServerAnswerer

    return ServerAnswerer(options.url).answers(chosen, options.batch)


def _ask_model(chosen: list[Case], options: argparse.Namespace) -> Iterator[tuple[Case, Reply]]:
    import torch
    from transformers import Ernie4_5_VLMoeForConditionalGeneration

    from scripts.train_tiny.answering import TorchAnswerer
    from scripts.train_tiny.architecture import transformers_config
    from scripts.train_tiny.prompt import Prompter
    from scripts.train_tiny.weights import load_weights

    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    model = Ernie4_5_VLMoeForConditionalGeneration(transformers_config(config))
    load_weights(model, config, options.model)
    if options.without_bias:
        for name, parameter in model.named_parameters():
            if name.endswith("e_score_correction_bias"):
                parameter.data.zero_()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prompter = Prompter(options.model)
    names = ("image_start", "image_end", "video_start", "video_end")
    vision = (prompter.placeholder_id, *(config[f"{name}_token_id"] for name in names))
    answerer = TorchAnswerer(model, prompter, vision, device)
    return answerer.answers(chosen, options.batch)


def describe(verdict: Verdict) -> str:
    """What was asked, expected and answered, for people to read."""
    sample = verdict.case.sample
    question = sample.messages[-1]["content"]
    if not isinstance(question, str):
        question = " ".join(part.get("text", "[media]") for part in question)
    mode = "thinking" if sample.thinking else "direct"
    return (
        f"- {sample.task} {sample.language} {mode} #{verdict.case.index}\n"
        f"    asked    {question!r}\n"
        f"    expected {sample.answer_text()!r}\n"
        f"    content  {verdict.reply.content!r} {verdict.reply.call or ''}\n"
        f"    reasoned {verdict.reply.reasoning!r}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--url", help="ask this server instead")
    parser.add_argument("--samples", type=int, default=100, help="per skill and language")
    parser.add_argument("--skills", nargs="+", choices=list(THRESHOLDS), default=list(THRESHOLDS))
    parser.add_argument("--batch", type=int, default=64, help="answers at a time")
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers")
    parser.add_argument(
        "--excluded", action="store_true", help="only combinations that training leaves out"
    )
    parser.add_argument("--failures", type=Path, help="write every wrong answer to this file")
    parser.add_argument("--report", type=Path, help="write the table to this file")
    parser.add_argument(
        "--shown", type=Path, help="names that training showed (shown.py): tell the others apart"
    )
    parser.add_argument("--without-bias", action="store_true", help="drop the correction bias")
    return parser.parse_args()


if __name__ == "__main__":
    main()
