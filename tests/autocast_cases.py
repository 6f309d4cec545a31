"""Every kind of layer at awkward sizes, and its output and gradients beside the float64 reference's."""

import torch
from against_reference import assert_matches, double_weights
from retrieval_checks import Reference

from layers import build, spec_from
from layers.checking import reference

_ROWS = {"num_keys": 49, "key_dim": 22, "heads": 3, "top_k": 5}
_EXPERTS = {"kind": "moe", "num_experts": 5, "expert_hidden": 13, "top_k": 2}
KINDS = {
    "dense": {"kind": "dense", "ffn_hidden": 37},
    "moe, softmax": {**_EXPERTS, "router": "softmax", "balancing": "loss", "z_loss_weight": 0.01},
    "moe, sigmoid, shared": {**_EXPERTS, "router": "sigmoid", "balancing": "loss", "shared_hidden": 11},
    "moe, loss-free": {**_EXPERTS, "router": "sigmoid", "balancing": "bias"},
    "moe, expert choice": {**_EXPERTS, "choice": "expert", "balancing": "none", "z_loss_weight": 0.01},
    "memory": {"kind": "memory", **_ROWS, "query_norm": True},
    "memory, companion": {"kind": "memory", **_ROWS, "companion_hidden": 11, "value_dim": 7},
    "memory on the host": {"kind": "memory", **_ROWS, "table_on": "host"},
    "memory_plus": {"kind": "memory_plus", **_ROWS, "qk_norm": True},
    "peer": {"kind": "peer", **_ROWS, "companion_hidden": 11},
}
READ_ONLY = {
    "int8 rows": {"kind": "memory", **_ROWS, "row_format": "int8"},
    "float8 rows": {"kind": "memory_plus", **_ROWS, "row_format": "float8_e4m3fn"},
}
MODEL_DIM = 27


def built(kind, dtype="float32", seed=0, **changes):
    """A layer of that kind; a router's bias is not all zeros."""
    config = {**KINDS, **READ_ONLY}[kind]
    layer = build(spec_from({"model_dim": MODEL_DIM, "dtype": dtype, **config, **changes}), seed=seed)
    if getattr(layer, "expert_bias", None) is not None:
        layer.expert_bias.normal_(0, 0.1)
    return layer


def assert_right(layer, forward, x, tolerance):
    """The output, the auxiliary loss and every gradient of ``forward(layer, x)``, given the layer's own choice.

    Args:
        forward: calls the layer in the way that is tested; it is also asked for the layer's choice.
        tolerance: the name of the dtype whose roundings are to be expected.
    """
    layer.zero_gradients()
    inputs = x.detach().clone().requires_grad_()
    y, loss = forward(layer, inputs), layer.auxiliary_loss
    with torch.no_grad():
        selection = forward(layer.select, inputs)
    upstream = torch.randn(y.shape).to(y.dtype)
    ((y * upstream).sum() + (0 if loss is None else loss)).backward()
    assert loss is None or loss.dtype == torch.promote_types(x.dtype, torch.float32)

    def expected(leaf):
        weights, x64, y64, loss64 = reference_of(layer, leaf, x, selection and selection.indices)
        ((y64 * upstream.double()).sum() + loss64).backward()
        return {"y": y64, "x": x64.grad, **{name: weight.grad for name, weight in weights.items()}}

    assert_matches({"y": y, "x": inputs.grad, **gradients(layer)}, expected, tolerance, repr(layer.spec))


def gradients(layer):
    """By name, each of its parameter's dtype; those of table rows dense."""
    tables = {id(table.weight): table for table in layer.tables()}
    found = {}
    for name, parameter in layer.named_parameters():
        if id(parameter) in tables:
            gradient = tables[id(parameter)].gradient
            assert gradient.values.dtype == parameter.dtype and parameter.grad is None
            found[name.removesuffix(".weight")] = gradient.to_dense(len(parameter))
        else:
            assert parameter.grad.dtype == parameter.dtype
            found[name] = parameter.grad
    return found


def reference_of(layer, leaf, x, chosen):
    """(weights by name, x, y, auxiliary loss) in float64."""
    spec = layer.spec
    if spec.kind not in ("dense", "moe"):
        of_rows = Reference(layer, x, leaf=leaf, chosen=chosen)
        return of_rows.weights, of_rows.x, of_rows.forward(), 0.0
    w, x64 = double_weights(layer, leaf), leaf(x)
    if spec.kind == "dense":
        return w, x64, reference.dense(spec, w, x64), 0.0
    if spec.choice == "expert":
        y = reference.moe_expert_choice(spec, w, x64, chosen)
    else:
        y = reference.moe_token_choice(spec, w, x64, chosen, chosen)
    return w, x64, y, reference.moe_auxiliary_loss(spec, w, x64, chosen)
