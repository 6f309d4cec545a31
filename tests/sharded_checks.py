"""What each process of several checks of its share of a layer: against the layer that one process has alone."""

from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from ranks import TIMEOUT_S
from wire_bytes import WireBytes

from layers import LayerOptimizer, Routing, build, clip_gradients_, spec_from
from layers.checking.update_verification import update_errors
from layers.checking.verification import verify
from layers.dense import Dense
from layers.layer import RemoteLookups
from layers.moe import MoE
from layers.parallel.distributed import connect
from layers.spec import Step

RETRIEVAL = {"model_dim": 16, "num_keys": 64, "heads": 2, "top_k": 4, "key_dim": 8, "dtype": "float32"}
MIXTURE = {"kind": "moe", "model_dim": 16, "num_experts": 7, "expert_hidden": 8, "top_k": 2, "dtype": "float32"}
SPECS = {
    "memory": {"kind": "memory", **RETRIEVAL, "value_dim": 24, "companion_hidden": 8},
    "memory_plus": {"kind": "memory_plus", **RETRIEVAL},
    "peer": {"kind": "peer", **RETRIEVAL, "companion_hidden": 8},
    "token_choice": {**MIXTURE, "shared_hidden": 8, "z_loss_weight": 0.1},
    "bias": {**MIXTURE, "router": "sigmoid", "balancing": "bias"},
    "expert_choice": {**MIXTURE, "choice": "expert", "z_loss_weight": 0.1},
}
DENSE = {"kind": "dense", "model_dim": 16, "ffn_hidden": 24, "dtype": "float32"}
UNEVEN = (5, 0, 3, 2)  # tokens of each process
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@cache
def connected(row_shards=1, replicas=1, dense="replicas"):
    """One for all checks: making groups takes longer than a check."""
    return connect(row_shards, replicas=replicas, dense=dense, timeout=timedelta(seconds=TIMEOUT_S))


def share_of(whole, exchange):
    """The same layer, as one of several ranks has it."""
    share = build(whole.spec, ranks=exchange)
    of_whole = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in share.named_parameters():
            parameter.copy_(cut(of_whole[name], name, share))
    return share


def cut(tensor, name, share):
    """This rank's part of a whole parameter, or of its gradient."""
    exchange = share.exchange
    if name in {f"{name}.weight" for name, module in share.named_modules() if module in set(share.tables())}:
        rows, columns = exchange.rows_held(len(tensor)), exchange.columns_held(tensor.shape[1])
        return tensor[slice(*rows), slice(*columns)]
    if name.startswith(("expert_gate", "expert_down")):
        return tensor[slice(*exchange.experts_held(len(tensor)))]
    return tensor


def gradients(layer):
    tables = {table.weight: table for table in layer.tables()}
    found = {}
    for name, parameter in layer.named_parameters():
        gradient = tables[parameter].gradient if parameter in tables else parameter.grad
        if parameter in tables:
            gradient = torch.zeros_like(parameter) if gradient is None else gradient.to_dense(len(parameter))
        found[name] = gradient
    return found


def tokens_of_all(counts, dim=16):
    return torch.randn(sum(counts), dim).split(list(counts))


def loss_of(layer, x, upstream):
    y = layer(x)
    loss = (y * upstream).sum()
    return y, loss if layer.auxiliary_loss is None else loss + layer.auxiliary_loss


def replica_sized(whole, exchange, x, upstream):
    """The whole layer's outputs and summed loss, replica by replica: experts choose among the tokens of one."""
    parts = [
        loss_of(whole, torch.cat(x[at : at + exchange.ranks]), torch.cat(upstream[at : at + exchange.ranks]))
        for at in range(0, len(x), exchange.ranks)
    ]
    return torch.cat([y for y, _ in parts]), sum(loss for _, loss in parts)


def same_as_whole(kind, row_shards, replicas, counts):
    """The output and every gradient."""
    exchange = connected(row_shards, replicas)
    whole = build(spec_from(SPECS[kind]), seed=1)
    share = share_of(whole, exchange)
    me, counts = dist.get_rank(), counts[: dist.get_world_size()]
    x, upstream = ([part.clone() for part in tokens_of_all(counts)] for _ in range(2))
    for each in x:
        each.requires_grad_()
    y, loss = replica_sized(whole, exchange, x, upstream)
    loss.backward()
    wanted = {"y": y.split(list(counts))[me], "x": x[me].grad.clone()}
    wanted |= {name: cut(gradient, name, share) for name, gradient in gradients(whole).items()}
    x[me].grad = None
    own, loss = loss_of(share, x[me], upstream[me])
    loss.backward()
    share.sum_gradients()
    exact = torch.cat([gradient.flatten() for gradient in gradients(whole).values()]).norm()
    torch.testing.assert_close(clip_gradients_(share, float("inf")), exact)
    found = {"y": own, "x": x[me].grad, **gradients(share)}
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def trains_as_whole(kind, row_shards, replicas, optimizer, fused):
    """Twenty steps: losses, and all weights after them."""
    exchange = connected(row_shards, replicas)
    whole = build(spec_from(SPECS[kind]), seed=1)
    share = share_of(whole, exchange)
    me, counts = dist.get_rank(), UNEVEN[: dist.get_world_size()]
    one, many = (LayerOptimizer(layer, optimizer, 1e-2, table_weight_decay=0.1) for layer in (whole, share))
    for group in (*one.param_groups, *many.param_groups):
        # else what is nothing but rounding, where gradients cancel, would be a step of full size
        group["eps"] = 1e-3
    for _ in range(20):
        x, upstream = tokens_of_all(counts), tokens_of_all(counts)
        one.zero_grad()
        _, wanted = replica_sized(whole, exchange, x, upstream)
        wanted.backward()
        one.step()
        many.zero_grad()
        _, loss = loss_of(share, x[me], upstream[me])
        if fused:
            with many.fused():
                loss.backward()
        else:
            loss.backward()
        share.sum_gradients()
        many.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-4)
    for (name, buffer), wanted in zip(share.named_buffers(), whole.buffers(), strict=True):
        assert torch.equal(buffer, wanted), name
    for name, parameter in share.named_parameters():
        wanted = cut(dict(whole.named_parameters())[name], name, share)
        torch.testing.assert_close(parameter, wanted, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def sends_as_counted(kind, row_shards, optimizer):
    """Each collective's bytes are those of the layer's formulas, where every row shard has as many of the lookups."""
    ranks, tokens = dist.get_world_size(), 4
    exchange = connected(row_shards)
    share = build(spec_from(SPECS[kind]), ranks=exchange)
    routing, touched = None, None
    if kind in ("memory", "memory_plus", "peer"):
        spec = share.spec
        # one of a head's four rows in each quarter of the table
        rows = torch.stack([torch.randperm(16)[:4] + torch.arange(4) * 16 for _ in range(tokens * spec.heads)])
        routing = Routing(rows.view(tokens, spec.heads, spec.top_k))
    elif kind == "expert_choice":
        # each expert takes all tokens
        share = build(spec_from({**SPECS[kind], "num_experts": 8, "capacity_factor": 4}), ranks=exchange)
    else:
        # each process sends as many rows to each of the others
        share = build(spec_from({**SPECS[kind], "num_experts": 8, "top_k": 4}), ranks=exchange)
        routing = Routing((torch.arange(4) * 2).expand(tokens, 4).contiguous())
    trained = LayerOptimizer(share, optimizer)
    x = torch.randn(tokens, 16, requires_grad=True)
    with WireBytes().counting() as wire:
        loss = share(x, routing).sum()
        with trained.fused():
            loss.backward()
        share.sum_gradients()
        trained.step()
    if share.tables():
        touched = len(share.touched(x, routing).rows.unique())
    step = Step(tokens, "train_step", optimizer, ranks, row_shards=row_shards, unique_rows=touched)
    sent = {name: count for name, count in wire.sent.items() if name not in ("sizes", "all_reduce_numbers") and count}
    assert sent == share.spec.cost(step).communication_bytes, (sent, share.spec.cost(step).communication_bytes)


def share_alone_is_the_real_one(kind):
    """One rank's share by policy ``rank``, given what the others send: the same bags of the same rows."""
    ranks, tokens, rank = dist.get_world_size(), 3, dist.get_rank()
    exchange = connected()
    spec = spec_from({"kind": kind, **RETRIEVAL})
    whole = build(spec, seed=1)
    share, alone = share_of(whole, exchange), build(spec, ranks=ranks)
    alone.load_state_dict(share.state_dict())
    x = tokens_of_all([tokens] * ranks)
    everyone = torch.cat([share(part) if number == rank else whole(part) for number, part in enumerate(x)])
    mine, *others = [x[rank], *x[:rank], *x[rank + 1 :]]
    with torch.no_grad():
        chosen = whole.select(torch.cat(others))
        remote = RemoteLookups(chosen.indices, chosen.weights)
        if kind == "peer":
            columns = slice(*exchange.columns_held(16))
            all_tokens = torch.cat([mine, *others])
            rows = whole.select(all_tokens).indices
            left_out = whole.down.weight[rows]
            left_out = torch.einsum("bhkd,bd->bhk", left_out, all_tokens)
            left_out -= torch.einsum("bhkd,bd->bhk", whole.down.weight[rows][..., columns], all_tokens[:, columns])
            remote = RemoteLookups(remote.indices, remote.weights, torch.cat(others)[:, columns], left_out)
            # its own columns are the first where there are no other ranks
            mine = torch.cat([mine[:, columns], mine[:, columns.stop :], mine[:, : columns.start]], dim=1)
            alone.select = lambda _: whole.select(x[rank])
        bags = alone(mine, Routing(remote=remote))
    own = slice(*exchange.columns_held(everyone.shape[1]))
    parts = list(everyone.split(tokens))
    wanted = torch.cat([part[:, own] for part in (parts[rank], *parts[:rank], *parts[rank + 1 :])], dim=1)
    torch.testing.assert_close(bags, wanted, **CLOSE)


def is_verified(kind, row_shards, replicas, spoiled, dense="replicas"):
    """The check before timing: right on all ranks, or, where one rank's shard gives wrong answers, wrong on all."""
    share = build(spec_from({**SPECS, "dense": DENSE}[kind]), ranks=connected(row_shards, replicas, dense), seed=1)
    if spoiled and dist.get_rank() == dist.get_world_size() - 1:
        spoil(share)
    torch.manual_seed(dist.get_rank())  # each its own tokens
    with undone(share):
        found = [verify(share, torch.randn(6, 16), gradients=gradients) for gradients in (False, True)]
    assert all(bool(each.failure) == spoiled for each in found), found
    named = {"gate_up", "down"} if kind == "dense" else {*dict(share.named_parameters())}
    assert {"output", "x", *named} == found[1].errors.keys(), found[1].errors
    if not spoiled and share.tables():
        optimizer = LayerOptimizer(share, "row_adagrad")
        x = torch.randn(6, 16)
        assert max(update_errors(optimizer, lambda: share(x).sum().backward()).values()) < 1e-5


def spoil(share):
    """What this rank's shard gives is off by a hundredth."""
    if isinstance(share, MoE):
        send = share.exchange.send

        def heavier(*given):
            call = send(*given)
            call.weight = call.weight * 1.01
            return call

        share.exchange.send = heavier
    elif isinstance(share, Dense):
        share.register_forward_pre_hook(lambda _, given: (given[0] * 1.01, *given[1:]))
    else:
        table = share.tables()[-1]
        bag = table.bag
        table.bag = lambda *given: bag(*given) * 1.01


@contextmanager
def undone(share):
    """What was changed of the exchange, which other checks use too, is put back."""
    try:
        yield
    finally:
        vars(share.exchange).pop("send", None)
