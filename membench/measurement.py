"""One Case measured in this process: inputs, check, choice of implementation, samples, memory, energy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from layers.layer import Layer
from layers.optim import LayerOptimizer
from layers.spec import Cost, ExternalSpec, Mode, has_backward
from layers.verification import Verification, verify
from membench.case import Case
from membench.check_size import sampled_tokens
from membench.implementations import Call, implementation
from membench.inputs import Input, make_inputs, pool_size
from membench.measure.clocks import read_clocks
from membench.measure.energy import EnergyCounter
from membench.measure.memory import (
    SavedForBackward,
    gradient_bytes,
    peak_bytes,
    release_freed_memory,
    reset_peak,
    tensor_bytes,
    weights_bytes,
)
from membench.measure.time import Clock, Samples, Sampling, Step, sample
from membench.measure.traffic import Traffic, count_traffic

_TUNING = Sampling(min_samples=5, floor_samples=3, max_seconds=1.0, warmup_seconds=0.2)
_ENERGY_SECONDS = 1.0  # the counters tick in tens of milliseconds
Progress = Callable[[str], None]


class WrongAnswer(RuntimeError):
    """The layer disagrees with its float64 reference; nothing may be timed."""


class StopWatch:
    """Seconds spent by purpose."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + time.perf_counter() - begin


def make_step(
    mode: Mode, call: Call, layer: Layer, inputs: list[Input], upstream: Tensor, optimizer: LayerOptimizer | None
) -> Step:
    """One call of a mode on input number i.

    forward, prefill, decode: y, without autograd. forward_backward: y and every gradient,
    of x, the parameters (materialized anew) and the touched rows, a router's auxiliary loss
    included. train_step: the same and the optimizer's update.
    """

    def forward(i: int) -> Tensor:
        item = inputs[i % len(inputs)]
        with torch.no_grad():
            return call(item.x, item.routing)

    def forward_backward(i: int) -> None:
        item = inputs[i % len(inputs)]
        layer.zero_gradients()
        y = call(item.x.detach().requires_grad_(True), item.routing)
        loss = layer.auxiliary_loss
        if loss is None:
            y.backward(upstream)
        else:
            torch.autograd.backward([y, loss], [upstream, torch.ones_like(loss)])

    def train_step(i: int) -> None:
        assert optimizer is not None
        forward_backward(i)
        optimizer.step()

    if mode == "train_step":
        return train_step
    return forward_backward if has_backward(mode) else forward


class CaseMeasurement:
    """Measures cases of one built layer, one after the other."""

    def __init__(self, layer: Layer, clock: Clock, cache_bytes: int, progress: Progress) -> None:
        self.layer, self.clock, self.cache_bytes, self.progress = layer, clock, cache_bytes, progress
        self._inputs: dict[str, tuple[list[Input], Traffic]] = {}
        self._verified: dict[tuple[str, str, bool], Verification | None] = {}

    def run(self, case: Case, sampling: Sampling, implementations: list[str]) -> dict[str, Any]:
        """The round's results of one case, JSON-able.

        Raises:
            WrongAnswer: the layer disagrees with its reference.
            ValueError: the case cannot be run on this layer.
        """
        watch, device = StopWatch(), self.clock.device
        self.layer.train(has_backward(case.mode))
        self.progress("inputs")
        with watch.on("inputs"):
            inputs, traffic = self._pool(case)
        # A learning rate of 0: what is timed must be the layer that was checked and whose traffic was counted.
        optimizer = LayerOptimizer(self.layer, case.optimizer, learning_rate=0.0) if case.optimizer else None
        generator = torch.Generator().manual_seed(case.seed + 2)
        upstream = torch.randn(inputs[0].x.shape, generator=generator).to(inputs[0].x)
        name, call, tried = self._choose(case, inputs, upstream, optimizer, implementations, watch)
        step = make_step(case.mode, call, self.layer, inputs, upstream, optimizer)
        self.progress("sampling")
        clocks = [read_clocks(device)]
        with watch.on("sample"):
            samples = sample(self.clock, step, sampling)
            self.progress("sampling")
            hot = sample(self.clock, step, sampling, cold=False) if device == "cuda" else None
        clocks.append(read_clocks(device))
        with watch.on("memory"):
            memory = self._memory(case, step, inputs[0], optimizer)
        with watch.on("energy"):
            energy = self._energy(step)
        verification = self._verified[self._check_key(case, name)]
        return {
            "samples_s": samples.seconds,
            "sampling": _without_seconds(samples),
            "hot_samples_s": hot.seconds if hot else None,
            "implementation": {"chosen": name, "tried": tried},
            "reference": _reference(verification),
            "clocks": clocks,
            "traffic": traffic.as_json(),
            "cost": self._cost(case, traffic),
            "memory": memory,
            "energy": energy,
            "inputs": len(inputs),
            "seconds": watch.seconds,
        }

    def _pool(self, case: Case) -> tuple[list[Input], Traffic]:
        key = case.model_copy(update={"mode": "forward", "optimizer": None}).id
        if key not in self._inputs:
            self._inputs.clear()  # one pool at a time: tables leave little room
            with torch.no_grad():
                inputs = make_inputs(self.layer, case, pool_size(case, self.cache_bytes), self.clock.device)
                self._inputs[key] = inputs, count_traffic(self.layer, inputs)
        return self._inputs[key]

    def _pool_bytes(self) -> int:
        """Device memory of the inputs at hand, but for the one in use."""
        inputs = next(iter(self._inputs.values()))[0]
        return sum(item.x.nbytes for item in inputs[1:])

    def _check_key(self, case: Case, name: str) -> tuple[str, str, bool]:
        pool = case.model_copy(update={"mode": "forward", "optimizer": None}).id
        return pool, name, has_backward(case.mode)

    def _check(self, case: Case, name: str, call: Call, inputs: list[Input]) -> None:
        key = self._check_key(case, name)
        if key in self._verified:
            return
        if isinstance(case.layer, ExternalSpec):
            self._verified[key] = None
            return
        first = inputs[0]
        found = verify(
            self.layer,
            first.x,
            first.routing,
            gradients=has_backward(case.mode),
            sampled_tokens=sampled_tokens(case.layer),
            seed=case.seed,
            call=call,
        )
        if found.failure:
            raise WrongAnswer(f"wrong answer ({name}): {found.failure}; not timed")
        self._verified[key] = found

    def _choose(
        self,
        case: Case,
        inputs: list[Input],
        upstream: Tensor,
        optimizer: LayerOptimizer | None,
        names: list[str],
        watch: StopWatch,
    ) -> tuple[str, Call, dict[str, Any]]:
        """The fastest implementation that is right; one that fails is recorded, not fatal, if another works."""
        usable: dict[str, tuple[Call, float]] = {}
        tried: dict[str, Any] = {}
        failures: list[Exception] = []
        for name in names:
            try:
                with watch.on("check"):
                    self.progress("checking")
                    call = implementation(name, self.layer, inputs[0].x, inputs[0].routing)
                    self._check(case, name, call, inputs)
                if len(names) > 1:
                    with watch.on("tune"):
                        self.progress(f"trying {name}")
                        step = make_step(case.mode, call, self.layer, inputs, upstream, optimizer)
                        seconds = sample(self.clock, step, _TUNING).median_s
                else:
                    seconds = 0.0
                usable[name] = call, seconds
                tried[name] = {"latency_ms": 1e3 * seconds if len(names) > 1 else None, "error": None}
            except (RuntimeError, ValueError) as error:
                failures.append(error)
                self.layer.zero_gradients()
                tried[name] = {
                    "latency_ms": None,
                    "error": (str(error).strip() or type(error).__name__).splitlines()[0],
                }
        if not usable:
            raise failures[0]
        best = min(usable, key=lambda name: usable[name][1])
        return best, usable[best][0], tried

    def _cost(self, case: Case, traffic: Traffic) -> dict[str, Any]:
        if isinstance(case.layer, ExternalSpec):
            from layers.external import External, counted_cost

            assert isinstance(self.layer, External)
            cost, source = counted_cost(self.layer, case.tokens, case.mode, self.clock.device)
        else:
            source = "exact"
            cost = case.layer.cost(
                case.tokens,
                mode=case.mode,
                optimizer=case.optimizer,
                unique_rows=traffic.unique_rows,
                active_experts=traffic.active_experts,
                assignments=traffic.assignments,
                ranks=case.ranks,
                cache_bytes=self.cache_bytes,
            )
        return {"source": source, **cost_json(cost)}

    def _memory(self, case: Case, step: Step, first: Input, optimizer: LayerOptimizer | None) -> dict[str, int | None]:
        device = self.clock.device
        self.layer.zero_gradients()
        saved = 0
        if has_backward(case.mode):
            with SavedForBackward(self.layer) as keeper:
                y = self.layer(first.x.detach().requires_grad_(True), first.routing)
            saved = keeper.bytes
            del y
            self.layer.zero_gradients()
        release_freed_memory()
        reset_peak(device)
        step(0)
        self.clock.synchronize()
        dense_gradients = optimizer.dense_table_gradient_bytes if optimizer else 0
        sizes: dict[str, int | None] = {
            "weights_bytes": weights_bytes(self.layer),
            "gradient_bytes": gradient_bytes(self.layer) + dense_gradients if has_backward(case.mode) else 0,
            "optimizer_bytes": tensor_bytes(optimizer.state_tensors()) if optimizer else 0,
            "saved_activation_bytes": saved,
            **peak_bytes(device, besides=self.clock.own_bytes + self._pool_bytes()),
        }
        self.layer.zero_gradients()
        return sizes

    def _energy(self, step: Step) -> dict[str, Any]:
        counter = EnergyCounter(self.clock.device)
        if counter.source is None:
            return {"source": None, "joules_per_call": None}
        calls, begin, before = 0, time.perf_counter(), counter.read()
        while time.perf_counter() - begin < _ENERGY_SECONDS:
            step(calls)
            self.clock.synchronize()
            calls += 1
        spent = counter.spent_j(before, counter.read())
        return {"source": counter.source, "joules_per_call": None if spent is None else spent / calls}


def cost_json(cost: Cost) -> dict[str, Any]:
    """A Cost as a record keeps it: totals, stages, memory need, communication."""
    totals = (
        "params",
        "active_params",
        "rank_params",
        "stored_bytes",
        "flops",
        "flops_executed",
        "bytes_min",
        "bytes_issued",
        "bytes_dram_expected",
        "row_bytes_dram_expected",
    )
    return {
        **{name: getattr(cost, name) for name in totals},
        "stages": [asdict(stage) for stage in cost.stages],
        "memory_bytes": asdict(cost.memory),
        "communication_bytes": cost.communication_bytes,
        "is_expectation": cost.is_expectation,
    }


def _without_seconds(samples: Samples) -> dict[str, Any]:
    facts = asdict(samples)
    del facts["seconds"]
    return facts


def _reference(found: Verification | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "tokens": found.tokens,
        "errors": found.errors,
        "selection_shortfall": found.selection_shortfall,
        "tolerance": found.tolerance,
    }
