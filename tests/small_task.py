"""A small task and small models of each kind, for tests of training."""

import numpy as np
import torch

from membench.layers.spec import ModelSpec
from membench.learning.settings import Training
from membench.machine.energy import EnergyCounter
from membench.training.run import Run
from membench.training.task import Batch, Score, TaskData

VOCAB = 32
SHAPE = {"vocab_size": VOCAB, "model_dim": 16, "num_blocks": 2, "ffn_hidden": 16, "dtype": "float32"}
ROWS = {"num_keys": 64, "heads": 2, "top_k": 4, "key_dim": 8}
MODELS = {
    "dense": {},
    "memory": {"layer": {"kind": "memory", **ROWS}, "at": (1,)},
    "memory_plus": {"layer": {"kind": "memory_plus", **ROWS}, "at": (0, 1), "pool": "shared"},
    "peer": {"layer": {"kind": "peer", **ROWS}, "at": (1,)},
    "moe": {
        "layer": {"kind": "moe", "num_experts": 4, "expert_hidden": 16, "top_k": 2, "balancing": "bias"},
        "at": (1,),
    },
    "moe_loss": {
        "layer": {"kind": "moe", "num_experts": 4, "expert_hidden": 16, "top_k": 1, "balancing": "loss"},
        "at": (1,),
    },
}


def spec_of(kind, **changes):
    """A model of two blocks with a layer of a kind in it."""
    asked = {**SHAPE, "attention": {"heads": 2, "kv_heads": 2, "head_dim": 8}, **MODELS[kind], **changes}
    if "layer" in asked:
        asked["layer"] = {"model_dim": asked["model_dim"], "dtype": asked["dtype"], **asked["layer"]}
    return ModelSpec.model_validate(asked)


class SmallTask(TaskData):
    """Strings of five tokens, of which the last two are to be known; sample n is string n mod 24."""

    vocab_size, length = VOCAB, 4

    def __init__(self, seed=0):
        self.description = {"strings": 24}
        self._strings = torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(24, 5)))
        self._scored = torch.tensor([False, False, True, True])

    def batch(self, first, count):
        tokens = self._strings[torch.arange(first, first + count) % 24]
        return Batch(tokens, self._scored.expand(count, -1))

    def questions(self, most):
        yield self.batch(0, min(most, 24))

    def score(self, logits, most, device):
        (batch,) = self.questions(most)
        nll = torch.nn.functional.cross_entropy(
            logits(batch.tokens[:, :-1].to(device)).flatten(0, 1).float(),
            batch.tokens[:, 1:].flatten().to(device),
            reduction="none",
        ).view(-1, 4)
        return Score({"answer_nll": float(nll[:, 2:].mean()), "bits_learnt": None})


class Interrupted(SmallTask):
    """Ends a run as Ctrl-C does, when a batch is asked for."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def batch(self, first, count):
        if first >= self.at * count:
            raise KeyboardInterrupt
        return super().batch(first, count)


class Ticking:
    """A clock, and an energy counter of so many joules a second, that go on when they are told to."""

    source = "rapl"

    def __init__(self, joules=2.0):
        self.now, self.joules = 0.0, joules

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def counter(self, device):
        """In the place of ``EnergyCounter``."""
        return self if device == "cpu" else EnergyCounter(device)

    def read(self):
        return [self.joules * self.now] if self.source else []

    def spent_j(self, before, after):
        return after[0] - before[0] if self.source else None


def without_times(trained):
    """Of a curve all but what a clock says."""
    return [point.model_dump(exclude={"seconds", "joules"}) for point in trained.curve]


def settings_of(steps=12, **changes):
    """Settings of a short run."""
    given = {"stop": {"steps": steps}, "sequences": 8, "learning_rate": 0.01, "evaluations": 3, **changes}
    return Training.model_validate(given)


def run_of(kind, settings=None, *, folder=None, seed=0, data=None, device="cpu", **changes):
    """A run that can be finished."""
    settings = settings or settings_of()
    return Run(spec_of(kind, **changes), data or SmallTask(), settings, seed, torch.device(device), folder, {})


def finished(*given, **named):
    """What a run leaves behind."""
    return run_of(*given, **named).finish(lambda doing, share: None)


def losses(trained):
    """The losses of a curve."""
    return [point.loss for point in trained.curve]
