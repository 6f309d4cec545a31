"""The optimizer of a whole layer: AdamW or SGD for its matrices, a rule that changes only read rows for its tables.

AdamW on a table is dense by definition: the moments of every row decay in every step, so its cost is that of the whole
table. It is offered as something to compare with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from membench.layers.kernels.row_update import ROW_OPTIMIZERS
from membench.layers.kernels.stages import stage
from membench.layers.layer import Layer
from membench.layers.optim.state import check_keys, check_torch_state
from membench.layers.optim.table_optimizer import DenseTableAdamW, RowRule, TableOptimizer, check_rate, moments
from membench.layers.parallel.cut_tensors import is_cut, own_part, total_over_parts
from membench.layers.parallel.exchange import Exchange
from membench.layers.spec import Optimizer
from membench.layers.tables.value_table import ValueTable


class LayerOptimizer(torch.optim.Optimizer):
    """What ``optimizer`` means for a whole layer or model: ``step()`` updates matrices and tables.

    ``adamw``: AdamW for everything. ``row_adagrad``, ``row_adam``, ``lazy_adam``: AdamW for matrices, that rule for
    tables. ``sgd``: plain SGD, of tables only the rows that were read. With a learning rate of 0 all the work is
    done, but the weights do not change.

        optimizer.zero_grad()
        with optimizer.fused():      # rows are updated by the backward pass that reads them
            loss.backward()
        optimizer.step()

    Without ``fused`` a backward leaves row gradients and ``step()`` applies them; ``clip_gradients_`` and accumulation
    need this. Give layers that share a table to one optimizer, which updates the table once per step. Other modules
    of a model need their own optimizers.

    ``param_groups`` are those of the matrices, then one of each of ``tables``: every scheduler of torch drives them.

    Args:
        table_learning_rate: for tables; None: the same as for matrices.
        weight_decay: for matrices, decoupled; None: torch's default.
        table_weight_decay: for tables, decoupled.

    Raises:
        ValueError: there is no such optimizer, or a rate is not a finite number from 0.
        TypeError: a layer is not one of membench's.
    """

    def __init__(
        self,
        layers: Layer | Sequence[Layer],
        optimizer: Optimizer,
        learning_rate: float = 1e-3,
        *,
        table_learning_rate: float | None = None,
        weight_decay: float | None = None,
        table_weight_decay: float = 0.0,
    ) -> None:
        if optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer should be one of {', '.join(get_args(Optimizer))}, not {optimizer!r}")
        rate = learning_rate if table_learning_rate is None else table_learning_rate
        given = {"learning_rate": learning_rate, "table_learning_rate": rate, "table_weight_decay": table_weight_decay}
        for name, value in (given if weight_decay is None else given | {"weight_decay": weight_decay}).items():
            check_rate(name, value)
        # torch's own __init__ would keep groups and a state of its own beside those of the parts
        self.__setstate__({"defaults": {}})
        self._optimizer = optimizer
        self._layers = _listed(layers)
        self._weight_decay = weight_decay
        read = [table for layer in self._layers for table in layer.tables()]
        tables = {id(table): table for table in read}
        self._readers = [read.count(table) for table in tables.values()]
        table_weights = {id(table.weight) for table in read}
        parameters = {id(p): p for layer in self._layers for p in layer.parameters()}
        # parameters that a layer from outside trains with its own optimizers
        own = [each for layer in self._layers for each in layer.own_optimizers(optimizer, learning_rate) or []]
        taken = {id(p) for each in own for group in each.param_groups for p in group["params"]}
        matrices = [p for key, p in parameters.items() if key not in table_weights | taken]
        # torch's optimizers do not take cut ones beside whole ones
        for some in ([p for p in matrices if is_cut(p) == cut] for cut in (False, True)):
            if some:
                own = [*own, _of_matrices(optimizer, some, learning_rate, weight_decay)]
        self._matrices = own
        self.tables: list[TableOptimizer | DenseTableAdamW] = []
        for number, table in enumerate(tables.values()):
            if optimizer in ROW_OPTIMIZERS:
                rule = RowRule(optimizer, rate, table_weight_decay)
                self.tables.append(TableOptimizer(table, rule, seed=number))
            else:
                self.tables.append(DenseTableAdamW(table, rate, table_weight_decay))

    @property
    def name(self) -> str:
        """Which it is."""
        return self._optimizer

    @property
    def matrices(self) -> list[torch.optim.Optimizer]:
        """Torch's, that train all but tables."""
        return self._matrices

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the matrices, then one of each table; what is written into one counts from the next update on."""
        return [group for part in (*self._matrices, *self.tables) for group in part.param_groups]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises TypeError: what is trained is what the layers have."""
        raise TypeError("a LayerOptimizer trains what its layers have: give it all of them when it is made")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: all but the ``step`` that a scheduler has put around this one's."""
        return {name: value for name, value in self.__dict__.items() if name != "step"}

    @contextmanager
    def fused(self) -> Iterator[None]:
        """Inside, one backward pass updates the rows that it reads. Tables with several readers wait for ``step``."""
        with ExitStack() as stack:
            for table, readers in zip(self.tables, self._readers, strict=True):
                if isinstance(table, TableOptimizer):
                    stack.enter_context(table.fused() if readers == 1 else table.queued())
            yield

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Inside, several backward passes keep what the updates of rows need; ``step`` then makes them, once each."""
        with ExitStack() as stack:
            for table in self.tables:
                if isinstance(table, TableOptimizer):
                    stack.enter_context(table.queued())
            yield

    def count_on_device(self) -> None:
        """Makes a step that can be captured as a CUDA graph: what changes from one to the next lies on the device.

        Of a captured step the rates of matrices, and all betas and eps, stay those of the capture.

        Raises:
            ValueError: an update asks the host in every step.
        """
        for table in self.tables:
            if isinstance(table, DenseTableAdamW):
                raise ValueError("dense adamw of a table waits in every step to learn which rows have a gradient")
            table.count_on_device()

    def count_on_host(self) -> None:
        """Undoes ``count_on_device``; what was captured must not be replayed any more."""
        for table in self.tables:
            if isinstance(table, TableOptimizer):
                table.count_on_host()

    def keep_clocks(self) -> None:
        """Before a captured step is replayed: tells what counts on the device the rates of tables."""
        for table in self.tables:
            if isinstance(table, TableOptimizer):
                table.keep_clock()

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Inside, torch's optimizers know that their steps are captured, or will be."""
        groups = [group for each in self._matrices for group in each.param_groups if "capturable" in group]
        before = [group["capturable"] for group in groups]
        try:
            for group in groups:
                group["capturable"] = True
            yield
        finally:
            for group, capturable in zip(groups, before, strict=True):
                group["capturable"] = capturable

    def for_twin(self, twin: Layer) -> Self:
        """The same for a copy of the one layer that has the same tables: these have one state."""
        found, of_tables = copy(self), {id(table.weight) for table in twin.tables()}
        matrices = [p for p in twin.parameters() if id(p) not in of_tables]
        found._layers = [twin]
        rate = self._matrices[0].param_groups[0]["lr"] if self._matrices else 0.0
        of_matrices = _of_matrices(self._optimizer, matrices, rate, self._weight_decay) if matrices else None
        found._matrices = [of_matrices] if of_matrices else []
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients, of parameters and of table rows, and uses that wait for ``step``."""
        if not set_to_none:
            raise ValueError("gradients of rows are forgotten, not set to zero: set_to_none should be true")
        for layer in self._layers:
            layer.zero_gradients()
        for table in self.tables:
            table.zero_grad()

    def clip_gradients_(self, max_norm: float) -> Tensor:
        """``clip_gradients_`` of all that it trains."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        return _clip(self._layers, parameters, [table.table for table in self.tables], max_norm)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the gradients that the last backward left, or that ``closure`` computes."""
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        frozen = not any(group["lr"] for matrices in self._matrices for group in matrices.param_groups)
        for matrices in self._matrices:
            with stage("update"):
                matrices.step()
        self.step_tables()
        for layer in self._layers:
            layer.balance(frozen=frozen)
        return found

    def step_tables(self) -> None:
        """The part of ``step`` for tables: updates that a fused backward has not done."""
        with stage("table_update") if any(table.waiting for table in self.tables) else nullcontext():
            for table in self.tables:
                table.step()

    @property
    def dense_table_gradient_bytes(self) -> int:
        """Bytes of the dense gradients that AdamW on tables needs during a step."""
        return sum(table.parameter.nbytes for table in self.tables if isinstance(table, DenseTableAdamW))

    def matrix_state_tensors(self) -> list[Tensor]:
        """Those of matrices; there are none before the first step."""
        return [tensor for matrices in self._matrices for tensor in moments(matrices)]

    def state_tensors(self) -> list[Tensor]:
        """Every tensor of optimizer state, to be counted."""
        return self.matrix_state_tensors() + [tensor for table in self.tables for tensor in table.state_tensors()]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; shares memory with the optimizer."""
        matrices = [optimizer.state_dict() for optimizer in self._matrices]
        tables = [table.state_dict() for table in self.tables]
        return {"optimizer": self._optimizer, "matrices": matrices, "tables": tables}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another optimizer, or of layers with other parameters or tables. Then nothing
                is restored.
        """
        check_keys(state, self.state_dict())
        if state["optimizer"] != self._optimizer:
            raise ValueError(f"the state is of {state['optimizer']}, this optimizer is {self._optimizer}")
        parts = (("matrices", self._matrices), ("tables", self.tables))
        for name, optimizers in parts:
            if not isinstance(state[name], list) or len(state[name]) != len(optimizers):
                raise ValueError(f"the state is of another number of {name}")
            for optimizer, saved in zip(optimizers, state[name], strict=True):
                if isinstance(optimizer, torch.optim.Optimizer):
                    check_torch_state(optimizer, saved)
                else:
                    optimizer.check_state(saved)
        for name, optimizers in parts:
            for optimizer, saved in zip(optimizers, state[name], strict=True):
                optimizer.load_state_dict(saved)


def _of_matrices(
    optimizer: str, matrices: list[nn.Parameter], learning_rate: float, weight_decay: float | None
) -> torch.optim.Optimizer:
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    decay: dict[str, Any] = {} if weight_decay is None else {"weight_decay": weight_decay}
    return kind(matrices, lr=learning_rate, fused=True, **decay)


@torch.no_grad()
def clip_gradients_(layers: Layer | Sequence[Layer], max_norm: float) -> Tensor:
    """Scales all gradients, of parameters and of table rows, so that their total norm is at most ``max_norm``.

    A table that several layers share counts once. Needs row gradients, which a ``fused`` backward does not leave, and
    of layers shared by ranks the sums that ``Layer.sum_gradients`` makes: each rank's shards count, what all hold once.

    Returns:
        the norm before, a scalar tensor, fp32 at least.

    Raises:
        ValueError: ``max_norm`` is below 0 or not a number; or layers are shared with different ranks.
        TypeError: a layer is not one of membench's.
    """
    layers = _listed(layers)
    parameters = {id(p): p for layer in layers for p in layer.parameters()}
    tables = {id(table): table for layer in layers for table in layer.tables()}
    return _clip(layers, list(parameters.values()), list(tables.values()), max_norm)


@torch.no_grad()
def _clip(layers: list[Layer], parameters: list[nn.Parameter], tables: list[ValueTable], max_norm: float) -> Tensor:
    """``clip_gradients_`` of parameters, and of the rows of tables."""
    if not max_norm >= 0:
        raise ValueError(f"max_norm should be a number from 0, not {max_norm}")
    exchange = _exchange_between(layers)
    cut = set[nn.Parameter]() if exchange is None else {p for layer in layers for p in layer.shards()}
    by_torch = [p.grad for p in parameters if p.grad is not None and is_cut(p.grad)]
    whole = [p.grad for p in parameters if p.grad is not None and p not in cut and not is_cut(p.grad)]
    shards = [p.grad for p in parameters if p.grad is not None and p in cut and not is_cut(p.grad)]
    shards += [table.gradient.values for table in tables if table.gradient is not None]
    alike = _by_kind([*whole, *shards, *map(own_part, by_torch)])
    if exchange is None and not by_torch:
        norm = _total_norm(alike.values())
    else:
        device = parameters[0].device
        of_whole, of_shards = (_total_norm(_by_kind(some).values()).to(device).square() for some in (whole, shards))
        if exchange is not None:
            of_shards = exchange.total(of_shards)
        norm = (of_whole + of_shards + _squares_of_cut(by_torch).to(device)).sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if scale.device.type == "cpu" and scale == 1:  # what a GPU would have to be waited for
        return norm
    for (device, dtype), some in alike.items():
        torch._foreach_mul_(some, scale.to(device, dtype))  # type: ignore[attr-defined]
    return norm


def _squares_of_cut(gradients: list[Tensor]) -> Tensor:
    """The sum of squares of DTensors, those of one mesh and cut in one message: it need not be that of the tables."""
    alike: dict[Any, list[Tensor]] = {}
    for each in gradients:
        alike.setdefault((each.device_mesh, each.placements), []).append(each)  # type: ignore[attr-defined]
    found = torch.zeros(())
    for some in alike.values():
        squares = _total_norm(_by_kind([own_part(each) for each in some]).values()).square()
        found = found.to(squares) + total_over_parts(squares, some[0])
    return found


def _exchange_between(layers: list[Layer]) -> Exchange | None:
    """The exchange with other ranks that hold other shards, if there are any."""
    found = {layer.exchange for layer in layers if layer.ranks > 1 and not layer.exchange.stand_ins}
    if len(found) > 1:
        raise ValueError("layers whose gradients are clipped together should be shared by the same exchange")
    return next(iter(found), None)


def _by_kind(tensors: list[Tensor]) -> dict[tuple[torch.device, torch.dtype], list[Tensor]]:
    """By device and dtype."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for each in tensors:
        alike.setdefault((each.device, each.dtype), []).append(each)
    return alike


def _total_norm(alike: Iterable[list[Tensor]]) -> Tensor:
    """A scalar, fp32 at least, of lists of one dtype and device each. torch's own norm has the gradients' dtype, and
    fp16 ends at 65504."""
    norms: list[Tensor] = []
    for some in alike:
        wide = torch.promote_types(some[0].dtype, torch.float32)
        norms += torch._foreach_norm(some, 2, wide)  # type: ignore[attr-defined]
    if not norms:
        return torch.zeros((), dtype=torch.float32)
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def _listed(layers: Layer | Sequence[Layer]) -> list[Layer]:
    """Raises TypeError if one is not a layer, but for example a whole model."""
    listed = [layers] if isinstance(layers, torch.nn.Module) else list(layers)
    for layer in listed:
        if not isinstance(layer, Layer):
            raise TypeError(f"{type(layer).__name__} is no layer of membench: give the layers of a model themselves")
    return listed
