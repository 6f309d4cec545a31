"""One Case measured in this process: inputs, check, choice of implementation, samples, memory, energy."""

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from membench.case import Case
from membench.errors import Unavailable, reason_of
from membench.layers.layer import Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import has_backward
from membench.machine.clocks import read_clocks
from membench.machine.conditions import begin_ran, ran
from membench.machine.disturbance import Watch
from membench.machine.energy import EnergyCounter
from membench.machine.instructions import per_call
from membench.measuring.as_record import cost_json, reference_json, sampling_json
from membench.measuring.checked_answer import CheckedAnswer
from membench.measuring.implementations import Call, available_on, forget_compiled, graph_breaks
from membench.measuring.in_step import RankSeconds
from membench.measuring.inputs import Input
from membench.measuring.memory import (
    SavedForBackward,
    gradient_bytes,
    peak_bytes,
    release_freed_memory,
    reset_peak,
    tensor_bytes,
    weights_bytes,
)
from membench.measuring.paced import sample_in_turn
from membench.measuring.pacer import Pacer, amounts
from membench.measuring.preparation import Checked, Preparation
from membench.measuring.step import make_step
from membench.measuring.stop_watch import StopWatch
from membench.measuring.stored_inputs import InputStore
from membench.measuring.time import Clock, Pass, Samples, Sampling, StepCall, sample
from membench.measuring.traffic import Traffic
from membench.measuring.twins import note, reused_bytes, taking_turns, twin_of, twins_wanted
from membench.measuring.ways import Way, way_of

_TUNING = Sampling(min_samples=5, floor_samples=3, max_seconds=1.0, warmup_seconds=0.2)
_COUNTED_CALLS = 3
_WATCHED_STEPS = 7  # in which collectives are timed one by one
_NO_ENERGY = {"source": None, "joules_per_call": None}
_ENERGY_SECONDS = 1.0  # the counters tick in tens of milliseconds
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One case, checked and ready to be timed."""

    case: Case
    call: Call
    step: StepCall
    inputs: list[Input]
    traffic: Traffic
    optimizer: LayerOptimizer | None
    checked: Checked
    implementation: dict[str, Any]
    watch: StopWatch


class CaseMeasurement:
    """Measures cases of one built layer, one after the other."""

    def __init__(
        self, layer: Layer, clock: Clock, cache_bytes: int, progress: Progress, store: InputStore | None = None
    ) -> None:
        self.layer, self.clock, self.progress = layer, clock, progress
        self.preparation = Preparation(layer, clock.device, cache_bytes, store, clock.ranks)

    def prepare(self, case: Case, implementations: list[str], known: CheckedAnswer | None = None) -> Prepared:
        """Everything before the first sample: inputs, optimizer, the fastest implementation that is right.

        Args:
            known: what an earlier round found of the case.

        Raises:
            Unavailable: this device cannot compute it in the way it asks for.
            WrongAnswer: the layer disagrees with its reference, or its answer is none.
            ValueError: the case cannot be run on this layer.
        """
        if reason := self.layer.unavailable:
            raise Unavailable(reason)
        watch = StopWatch()
        self.layer.train(has_backward(case.mode))
        self.progress("inputs")
        with watch.on("inputs"):
            self.layer.make_ready(case.step(), case.seed)
            inputs, traffic = self.preparation.inputs(case)
        begin_ran()
        optimizer, upstream = self.preparation.optimizer(case), self.preparation.upstream(case)
        forget_compiled()
        if self.clock.ranks.together:
            implementations = ["eager"]  # a compiler that fails on one rank would leave the others waiting
        name, way, tried = self._choose(case, inputs, upstream, optimizer, implementations, known, watch)
        step, call = way.step, way.call
        checked = self.preparation.check(case, name, call)
        if optimizer is not None and checked.verification is not None:
            backward = make_step("forward_backward", call, self.layer, inputs, upstream, None)
            update = (lambda: step(0)) if way.whole else None
            with watch.on("check"):
                found = self.preparation.check_update(
                    checked.verification, name, optimizer, lambda: backward(0), update
                )
            of_updates = tuple(name for name in found.errors if name not in checked.verification.errors)
            checked = replace(checked, verification=found, of_updates=of_updates)
        if optimizer is not None:
            self.preparation.check_step(case, name, lambda: step(0))
        return Prepared(
            case,
            call,
            step,
            inputs,
            traffic,
            optimizer,
            checked,
            {"chosen": name, "tried": tried, **_path_taken(self.layer)},
            watch,
        )

    def run(
        self,
        case: Case,
        sampling: Sampling,
        implementations: list[str],
        known: CheckedAnswer | None = None,
        *,
        memory: bool = True,
        paced: bool = False,
    ) -> dict[str, Any]:
        """The round's results of one case, JSON-able; raises what ``prepare`` raises.

        Args:
            known: what an earlier round found of the case.
            memory: measure memory too, which is the same in every round.
            paced: in turn with a pacer.
        """
        prepared, device = self.prepare(case, implementations, known), self.clock.device
        watch, step = prepared.watch, prepared.step
        self.progress("sampling")
        clocks = [read_clocks(device)]
        with watch.on("pacer"):
            pacer = self._pacer(case) if paced else None
        with watch.on("copies"):
            timed, notes = self.as_in_model(prepared)
        with watch.on("sample"):
            others = self.clock.ranks.watching(Watch(device))
            samples, beside = self._sample(timed, sampling, pacer, others)
            del timed  # the memory of copies is none of the case's
            self.progress("sampling")
            hot = sample(self.clock, step, sampling, cold=False, watch=others) if device == "cuda" else None
        clocks.append(read_clocks(device))
        del pacer  # its tensors are none of the case's memory
        return {
            **self.facts(prepared, memory=memory, notes=notes),
            "pacer": beside,
            "samples_s": samples.seconds,
            "sampling": sampling_json(samples),
            "hot_samples_s": hot.seconds if hot else None,
            "disturbed_samples_s": samples.disturbed,
            "disturbed_hot_samples_s": hot.disturbed if hot else [],
            "disturbance": {**samples.disturbance, **({"hot": hot.disturbance} if hot else {})},
            "clocks": clocks,
            **self._of_rank(samples),
        }

    def _of_rank(self, samples: Samples) -> dict[str, Any]:
        """What this rank says for itself, where several share the layer."""
        ranks = self.clock.ranks
        if not ranks.together:
            return {}
        own = [each.of_ranks[ranks.rank] for each in samples.seconds if isinstance(each, RankSeconds)]
        return {"rank": {"rank": ranks.rank, "host": socket.gethostname(), "samples_s": own}}

    def as_in_model(self, prepared: Prepared) -> tuple[StepCall, list[str]]:
        """The step that is timed, and what a reader should know of it: copies take turns where it is a model's part."""
        case, device = prepared.case, self.clock.device
        if device != "cpu" or not case.layer.is_one_of_many:
            return prepared.step, []
        if prepared.optimizer is not None:
            prepared.step(0)  # makes its state
        each = reused_bytes(self.layer, prepared.optimizer, backward=has_backward(case.mode))
        count = twins_wanted(each, self.preparation.cache_bytes)
        if count < 1:
            return prepared.step, []
        twins = [twin_of(self.layer) for _ in range(count)]
        eager = case.mode == "decode" and prepared.implementation["chosen"] == "eager"
        if eager and (call := self.layer.followed_by(twins)) is not None:
            step = make_step(case.mode, call, self.layer, prepared.inputs, self.preparation.upstream(case), None)
            return Pass(1 + count, step), [note(count)]
        steps = [prepared.step, *(self._step_of_twin(prepared, twin) for twin in twins)]
        return taking_turns(steps), [note(count)]

    def _step_of_twin(self, prepared: Prepared, twin: Layer) -> StepCall:
        case, name = prepared.case, prepared.implementation["chosen"]
        upstream = self.preparation.upstream(case)
        optimizer = prepared.optimizer and prepared.optimizer.for_twin(twin)
        return way_of(name, case.mode, twin, prepared.inputs, upstream, optimizer).step

    def facts(self, prepared: Prepared, *, memory: bool = True, notes: Sequence[str] = ()) -> dict[str, Any]:
        """What a round says of a case beside its samples; measures energy, counts instructions, and memory where asked.

        Raises:
            WrongAnswer: what was timed has come to give another answer.
        """
        case, step, watch, checked = prepared.case, prepared.step, prepared.watch, prepared.checked
        with self.layer.on_path():
            what_ran = ran(self.clock.device)  # before memory is measured, in one round alone
        sizes: dict[str, int | None] = {}
        if memory:
            with watch.on("memory"):
                sizes = self._memory(case, step, prepared.inputs[0], prepared.optimizer)
        together = self.clock.ranks.together
        with watch.on("energy"):  # a host's counter tells of all its ranks
            energy = _NO_ENERGY if together else self._energy(step)
        with watch.on("counters"):
            counted = self.clock.device == "cpu" and not together
            instructions = per_call(step, _COUNTED_CALLS) if counted else None
        with watch.on("communication"):
            calls = {"collectives": self._collectives(step)} if together else {}
        with watch.on("check"):
            self.preparation.check_again(case, prepared.implementation["chosen"], prepared.call)
        cost, source = self.preparation.cost(case, prepared.traffic)
        counted = {"source": source, **cost_json(cost), **self.preparation.sent(case, prepared.traffic)}
        return {
            "implementation": prepared.implementation,
            "reference": reference_json(checked.verification, checked.of_updates, checked.bit_equal_to_round),
            "answer_digest": checked.digest,
            "traffic": prepared.traffic.as_json(),
            "cost": counted,
            "memory": sizes,
            "energy": energy,
            "counters": {"instructions_per_call": instructions},
            "inputs": len(prepared.inputs),
            "notes": [*self.layer.notes, *notes],
            "ran": what_ran,
            **calls,
            "seconds": watch.seconds,
        }

    def _sample(
        self, step: StepCall, sampling: Sampling, pacer: Pacer | None, watch: Watch
    ) -> tuple[Samples, dict[str, Any]]:
        """The samples, and what a round says of the pacer beside them: nothing where there is none."""
        if pacer is None:
            return sample(self.clock, step, sampling, watch=watch), {}
        found = sample_in_turn(self.clock, step, pacer, sampling, watch=watch)
        taken = {
            "calls_per_sample": found.paced.calls,
            "samples_s": found.paced.seconds,
            "on_core_s": found.paced.on_core_s,
            "case_on_core_s": found.own.on_core_s,
            "follows": found.follows,
            "disturbed_samples_s": found.apart_s,
        }
        return found.samples, {**pacer.as_json(), **taken}

    def _pacer(self, case: Case) -> Pacer | None:
        """The case's pacer; None where nothing is counted of it."""
        does = amounts(self.preparation.planned_cost(case), case.layer.dtype, case.tokens)
        return does and Pacer(does, self.clock.device)

    def _choose(
        self,
        case: Case,
        inputs: list[Input],
        upstream: Tensor,
        optimizer: LayerOptimizer | None,
        names: list[str],
        known: CheckedAnswer | None,
        watch: StopWatch,
    ) -> tuple[str, Way, dict[str, Any]]:
        """The fastest implementation that is right; one that fails is recorded, not fatal, if another works."""
        usable: dict[str, tuple[Way, float]] = {}
        several = len(available_on(self.clock.device, names)) > 1
        tried: dict[str, Any] = {}
        failures: list[Exception] = []
        for name in names:
            compiled = name == "compiled"
            broke_before = graph_breaks() if compiled else 0
            try:
                with watch.on("check"):
                    self.progress("checking")
                    way = way_of(name, case.mode, self.layer, inputs, upstream, optimizer)
                    self.preparation.check(case, name, way.call, known)
                if several:
                    with watch.on("tune"):
                        self.progress(f"trying {name}")
                        seconds = sample(self.clock, way.step, _TUNING).median_s
                else:
                    seconds = 0.0
                usable[name] = way, seconds
                tried[name] = {"latency_ms": 1e3 * seconds if several else None, "error": None}
                if compiled:
                    tried[name]["graph_breaks"] = graph_breaks() - broke_before
            except Exception as error:  # a compiler, or a layer from outside, raises what it likes
                failures.append(error)
                self.layer.zero_gradients()
                tried[name] = {
                    "latency_ms": None,
                    "error": reason_of(error),
                }
        if not usable:
            raise failures[0]
        best = min(usable, key=lambda name: usable[name][1])
        if optimizer is not None and not usable[best][0].whole:
            optimizer.count_on_host()  # as it did before a captured step was tried
        return best, usable[best][0], tried

    def _memory(
        self, case: Case, step: StepCall, first: Input, optimizer: LayerOptimizer | None
    ) -> dict[str, int | None]:
        device = self.clock.device
        self.layer.zero_gradients()
        saved = 0
        if has_backward(case.mode):
            with SavedForBackward(self.layer) as keeper, self.layer.on_path():
                y = self.layer(*first.leaves())
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
            "kv_cache_bytes": self.layer.kv_cache_bytes,
            **peak_bytes(device, besides=self.clock.own_bytes + self.preparation.input_bytes()),
        }
        self.layer.zero_gradients()
        return sizes

    def _collectives(self, step: StepCall) -> list[dict[str, Any]]:
        """This rank's collectives of a step in their order, with the seconds of each in every one of some steps."""
        from membench.measuring.wire import Wire  # torch's distributed tensors take a while to import

        steps = []
        for number in range(_WATCHED_STEPS):
            self.clock.synchronize()
            self.clock.ranks.meet()
            seen = Wire(self.clock.device)
            with seen.watched():
                step(number)
            steps.append(seen.calls)
        self.layer.zero_gradients()
        return [
            {
                "kind": each[0].kind,
                "sent_bytes": statistics.fmean(call.sent_bytes for call in each),
                "seconds": [call.seconds for call in each],
            }
            for each in zip(*steps, strict=True)
        ]

    def _energy(self, step: StepCall) -> dict[str, Any]:
        counter = EnergyCounter(self.clock.device)
        if counter.source is None:
            return _NO_ENERGY
        calls, begin, before = 0, time.perf_counter(), counter.read()
        while time.perf_counter() - begin < _ENERGY_SECONDS:
            step(calls)
            self.clock.synchronize()
            calls += 1
        spent = counter.spent_j(before, counter.read())
        return {"source": counter.source, "joules_per_call": None if spent is None else spent / calls}


def _path_taken(layer: Layer) -> dict[str, str]:
    """What ``auto`` came to, for an operator that has several paths."""
    return {"path": layer.path} if layer.path else {}
