"""Product-key retrieval, shared by memory and peer (arXiv 1907.05242, section 3.1).

A query's two halves are scored against n sub-keys each; the k rows i·n + j with the best sums are chosen.

Letters: B tokens, d model dim, H heads, dk key dim, c = dk/2, n sub-keys a half, k rows a head.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from membench.layers.initialize import Place, fill_normal_
from membench.layers.kernels.few_tokens import can_step
from membench.layers.kernels.key_scores import key_scores, normalized_queries
from membench.layers.kernels.lookups import index_dtype
from membench.layers.kernels.matmul import linear, project
from membench.layers.kernels.precision import as_given
from membench.layers.kernels.retrieval import retrieve
from membench.layers.kernels.retrieval_step import MOST_TOKENS, Retrieving
from membench.layers.kernels.stages import stage
from membench.layers.layer import Held, Layer, Routing, Selection, Touched, torch_dtype
from membench.layers.parallel.exchange import Exchange, TableCall
from membench.layers.parallel.remote import RemoteLookups
from membench.layers.routing import StatedRouting, stated_choice
from membench.layers.spec import RetrievalSpec
from membench.layers.tables.quantized_table import QuantizedTable
from membench.layers.tables.value_table import ValueTable
from membench.layers.touched import select_in_parts, touched_rows

EPS = 1e-6


class RetrievalLayer(Layer):
    """The query projection, the keys and their norms; subclasses say what the rows are for."""

    STEPS_IN_TURN: ClassVar = True

    spec: RetrievalSpec

    def __init__(
        self,
        spec: RetrievalSpec,
        ranks: int | Exchange,
        *,
        device: torch.device | str,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(spec, ranks)
        d, dk, half = spec.model_dim, spec.key_dim, spec.key_dim // 2
        options = {"device": device, "dtype": torch_dtype(spec.dtype)}
        self.query = nn.Parameter(torch.empty(spec.heads * dk, d, **options))
        self.keys = nn.Parameter(torch.empty(spec.heads, 2, spec.sub_keys, half, **options))
        # Queries of unit variance on keys of unit length: each half's scores have unit variance.
        fill_normal_(self.query, 1 / math.sqrt(d), generator)
        fill_normal_(self.keys, 1 / math.sqrt(half), generator)
        if spec.query_norm:
            self.query_norm_weight = nn.Parameter(torch.ones(dk, **options))
            self.query_norm_bias = nn.Parameter(torch.zeros(dk, **options))
        if spec.qk_norm:
            self.query_scale = nn.Parameter(torch.ones(dk, **options))
            self.key_scale = nn.Parameter(torch.full((dk,), 1 / math.sqrt(half), **options))

    def half_scores(self, x: Tensor) -> Tensor:
        """(H, 2, B, n) fp32 scores of both halves for x (B, d)."""
        spec = self.spec
        with stage("query"):
            halves = self._query_halves(x)
        with stage("scores"):
            return key_scores(halves, self.keys, normalized=spec.qk_norm, eps=EPS)

    def _query_halves(self, x: Tensor) -> Tensor:
        """(B, H, 2, c), normalised in fp32 where the spec says so, else as projected where keys are so too.

        Or in parts, as of ``normalized_queries``.
        """
        return self._halves_of(project(x, self.query), x)

    def _halves_of(self, projected: Tensor, x: Tensor) -> Tensor:
        """(B, H, 2, c) of the projected (B, H·dk) tokens x."""
        spec = self.spec
        if projected.dtype == self.keys.dtype and not (spec.query_norm or spec.qk_norm):
            return projected.view(-1, spec.heads, 2, spec.key_dim // 2)
        queries = projected.view(-1, spec.heads, spec.key_dim)
        with as_given(x):
            return self._normalized(queries)

    def _normalized(self, queries: Tensor) -> Tensor:
        """(B, H, 2, c) fp32 of queries (B, H, dk); or in parts, as of ``normalized_queries``."""
        spec = self.spec
        if spec.query_norm:
            weight, bias = self.query_norm_weight.float(), self.query_norm_bias.float()
            queries = functional.layer_norm(queries.float(), (spec.key_dim,), weight, bias, EPS)
        halves = queries.view(-1, spec.heads, 2, spec.key_dim // 2)
        if not spec.qk_norm:
            return halves.float()
        # (q∘s)·(k∘t) = (q∘s∘t)·k: both scales go to the queries, of which there are fewer.
        scales = self.query_scale.view(2, -1), self.key_scale.view(2, -1)
        return normalized_queries(halves, *scales, self.keys, eps=EPS)

    def select(self, x: Tensor) -> Selection:
        """The best k rows of every head, best first, with the softmax of their scores."""
        with stage("query"):
            queries = self._query_halves(x)
        return self._selected(queries)

    def choice_norms(self, x: Tensor) -> dict[str, Tensor]:
        """Of a head's projected query, before it is normalized."""
        queries = project(x, self.query).float().view(-1, self.spec.heads, self.spec.key_dim)
        return {"query_norm_mean": queries.norm(dim=-1).mean()}

    def _selected(self, queries: Tensor) -> Selection:
        """The choice by query halves, as of ``_query_halves``."""
        spec = self.spec
        halves, weights = retrieve(
            queries,
            self.keys,
            spec.top_k,
            normalized=spec.qk_norm,
            eps=EPS,
            sparse_backward=spec.sparse_scores_backward,
        )
        first, second = halves.to(index_dtype(spec.num_keys)).unbind()
        return Selection(torch.add(second, first, alpha=spec.sub_keys), weights)

    def retrieving(self, x: Tensor, routing: Routing | None, block: tuple[Tensor, float] | None) -> Retrieving | None:
        """What one call for few tokens begins with (``Layer.step``); None where it takes several.

        A table gathers gradients of its rows wherever torch gathers any.
        """
        if self.ranks > 1 or torch.is_grad_enabled():
            return None
        if not can_step(x, most=MOST_TOKENS):
            return None
        spec, routing = self.spec, routing or Routing()
        if routing.remote is not None or any(table.weight.dtype != x.dtype for table in self.tables()):
            return None
        norm = (self.query_norm_weight, self.query_norm_bias) if spec.query_norm else None
        scales = (self.query_scale, self.key_scale) if spec.qk_norm else None
        return Retrieving(x, self.query, self.keys, norm, scales, spec.top_k, EPS, block, routing.selected)

    def table_shape(self, columns: int) -> tuple[int, int]:
        """Of this rank's shard of a table of so many columns."""
        (first_row, past_row), (first, past) = (
            self.exchange.rows_held(self.spec.num_keys),
            self.exchange.columns_held(columns),
        )
        return past_row - first_row, past - first

    def table_place(self, columns: int) -> Place | None:
        """Where that shard lies in the table; None: it is drawn as if it were all of one."""
        if not self.exchange.together:
            return None
        offsets = self.exchange.rows_held(self.spec.num_keys)[0], self.exchange.columns_held(columns)[0]
        return Place((self.spec.num_keys, columns), offsets)

    def held(self) -> dict[nn.Parameter, Held]:
        own = [(name, part) for name, part in self.named_children() if isinstance(part, (ValueTable, QuantizedTable))]
        shape = self.spec.num_keys, self.spec.row_params // max(1, len(own))
        offsets = self.exchange.rows_held(shape[0])[0], self.exchange.columns_held(shape[1])[0]
        found = {table.weight: Held(f"{name}.weight", shape, offsets) for name, table in own}
        scaled = [(name, table) for name, table in own if isinstance(table, QuantizedTable)]
        return found | {table.scales: Held(f"{name}.scales", shape[:1], offsets[:1]) for name, table in scaled}

    def read(self, selection: Selection, routing: Routing | None, *, weights_by_columns: bool) -> TableCall:
        """What this rank's shard of a table reads (see ``Exchange.read``).

        Raises:
            ValueError: the routing does not fit the layer, or its ranks.
        """
        routing = routing or Routing()
        rows = selection.indices if routing.selected is None else routing.selected
        if rows.shape != selection.indices.shape:
            raise ValueError(f"selected is {tuple(rows.shape)}, not {tuple(selection.indices.shape)}")
        return self.exchange.read(
            rows.flatten(1),
            selection.weights.flatten(1),
            self.spec.num_keys,
            routing.remote,
            weights_by_columns=weights_by_columns,
        )

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        """Where others are stood in for, with what these would send: their tokens are drawn after this rank's."""
        spec, others = self.spec, self.exchange.stand_ins * tokens
        x = self.draw_tokens(tokens, generator)
        imposed = stated_choice(spec.choice_of_token, tokens + others, stated, generator)
        selected = None if imposed is None else imposed[:tokens]
        if not others:
            return x, None if selected is None else Routing(selected=selected)
        x_others = self.draw_tokens(others, generator)
        chosen = select_in_parts(self._selection_of_many(), x_others, scores=2 * spec.heads * spec.sub_keys)
        indices = torch.cat([c.indices for c in chosen]) if imposed is None else imposed[tokens:]
        weights = torch.cat([c.weights for c in chosen])
        return x, Routing(selected, self.remote_lookups(indices, weights, x_others, generator))

    def _selection_of_many(self) -> Callable[[Tensor], Selection]:
        """``select`` for many tokens at once, outside of what is timed.

        A CPU projects them in fp32, and rounds as the layer does: without units for 16-bit products that is far
        faster, and so many tokens pay for the conversion of the weights.
        """
        if self.query.device.type != "cpu":
            return self.select
        wide = self.query.detach().float()
        return lambda x: self._selected(self._halves_of(linear(x.float(), wide).to(x.dtype), x))

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """What chooses rows: no companion, and nothing that comes after the table."""
        spec = self.spec
        after = {"companion_hidden", "row_format", "table_on", "value_dim"}
        norms = ("query_norm_weight", "query_norm_bias", "query_scale", "key_scale")
        scales = [getattr(self, name).detach() for name in norms if hasattr(self, name)]
        return spec.model_dump(mode="json", exclude=after), [self.query.detach(), self.keys.detach(), *scales]

    def remote_lookups(
        self, indices: Tensor, weights: Tensor, x_others: Tensor, generator: torch.Generator
    ) -> RemoteLookups:
        """What the other ranks send for their tokens x_others ((P-1)·B, d)."""
        del x_others, generator
        return RemoteLookups(indices, weights)

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        if self.ranks == 1 or self.exchange.stand_ins:
            return touched_rows(self, x, routing)
        call = self.read(self.select(x), routing, weights_by_columns=False)
        return Touched(rows=call.lookups.rows.flatten())
