"""One training run, made anew or taken up where it was: in how many pieces it is run changes nothing of it."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from membench.errors import UsageError
from membench.layers.models.model import Model
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import ModelSpec
from membench.learning.settings import Training
from membench.measuring.memory import peak_bytes, reset_peak
from membench.training.clock import Clock
from membench.training.divergence import Watch
from membench.training.evaluation import Evaluation
from membench.training.final import final_metrics
from membench.training.group import Group
from membench.training.rates import scheduler
from membench.training.scalars import Scalars
from membench.training.task import TaskData
from membench.training.trained import Point, Trained
from membench.training.update import Update
from membench.words import how_many

_SEEN_TOGETHER = {"cpu": 1, "cuda": 32}  # steps whose losses are read at once: a GPU is waited for to read them
_REPORT_EVERY_S = 0.25
_NOT_OF_A_RUN = {"checkpoint_seconds", "seeds", "tuning"}  # settings that change nothing of one run
# of a run, what a checkpoint keeps beside what has a state of its own
_KEPT = ("final", "resumed_at", "_losses", "_gradient_norm", "_next_point", "_peak_bytes")
Report = Callable[[str, float], None]


class Run:
    """A run as far as it has come: made anew, or taken up from its checkpoint.

    Args:
        folder: of its checkpoints and scalars; of a group, one that all its processes see.
        group: the processes that train it together; None: this one alone.
        named: what besides ``spec`` and ``settings`` tells it from other runs, as JSON values.
    """

    def __init__(
        self,
        spec: ModelSpec,
        data: TaskData,
        settings: Training,
        seed: int,
        device: torch.device,
        folder: Path | None,
        named: dict[str, Any],
        group: Group | None = None,
    ) -> None:
        group = group or Group()
        group.check(settings)
        if data.vocab_size > spec.vocab_size:
            raise UsageError(
                f"the task has {how_many(data.vocab_size, 'token')}, the model {spec.vocab_size}", key="vocab_size"
            )
        self.spec, self.data, self.settings, self.device, self.folder = spec, data, settings, device, folder
        self._group = group
        self.clock = Clock(
            spec,
            settings.stop,
            device,
            energy=group.counts_energy(device),
            agree=group.agree,
            each_step=folder is not None,  # when a checkpoint is due, time decides
        )
        self.watch = Watch()
        self.curve: list[Point] = []
        self.final: dict[str, float | None] | None = None
        self.resumed_at: list[int] = []
        self._losses = (0.0, 0)  # their sum since the last point, and of how many
        self._gradient_norm: float | None = None
        self._unseen: list[tuple[int, Tensor, Tensor | None]] = []
        self._next_point = 1
        self._peak_bytes: int | None = None
        self._unsaved = ""  # why there is no checkpoint of the last state that should have one
        self._saved_at, self._reported_at = self.clock.now, time.monotonic()
        self.model = Model(
            spec, group.exchange, device=device, generator=torch.Generator(device).manual_seed(seed)
        ).train()
        group.share(self.model)
        self.optimizer = _optimizer(self.model, settings)
        if settings.compiled:
            for block in self.model.blocks:
                block.compile()
        self._update = Update(self.model, self.optimizer, settings, device, group)
        self._evaluation = Evaluation(self.model, data, settings, device, group)
        identity = _identity(spec, settings, seed, named)
        self._checkpoint = None if folder is None else group.checkpoint(folder, identity)
        if self._checkpoint is not None:
            state = self._checkpoint.load(self.model, self.optimizer)
            if state is not None:
                self._load(state)
        # made after a state was taken up, so that the rates it begins with are those of this place
        self._scheduler = scheduler(self.optimizer, settings, lambda: self.clock.share)

    def finish(self, report: Report, matmul_flops_per_s: float | None = None) -> Trained:
        """Trains until the budget is spent or the run has diverged; at once, where it already has."""
        if self.final is None:
            reset_peak(self.device.type)
            self._go_on(report)
            usage = {} if self.watch.reason is not None else self._usage(report)
            self._note_peak()
            self.final = final_metrics(self.spec, self.clock, self.curve, usage, self._peak_bytes, matmul_flops_per_s)
            self._save()
        reason = self.watch.reason
        return Trained(
            status="ok" if reason is None else "diverged",
            reason=reason,
            curve=self.curve,
            final=self.final,
            resumed_at=self.resumed_at,
            data=self.data.description,
        )

    def _go_on(self, report: Report) -> None:
        scalars = Scalars(self.folder if self._group.writes else None, self.clock.steps)
        try:
            while self.clock.share < 1 and self.watch.reason is None:
                with self.clock.running():
                    self._train_a_while(report)
                if self.watch.reason is None and self._point_is_due():
                    self._take_point(scalars, report)
                if self._checkpoint_is_due():
                    self._save()
        finally:
            scalars.close()

    def _train_a_while(self, report: Report) -> None:
        """Until a point or a checkpoint is due, the budget is spent, or it has diverged."""
        together, sequences = _SEEN_TOGETHER[self.device.type], self.settings.sequences
        pauses = False
        while not pauses and self.watch.reason is None:
            batch = self.data.batch(self.clock.steps * sequences, sequences)
            loss, norm = self._update(batch)
            self.clock.took(len(batch.tokens), batch.tokens.shape[1] - 1)
            self._scheduler.step()
            self._unseen.append((self.clock.steps, loss, norm))
            pauses = self._point_is_due() or self._checkpoint_is_due()
            if pauses or len(self._unseen) >= together:
                self._see(report)

    def _see(self, report: Report) -> None:
        """Reads what the last steps left; a GPU is waited for."""
        steps, losses, norms = zip(*self._unseen, strict=True)
        self._unseen.clear()
        found = torch.stack(losses).tolist()
        found_norms = [None] * len(steps) if norms[0] is None else torch.stack(norms).tolist()
        for each in zip(steps, found, found_norms, strict=True):
            self.watch.see(*each)
        self._losses = (self._losses[0] + sum(found), self._losses[1] + len(found))
        self._gradient_norm = found_norms[-1]
        self._tell(report, f"step {steps[-1]}, loss {found[-1]:.3f}{self._unsaved}")

    def _tell(self, report: Report, doing: str) -> None:
        """What is done, a few times a second."""
        if time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            report(doing, min(1.0, self.clock.share))

    def _point_is_due(self) -> bool:
        share = self.clock.share
        return share >= 1 or share * self.settings.evaluations >= self._next_point

    def _checkpoint_is_due(self) -> bool:
        return self._checkpoint is not None and self.clock.now - self._saved_at >= self.settings.checkpoint_seconds

    def _take_point(self, scalars: Scalars, report: Report) -> None:
        """Evaluates; an answer that is no number is a divergence that no loss has shown yet."""
        metrics = self._evaluation.score(lambda: self._tell(report, f"asking after step {self.clock.steps}")).metrics
        nll = metrics["answer_nll"]
        if nll is None or not math.isfinite(nll):
            self.watch.reason = f"the loss of answers is no number at step {self.clock.steps}"
            return
        tables = [table.param_groups[0]["lr"] for table in self.optimizer.tables]
        total, count = self._losses
        point = Point(
            step=self.clock.steps,
            tokens=self.clock.tokens,
            flops=self.clock.flops,
            seconds=self.clock.seconds,
            joules=self.clock.joules,
            loss=total / count,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            table_learning_rate=tables[0] if tables else None,
            gradient_norm=self._gradient_norm,
            metrics=metrics,
        )
        self.curve.append(point)
        scalars.add(point)
        self._losses = (0.0, 0)
        self._next_point = math.floor(self.clock.share * self.settings.evaluations) + 1

    def _usage(self, report: Report) -> dict[str, float | None]:
        return self._evaluation.usage(lambda: self._tell(report, "counting what is used"))

    def _note_peak(self) -> None:
        """The highest of all processes that had a part in this run."""
        peaks = peak_bytes(self.device.type, 0)
        now = peaks["peak_allocated_bytes"] or peaks["peak_process_bytes"]
        self._peak_bytes = self._group.largest(max(now or 0, self._peak_bytes or 0) or None, self.device)

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._note_peak()
        state = {
            "clock": self.clock.state(),
            "watch": self.watch.state(),
            "curve": [point.model_dump() for point in self.curve],
            **{name: getattr(self, name) for name in _KEPT},
        }
        try:
            self._checkpoint.save(state, self.model, self.optimizer)
            self._unsaved = ""
        except UsageError as error:  # a full disk takes the checkpoint, and not the run
            self._unsaved = f", {error}"
        self._saved_at = self.clock.now

    def _load(self, state: dict[str, Any]) -> None:
        self.clock.load(state["clock"])
        self.watch.load(state["watch"])
        self.curve = [Point(**point) for point in state["curve"]]
        for name in _KEPT:
            setattr(self, name, state[name])
        if self.final is None:
            self.resumed_at.append(self.clock.steps)


def _identity(spec: ModelSpec, settings: Training, seed: int, named: dict[str, Any]) -> str:
    """The same for what gives the same run."""
    training = settings.model_dump(mode="json", exclude=_NOT_OF_A_RUN)
    run = {"model": spec.model_dump(mode="json"), "training": training, "seed": seed, **named}
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _optimizer(model: Model, settings: Training) -> LayerOptimizer:
    """Frozen tables have a rate of 0: all the work is done, and no bit of them changes."""
    return LayerOptimizer(
        model,
        settings.optimizer,
        settings.learning_rate,
        table_learning_rate=0.0 if settings.frozen_tables else settings.table_learning_rate,
        weight_decay=settings.weight_decay,
        table_weight_decay=settings.table_weight_decay,
    )
