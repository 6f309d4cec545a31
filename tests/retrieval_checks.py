"""Memory and PEER layers against the float64 reference: what both test files share."""

import random

import torch
from against_reference import assert_matches, double
from torch.utils.flop_counter import FlopCounterMode

from layers.checking import reference
from layers.layer import RemoteLookups, Routing
from layers.routing import draw_lookups
from layers.spec import Step


def random_dimensions(rng: random.Random, norm: str = "query_norm") -> dict:
    """Retrieval dimensions, awkward ones included; sub_keys stays small, as the reference forms all n² sums.

    A norm over one or two numbers leaves just their sign: its gradient is nothing but rounding. So
    may be that of a handful of keys, where what one key gains another loses.
    """
    sub_keys = rng.choice([1, 2, 3, 5, 8, 13, 32])
    normed = rng.random() < 0.4
    return {
        "model_dim": rng.choice([8, 12, 28, 96, 100]),
        "num_keys": sub_keys**2,
        "heads": rng.choice([1, 2, 3, 4]),
        "top_k": rng.randint(1, min(sub_keys, 9)),
        "key_dim": 2 * rng.choice([8, 11, 20] if normed or sub_keys < 5 else [3, 8, 20]),
        norm: normed,
        "companion_hidden": rng.choice([0, 0, 7, 64]),
    }


def tokens_for(spec, count, dtype=torch.float32):
    return torch.randn(count, spec.model_dim).to(dtype)


def random_routing(spec, tokens, ranks, dtype, *, imposed):
    """An imposed routing, lookups of other ranks, both, or None."""
    selected = draw_lookups("zipf", spec.num_keys, spec.heads, spec.top_k, tokens) if imposed else None
    if ranks == 1:
        return None if selected is None else Routing(selected)
    others = (ranks - 1) * tokens
    indices = draw_lookups("uniform", spec.num_keys, spec.heads, spec.top_k, others)
    weights = torch.rand(others, spec.heads, spec.top_k)
    if spec.kind != "peer":
        return Routing(selected, RemoteLookups(indices, weights))
    columns = torch.randn(others, spec.model_dim // ranks).to(dtype)
    products = torch.randn(ranks * tokens, spec.heads, spec.top_k)
    return Routing(selected, RemoteLookups(indices, weights, columns, products))


class Reference:
    """The float64 layer with the weights of ``layer``, given its selection and a routing."""

    def __init__(self, layer, x, routing=None, leaf=double, chosen=None):
        tables = {id(table.weight) for table in layer.tables()}
        self.weights = {}
        for name, parameter in layer.named_parameters():
            name = name.removesuffix(".weight") if id(parameter) in tables else name
            self.weights[name] = leaf(parameter)
        self.x = leaf(x)
        with torch.no_grad():
            self.chosen = layer.select(x).indices if chosen is None else chosen
        self.layer, self.routing = layer, routing or Routing()

    def forward(self):
        spec, ranks, remote = self.layer.spec, self.layer.ranks, self.routing.remote
        rows = self.chosen if self.routing.selected is None else self.routing.selected
        given = (self.chosen, rows)
        run = reference.peer if spec.kind == "peer" else reference.memory
        if remote is None:
            return run(spec, self.weights, self.x, *given)
        fields = (remote.indices, remote.weights.double().requires_grad_())
        if spec.kind == "peer":
            fields += (remote.columns.double().requires_grad_(),)
        parts = list(zip(*(field.chunk(ranks - 1) for field in fields), strict=True))
        if spec.kind == "peer":
            return run(spec, self.weights, self.x, *given, parts, remote.products.double().chunk(ranks))
        return run(spec, self.weights, self.x, *given, parts)


def assert_right(layer, x, routing=None):
    """The output and every gradient."""
    layer.zero_gradients()
    inputs = x.clone().requires_grad_()
    y = layer(inputs, routing)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    assert y.dtype == x.dtype and y.shape == x.shape
    found = {"output": y, "x": inputs.grad}
    tables = {id(table.weight): table for table in layer.tables()}
    for name, parameter in layer.named_parameters():
        if id(parameter) in tables:
            assert parameter.grad is None
            gradient = tables[id(parameter)].gradient
            assert bool((gradient.rows.diff() > 0).all())
            found[name.removesuffix(".weight")] = gradient.to_dense(len(parameter))
        else:
            found[name] = parameter.grad

    def expected(leaf):
        of_reference = Reference(layer, x, routing, leaf)
        y64 = of_reference.forward()
        y64.backward(upstream.double())
        gradients = {name: weight.grad for name, weight in of_reference.weights.items()}
        return {"output": y64, "x": of_reference.x.grad, **gradients}

    assert_matches(found, expected, layer.spec.dtype, repr(layer.spec))


def assert_flops(layer, x, routing=None):
    """The spec's FLOPs are those torch counts on the reference, forward and with the backward pass.

    The reference multiplies all n scores of a half by their gradients, 4·B·H·n·dk; where the layer does so for
    the k chosen ones only, 4·B·H·(n - k)·dk are saved.
    """
    spec, expected = layer.spec, Reference(layer, x, routing)
    with FlopCounterMode(display=False) as forward:
        y = expected.forward()
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    saved = 4 * len(x) * spec.heads * (spec.sub_keys - spec.top_k) * spec.key_dim if spec.sparse_scores_backward else 0
    counted = [forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops() - saved]
    costs = [spec.cost(Step(len(x), mode=mode, ranks=layer.ranks)).flops for mode in ("forward", "forward_backward")]
    assert costs == counted, spec


def assert_selection_exact(layer, x):
    """The selection is the stable order of all n² sums of the layer's own scores."""
    selection = layer.select(x)
    first, second = layer.half_scores(x).detach().double().unbind(1)
    rows, sums = reference.top_rows(first.transpose(0, 1), second.transpose(0, 1), layer.spec.top_k)
    assert torch.equal(selection.indices, rows), layer.spec
    torch.testing.assert_close(selection.weights.double(), torch.softmax(sums, dim=-1), rtol=1e-5, atol=1e-7)
