"""One run: initialise, step, balance the experts, log, pause and resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .feed import Feed
from .forward import Step, TrainingForward
from .pool import Limits, Pool
from .schedule import Schedule
from .worker import GROUP_NAMES

LOG_EVERY = 50
SAVE_EVERY = 2000
WEIGHT_DECAY = 0.03
MAX_GRADIENT_NORM = 1.0
# Scores lie between 0 and 1: a bias beyond this would decide alone.
MAX_BIAS = 0.4


def initialise(model: Any, seed: int) -> None:
    """Fan-in scaled normal weights; what is added to the residual stream starts small."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 * model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith("e_score_correction_bias"):
                continue
            if "embed_tokens" in name:
                deviation = 0.1
            else:
                deviation = 0.8 / math.sqrt(parameter.shape[-1])
                if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                    deviation /= math.sqrt(depth)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * deviation)
        # Media tokens enter the stream somewhat louder than text tokens do, and stay so: it must
        # not be the easiest way to a lower loss to turn them down.
        loudness = model.model.resampler_model.after_norm.weight
        loudness.fill_(0.2).requires_grad_(False)
        model.tie_weights()


class Trainer:
    """Owns the optimiser and the log; `run` trains until the schedule or the pause is reached.

    On a GPU the whole step is one captured graph: its thousands of small kernels would otherwise
    wait for Python. Every batch therefore has the sizes of `limits`.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        schedule: Schedule,
        vision_rate: float,
        compiled: bool = False,
    ) -> None:
        """`vision_rate`: the vision tower and the resampler learn at this share of the rate.

        `compiled`: fuse the forward pass's kernels with torch.compile.
        """
        self._vision_share = vision_rate
        self.model = model.to(device).train()
        self.device = device
        self.schedule = schedule
        self._on_gpu = device.type == "cuda"
        self.forward = TrainingForward(model, ragged_kernel=self._on_gpu).to(device).train()
        self._pass: Any = torch.compile(self.forward, dynamic=False) if compiled else self.forward
        self._rate = torch.zeros((), device=device)
        self._balance_rate = torch.zeros((), device=device)
        self._vision_rate = torch.zeros((), device=device)
        self._repainting_weight = torch.zeros((), device=device)
        self._repainting = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)
        self._optimizer = _optimizer(self.forward, self._rate, self._vision_rate)
        self._biases = [
            (layer.mlp.text_moe.gate.moe_statics, layer.mlp.vision_moe.gate.moe_statics)
            for index, layer in enumerate(model.model.language_model.layers)
            if index in self.forward.sparse_layers
        ]
        self.log: list[dict[str, Any]] = []
        self._sums = torch.zeros((3, len(GROUP_NAMES)), device=device)
        self._static: Step | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def prepare(self, pool: Pool, limits: Limits) -> None:
        """Capture the step on batches of padding only, which teach nothing."""
        if not self._on_gpu:
            return
        self._static = pool.step(np.zeros(0, np.int64), limits).to(self.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute(self._static, pool)
        torch.cuda.current_stream().wait_stream(side)
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._compute(self._static, pool)
        torch.cuda.synchronize()

    def run(self, feed: Feed, pool: Pool, pause_after_s: float, save: Callable[[], None]) -> None:
        """Train to the end of the schedule or for `pause_after_s`; `save` from time to time."""
        step = feed.next()  # waits for the feed's warm-up
        self.schedule.start()
        began = last = time.monotonic()
        while self.schedule.progress < 1 and time.monotonic() - began < pause_after_s:
            self._train(step, pool)
            step = feed.next()
            if self.schedule.step % LOG_EVERY == 0:
                now = time.monotonic()
                self._record(LOG_EVERY / (now - last), feed, pool)
                last = now
            if self.schedule.step % SAVE_EVERY == 0:
                save()
        self.schedule.spent_s = self.schedule.elapsed_s

    def _train(self, step: Step, pool: Pool) -> None:
        self._rate.fill_(self.schedule.learning_rate())
        self._vision_rate.fill_(self.schedule.learning_rate() * self._vision_share)
        self._repainting_weight.fill_(self.schedule.repainting_weight())
        self._balance_rate.fill_(self.schedule.balance_rate())
        if self._graph is None or self._static is None:
            self._compute(step.to(self.device), pool)
        else:
            self._static.overwrite(step)
            self._graph.replay()
        self.schedule.step += 1

    def _compute(self, step: Step, pool: Pool) -> None:
        """Forward, backward, update, balance, count: everything a step does on the device."""
        self._optimizer.zero_grad(set_to_none=True)
        device = self.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._on_gpu, cache_enabled=False):
            losses, right, repainting = self._pass(step, pool.patches)
        learnt = (step.labels >= 0).float()
        answers = losses.sum() / learnt.sum().clamp(min=1)
        (answers + self._repainting_weight * repainting).backward()
        self._repainting.add_(repainting.detach().nan_to_num(0, 0, 0))
        parameters = [p for p in self.forward.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM, foreach=True)
        is_broken = (~norm.isfinite()).float()
        if self._on_gpu:  # the fused kernel leaves everything as it is when this is 1
            self._optimizer.found_inf = is_broken
        elif is_broken:
            self._optimizer.zero_grad(set_to_none=True)
        self._skipped.add_(is_broken)
        self._optimizer.step()
        self._balance()
        # A step that was skipped has no finite losses; it is counted, not summed.
        rows = torch.stack([losses.detach().nan_to_num(0, 0, 0), right.float() * learnt, learnt])
        self._sums.index_add_(1, step.tasks, rows)

    @torch.no_grad()
    def _balance(self) -> None:
        """Move each correction bias towards experts that got less than their share."""
        loads = self.forward.loads
        change = (loads.mean(dim=-1, keepdim=True) - loads).sign() * self._balance_rate
        for layer, pair in enumerate(self._biases):
            for modality, statics in enumerate(pair):
                bias = statics.e_score_correction_bias
                bias.add_(change[layer, modality]).clamp_(-MAX_BIAS, MAX_BIAS)
        loads.zero_()

    def _record(self, step_rate: float, feed: Feed, pool: Pool) -> None:
        loss, right, count = self._sums.tolist()
        self._sums.zero_()
        skipped = int(self._skipped)
        self._skipped.zero_()
        if skipped == LOG_EVERY:
            raise RuntimeError(f"no step had a finite gradient before step {self.schedule.step}")
        groups = {
            name: {"loss": loss[i] / count[i], "accuracy": right[i] / count[i]}
            for i, name in enumerate(GROUP_NAMES)
            if count[i]
        }
        entry = {
            "step": self.schedule.step,
            "seconds": round(self.schedule.elapsed_s, 1),
            "learning_rate": self.schedule.learning_rate(),
            "loss": sum(loss) / max(1.0, sum(count)),
            "accuracy": sum(right) / max(1.0, sum(count)),
            "skipped_steps": skipped,
            "repainting": float(self._repainting) / LOG_EVERY,
            "largest_bias": max(
                float(statics.e_score_correction_bias.abs().max())
                for pair in self._biases
                for statics in pair
            ),
            "groups": groups,
            "steps_per_second": round(step_rate, 2),
            "examples_made": pool.num_examples,
            "feed_waits": feed.num_waits,
        }
        self._repainting.zero_()
        self.log.append(entry)
        if self.schedule.step % (LOG_EVERY * 10) == 0 or self.schedule.step <= LOG_EVERY * 4:
            parts = " ".join(f"{name} {value['accuracy']:.3f}" for name, value in groups.items())
            print(
                f"step {entry['step']} {entry['seconds']:.0f}s loss {entry['loss']:.4f} "
                f"{step_rate:.1f} steps/s {sum(count) * step_rate / LOG_EVERY / 1e3:.0f}k answers/s "
                f"made {pool.num_examples} held {pool.num_held} waits {feed.num_waits} "
                f"bias {entry['largest_bias']:.2f} repaint {entry['repainting']:.3f} skip {skipped} | {parts}",
                flush=True,
            )

    def save_state(self, path: Path) -> None:
        """All that `load_state` needs to go on."""
        state = {
            "model": self.forward.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "spent_s": self.schedule.spent_s,
            "step": self.schedule.step,
            "log": self.log,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)

    def load_state(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self.forward.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.schedule.spent_s, self.schedule.step = state["spent_s"], state["step"]
        self.log = state["log"]

    def write_log(self, path: Path) -> None:
        path.write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")


def _optimizer(forward: TrainingForward, rate: Tensor, vision_rate: Tensor) -> torch.optim.AdamW:
    """The rates are tensors on the model's device that are changed in place."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in forward.named_parameters():
        if parameter.requires_grad:
            is_vision = "vision_tower" in name or "resampler_model" in name
            groups.setdefault((is_vision, parameter.ndim >= 2), []).append(parameter)
    on_gpu = rate.device.type == "cuda"
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": vision_rate if is_vision else rate,
                "weight_decay": WEIGHT_DECAY if is_matrix else 0.0,
            }
            for (is_vision, is_matrix), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=on_gpu,
        capturable=on_gpu,
    )
