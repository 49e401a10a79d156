"""Train the small ERNIE-4.5-VL and export it: `python scripts/train_tiny/train.py`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers fill the cores
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from scripts.tiny_checkpoint.tokenizer import write_json
from scripts.train_tiny import vocabulary
from scripts.train_tiny.architecture import flat_config, transformers_config
from scripts.train_tiny.feed import Feed
from scripts.train_tiny.files import write_settings
from scripts.train_tiny.mixture import PLANS
from scripts.train_tiny.plot import draw_loss_curve
from scripts.train_tiny.pool import Limits, Pool
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.prompt import Prompter
from scripts.train_tiny.schedule import Schedule
from scripts.train_tiny.trainer import Trainer, initialise
from scripts.train_tiny.weights import export_weights, load_weights


def main() -> None:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    torch.manual_seed(options.seed)
    if not (CHECKPOINT / "tokenizer.model").exists():
        vocabulary.train(CHECKPOINT)
    prompter = Prompter(CHECKPOINT)
    added = json.loads((CHECKPOINT / "added_tokens.json").read_text(encoding="utf-8"))
    config = flat_config(added)
    from transformers import Ernie4_5_VLMoeForConditionalGeneration

    model = Ernie4_5_VLMoeForConditionalGeneration(transformers_config(config))
    initialise(model, options.seed)
    if options.weights:
        load_weights(model, config, options.weights)
    print(f"{sum(p.numel() for p in model.parameters())} parameters on {device}", flush=True)

    schedule = Schedule(
        options.minutes, options.steps, options.learning_rate, repainting=options.repainting
    )
    trainer = Trainer(model, device, schedule, options.vision_rate, bool(options.compile))
    if options.resume:
        trainer.load_state(options.resume)
    boundaries = tuple(
        config[f"{name}_token_id"]
        for name in ("image_start", "image_end", "video_start", "video_end")
    )
    pool = Pool(
        options.pool_patches,
        options.pool_examples,
        device,
        (prompter.placeholder_id, *boundaries),
        rectangles=not on_gpu,
    )
    first_chunk = 1_000_000 * (1 + schedule.step // 10) if schedule.step else 0
    feed = Feed(
        CHECKPOINT,
        pool,
        options.seed,
        options.workers,
        limits := Limits(options.tokens, options.media_share),
        options.warm_up,
        first_chunk,
        options.thinking,
        options.plan,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_settings(options.out)

    def save() -> None:
        export_weights(model, config, options.out)
        trainer.write_log(options.out / "training_log.json")

    began = time.monotonic()
    feed.start_workers()
    try:
        trainer.prepare(pool, limits)
        feed.start()
        trainer.run(feed, pool, options.pause_after * 60, save)
    except RuntimeError as error:  # what was learnt so far is exported all the same
        print(f"stopped: {error}", flush=True)
    finally:
        feed.close()
    print(
        f"{schedule.step} steps, {schedule.spent_s:.0f} s of training, {time.monotonic() - began:.0f} s in all",
        flush=True,
    )

    if options.state:
        trainer.save_state(options.state)
    save()
    draw_loss_curve(trainer.log, options.out / "loss_curve.png")
    if options.hf:
        (options.out / "hf").mkdir(exist_ok=True)
        export_weights(model, config, options.out / "hf", "hf")
    size = (options.out / "model.safetensors").stat().st_size
    print(f"exported {size} bytes to {options.out}", flush=True)
    write_json(options.out / "training.json", _summary(options, schedule, trainer))


def _summary(
    options: argparse.Namespace, schedule: Schedule, trainer: Trainer
) -> dict[str, object]:
    last = trainer.log[-1] if trainer.log else {}
    return {
        "seed": options.seed,
        "plan": options.plan,
        "began_from": options.weights.name if options.weights else None,
        "steps": schedule.step,
        "training_seconds": round(schedule.spent_s),
        "tokens_per_batch": options.tokens,
        "media_share": options.media_share,
        "peak_learning_rate": options.learning_rate,
        "vision_rate": options.vision_rate,
        "repainting": options.repainting,
        "examples_made": last.get("examples_made"),
        "final_loss": last.get("loss"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="where the result goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=18.0, help="length of the schedule")
    parser.add_argument("--steps", type=int, default=0, help="length in steps instead of minutes")
    parser.add_argument("--pause-after", type=float, default=math.inf, help="minutes of this call")
    parser.add_argument("--state", type=Path, help="write what --resume needs")
    parser.add_argument("--resume", type=Path, help="go on from a --state file")
    parser.add_argument("--weights", type=Path, help="start from this exported checkpoint")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--vision-rate", type=float, default=0.5, help="learning rate of the vision tower: a share"
    )
    parser.add_argument("--tokens", type=int, default=40_960, help="tokens in a batch")
    parser.add_argument(
        "--media-share", type=float, default=1.0, help="room for media in a batch, of the usual"
    )
    parser.add_argument("--thinking", type=float, default=0.45, help="share of thinking samples")
    parser.add_argument(
        "--plan", choices=sorted(PLANS), default="first", help="the others go with --weights"
    )
    parser.add_argument(
        "--repainting", type=float, default=1.0, help="weight of that loss at first"
    )
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--warm-up", type=int, default=8000, help="examples before the first step")
    parser.add_argument("--pool-patches", type=int, default=100_000_000)
    parser.add_argument("--pool-examples", type=int, default=4_000_000)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="fuse kernels with torch.compile"
    )
    parser.add_argument("--hf", action="store_true", help="write the HF layout too")
    parser.add_argument(
        "--smoke", action="store_true", help="a few tiny steps that touch everything"
    )
    options = parser.parse_args()
    if options.smoke:
        options.steps = options.steps or 60
        options.tokens = min(options.tokens, 3200)
        options.workers = min(options.workers, 2)
        options.warm_up = 96
        options.pool_patches, options.pool_examples = 400_000, 20_000
    return options


if __name__ == "__main__":
    main()
