"""The float64 references of a block and of a model: those of their parts, one after the other.

Letters: S sequences, N new tokens of each, B = S·N tokens, T of them sampled, d model dim, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.checking.layer_reference import RowsReference
from membench.layers.checking.own_references import OWN_REFERENCES
from membench.layers.checking.sampled_reference import SampledReference, float64_leaf, relative_rms
from membench.layers.models.block import Block
from membench.layers.models.model import Model
from membench.layers.tables.quantized_table import exact_rows

_FFN = "ffn."  # what the names of the FFN's parameters begin with


class BlockReference(SampledReference):
    """Attention of the sampled tokens over all that come before them, and the FFN's own reference.

    ``x`` are all new tokens of the sequences that a sampled one is of. ``pool`` is that of ``RowsReference``.
    """

    layer: Block
    ffn: SampledReference

    def __init__(self, layer: Block, x: Tensor, *given: Any, pool: tuple[Tensor, Tensor] | None = None) -> None:
        self.whole, self.pool = x, pool
        super().__init__(layer, x, *given)

    def leaves(self) -> dict[str, Tensor]:
        """Of attention and the norms; the FFN's come with its reference."""
        named = self.layer.named_parameters()
        return {name: float64_leaf(p) for name, p in named if not name.startswith(_FFN)}

    def _parameter(self, name: str) -> str:
        return f"{_FFN}{self.ffn._parameter(name.removeprefix(_FFN))}" if name.startswith(_FFN) else name

    def _gradient(self, name: str) -> Tensor:
        return self.ffn._gradient(name.removeprefix(_FFN)) if name.startswith(_FFN) else super()._gradient(name)

    def _strays(self) -> list[str]:
        return [f"{_FFN}{name}" for name in self.ffn._strays()]

    @property
    def new_tokens(self) -> int:
        """N."""
        return self.batch // self.layer.sequences

    def sequences(self) -> Tensor:
        """The numbers of the sequences that a sampled token is of, ascending."""
        return (self.sample // self.new_tokens).unique()

    def tokens(self) -> Tensor:
        """The numbers of all tokens of these sequences."""
        within = torch.arange(self.new_tokens, device=self.sample.device)
        return (self.sequences()[:, None] * self.new_tokens + within).flatten()

    def input(self, x: Tensor) -> Tensor:
        return float64_leaf(x[self.tokens()])

    def input_tokens(self) -> Tensor:
        return self.tokens()

    def _sampled(self) -> Tensor:
        """Where in ``x`` the sampled tokens are."""
        return torch.searchsorted(self.tokens(), self.sample)

    def output(self) -> Tensor:
        block, sampled = self.layer, self._sampled()
        weights = {name: self.w[f"attention.{name}"] for name in ("qkv", "out")}
        normed = reference.rms_norm(self.x, self.w["attention_norm"], block.spec.norm_eps)
        added = []
        for place, number in enumerate(self.sequences().tolist()):
            first = place * self.new_tokens
            here = sampled[(sampled >= first) & (sampled < first + self.new_tokens)] - first
            own = normed[first : first + self.new_tokens]
            added.append(reference.attention(block.spec.attention, weights, own, here.tolist(), self._context(number)))
        between = self.x[sampled] + torch.cat(added)
        hidden = reference.rms_norm(between, self.w["ffn_norm"], block.spec.norm_eps)
        shared = {"pool": self.pool} if self.pool is not None else {}
        with torch.no_grad():
            self.ffn_input = block.ffn_input(self.whole)
        kind = OWN_REFERENCES[block.spec.ffn.kind]
        self.ffn = kind(block.ffn, self.ffn_input, self.sample, self.selection, self.routing, hidden, **shared)
        self.w |= {f"{_FFN}{name}": leaf for name, leaf in self.ffn.w.items()}
        return between + self.ffn.y

    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        return self.ffn.selection_shortfall(self.ffn_input)

    def _context(self, sequence: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of one sequence's earlier tokens, as the cache has them."""
        cache = self.layer.cache
        if cache is None or not cache.held:
            return None
        keys, values = (part[sequence, :, : cache.held].double() for part in (cache.keys, cache.values))
        return keys, values


class ModelReference(SampledReference):
    """Every block's reference on all tokens of the sampled sequences; ``sample`` are numbers of sequences.

    Float64 copies are held of one block at a time: a backward pass builds each block's reference anew.
    """

    layer: Model

    def leaves(self) -> dict[str, Tensor]:
        """None that last: the blocks and the ends have theirs while they are computed."""
        return {}

    def input(self, x: Tensor) -> Tensor:
        self.whole = x
        return x[self.sample]

    def output(self) -> Tensor:
        self.given = {n: (block, x, block.select(x)) for n, block, x in self.layer.block_inputs(self.whole)}
        with torch.no_grad():
            return self._output()

    def _output(self) -> Tensor:
        model = self.layer
        self.seen = self.x[:, :-1] if model.training else self.x
        new = self.seen.shape[1]
        within = torch.arange(new, device=self.sample.device)
        self.tokens = (self.sample[:, None] * new + within).flatten()
        self.pool = self._pool() if model.spec.pool == "shared" else None
        self.hidden, self.shortfalls = [model.embedding[self.seen.flatten()].double()], []
        for number in self.given:
            part = self._block(number, self.hidden[-1])
            self.shortfalls.append(part.selection_shortfall(self.x))
            self.hidden.append(part.y)
        return self._ends(self.hidden[-1], self._end_leaves())

    def gradient_errors(self, upstream: Tensor) -> dict[str, float]:
        model, tied = self.layer, self.layer.spec.tied
        errors: dict[str, float] = {}
        last, ends = float64_leaf(self.hidden[-1]), self._end_leaves()
        self._ends(last, ends).backward(upstream)
        gradient = last.grad
        of_embedding = ends.pop("embedding").grad if tied else None
        for name, leaf in ends.items():
            assert leaf.grad is not None
            errors[name] = relative_rms(self._gradient(name), leaf.grad)
        reader = None
        for number in reversed(self.given):
            assert gradient is not None
            part = self._block(number, float64_leaf(self.hidden[number]))
            found = part.gradient_errors(gradient)
            errors |= {f"blocks.{number}.{name}": error for name, error in found.items()}
            gradient = part.x.grad
            reader = part.ffn if number in model.spec.at else reader
        assert gradient is not None
        if of_embedding is None:
            errors["embedding"] = self._embedding_error(gradient)
        else:
            of_embedding.index_add_(0, self.seen.flatten(), gradient)
            errors["embedding"] = relative_rms(self._gradient("embedding"), of_embedding)
        if self.pool is not None:
            assert isinstance(reader, RowsReference) and self.pool[1].grad is not None
            name = f"blocks.{model.spec.at[0]}.ffn.table.weight"
            errors[name] = max(errors.get(name, 0.0), relative_rms(reader.row_gradient("table"), self.pool[1].grad))
        return errors

    def _embedding_error(self, gradient: Tensor) -> float:
        """Of the rows that the sampled tokens read, whose hidden states have the gradient (T, d); others have none."""
        rows, read_by = self.seen.flatten().unique(return_inverse=True)
        wanted = torch.zeros(len(rows), gradient.shape[-1], dtype=torch.float64, device=gradient.device)
        wanted.index_add_(0, read_by, gradient)
        found = self._gradient("embedding")
        lengths = torch.linalg.vector_norm(found, dim=-1, dtype=torch.float32)
        lengths[rows] = 0
        return math.inf if lengths.any() else relative_rms(found[rows], wanted)

    def selection_shortfall(self, x: Tensor) -> float | None:
        """The worst layer's."""
        del x
        return max((each for each in self.shortfalls if each is not None), default=None)

    def _block(self, number: int, hidden: Tensor) -> BlockReference:
        """The reference of a block that is given hidden (T, d), the sampled sequences' tokens."""
        block, x, selection = self.given[number]
        pool = self.pool if number in self.layer.spec.at else None
        return BlockReference(block, x, self.tokens, selection, None, hidden, pool=pool)

    def _end_leaves(self) -> dict[str, Tensor]:
        """Of the last norm and of the head, which may be the embedding."""
        head = "embedding" if self.layer.spec.tied else "head"
        return {name: float64_leaf(self.layer.get_parameter(name)) for name in ("norm", head)}

    def _ends(self, hidden: Tensor, w: dict[str, Tensor]) -> Tensor:
        """Losses in training mode, else the next token's logits, of hidden (T, d) after the last block."""
        spec, trains = self.layer.spec, self.layer.training
        rows = hidden.view(*self.seen.shape, -1)
        rows = rows if trains else rows[:, -1]
        logits = reference.rms_norm(rows, w["norm"], spec.norm_eps) @ w["embedding" if spec.tied else "head"].T
        if not trains:
            return logits
        return torch.logsumexp(logits, dim=-1) - logits.gather(-1, self.x[:, 1:, None])[..., 0]

    def _pool(self) -> tuple[Tensor, Tensor]:
        """The rows of the shared table that any layer reads for the sampled tokens, and their leaf."""
        readers = [self.given[number] for number in self.layer.spec.at]
        read = [selection.indices[self.tokens].long().flatten() for _, _, selection in readers if selection]
        touched = torch.cat(read).unique()
        return touched, float64_leaf(exact_rows(readers[0][0].tables()[0], touched))
