"""One run: initialise, step, balance the experts, log, pause and resume."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .feed import Feed
from .forward import TrainingForward
from .pool import Pool
from .schedule import Schedule
from .worker import GROUP_NAMES

LOG_EVERY = 50
WEIGHT_DECAY = 0.03
MAX_GRADIENT_NORM = 1.0


def initialise(model: Any, seed: int) -> None:
    """Fan-in scaled normal weights; what is added to the residual stream starts small."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 * model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith("e_score_correction_bias"):
                continue
            if "embed_tokens" in name:
                deviation = 0.06
            else:
                deviation = 0.8 / math.sqrt(parameter.shape[-1])
                if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                    deviation /= math.sqrt(depth)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * deviation)
        # Media tokens enter the stream as loud as text tokens do.
        model.model.resampler_model.after_norm.weight.fill_(0.06)
        model.tie_weights()


class Trainer:
    """Owns the optimiser and the log; `run` trains until the schedule or the pause is reached."""

    def __init__(
        self, model: Any, device: torch.device, schedule: Schedule, ragged_kernel: bool
    ) -> None:
        self.model = model.to(device).train()
        self.device = device
        self._half = device.type == "cuda"
        self.schedule = schedule
        self.forward = TrainingForward(model, ragged_kernel).to(device)
        self._optimizer = _optimizer(model, device)
        self._biases = [
            (layer.mlp.text_moe.gate.moe_statics, layer.mlp.vision_moe.gate.moe_statics)
            for index, layer in enumerate(model.model.language_model.layers)
            if index in self.forward.sparse_layers
        ]
        self.log: list[dict[str, Any]] = []
        self._sums = torch.zeros((3, len(GROUP_NAMES)), device=device)

    def run(self, feed: Feed, pool: Pool, pause_after_s: float = math.inf) -> None:
        """Train; returns at the end of the schedule or after `pause_after_s` of this call."""
        self._step(feed, pool)  # compiles, loads kernels and waits for the feed's warm-up
        self.schedule.start()
        began = last = time.monotonic()
        tokens = 0
        while self.schedule.progress < 1 and time.monotonic() - began < pause_after_s:
            tokens += self._step(feed, pool)
            if self.schedule.step % LOG_EVERY == 0:
                now = time.monotonic()
                self._record(tokens / (now - last), LOG_EVERY / (now - last), feed, pool)
                last, tokens = now, 0
        self.schedule.spent_s = self.schedule.elapsed_s

    def _step(self, feed: Feed, pool: Pool) -> int:
        step, tasks = feed.next()
        num_tokens = len(step.token_ids)
        step = step.to(self.device)
        step.patches = pool.patches[step.patches]
        rate = self.schedule.learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            losses, right = self.forward(step)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._balance()
        self._count(losses.detach(), right, torch.from_numpy(tasks).to(self.device))
        self.schedule.step += 1
        return num_tokens

    @torch.no_grad()
    def _balance(self) -> None:
        """Move each correction bias towards experts that got less than their share."""
        loads = self.forward.loads
        change = (loads.mean(dim=-1, keepdim=True) - loads).sign() * self.schedule.balance_rate()
        for layer, pair in enumerate(self._biases):
            for modality, statics in enumerate(pair):
                statics.e_score_correction_bias.add_(change[layer, modality])
        loads.zero_()

    def _count(self, losses: Tensor, right: Tensor, tasks: Tensor) -> None:
        rows = torch.stack([losses, right.float(), torch.ones_like(losses)])
        self._sums.index_add_(1, tasks, rows)

    def _record(self, token_rate: float, step_rate: float, feed: Feed, pool: Pool) -> None:
        loss, right, count = self._sums.tolist()
        self._sums.zero_()
        if not all(map(math.isfinite, loss)):
            raise RuntimeError(f"the loss is not finite at step {self.schedule.step}")
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
            "groups": groups,
            "tokens_per_second": round(token_rate),
            "examples_made": pool.num_examples,
            "feed_waits": feed.num_waits,
        }
        self.log.append(entry)
        if self.schedule.step % (LOG_EVERY * 10) == 0 or self.schedule.step <= LOG_EVERY * 4:
            parts = " ".join(f"{name} {value['accuracy']:.3f}" for name, value in groups.items())
            print(
                f"step {entry['step']} {entry['seconds']:.0f}s loss {entry['loss']:.4f} "
                f"{step_rate:.1f} steps/s {token_rate / 1e3:.0f}k tokens/s "
                f"made {pool.num_examples} held {pool.num_held} waits {feed.num_waits} | {parts}",
                flush=True,
            )

    def save_state(self, path: Path) -> None:
        """All that `load_state` needs to go on."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "spent_s": self.schedule.spent_s,
            "step": self.schedule.step,
            "log": self.log,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)

    def load_state(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.schedule.spent_s, self.schedule.step = state["spent_s"], state["step"]
        self.log = state["log"]

    def write_log(self, path: Path) -> None:
        path.write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")


def _optimizer(model: Any, device: torch.device) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=device.type == "cuda")
