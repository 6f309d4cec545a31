"""What each process of several checks of its share of a layer: against the layer that one process has alone."""

from contextlib import nullcontext
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from ranks import TIMEOUT_S
from wire_bytes import WireBytes

from layers import LayerOptimizer, Routing, build, clip_gradients_, spec_from
from layers.layer import RemoteLookups
from layers.parallel import collectives
from layers.parallel.distributed import connect
from layers.routing import StatedRouting
from layers.spec import Layout, Step

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
TABLES = ("memory", "memory_plus", "peer")
MODEL = {
    "kind": "model",
    "vocab_size": 32,
    "model_dim": 16,
    "num_blocks": 3,
    "attention": {"heads": 2, "kv_heads": 1, "head_dim": 8},
    "ffn_hidden": 16,
    "layer": {"kind": "memory", **RETRIEVAL},
    "at": (0, 2),
    "dtype": "float32",
}
UNEVEN = (5, 0, 3, 2)  # tokens of each process
SEQUENCES = (2, 0, 1, 1)
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
SPECS |= {f"{kind}_bf16": {**SPECS[kind], "dtype": "bfloat16"} for kind in ("memory", "peer", "token_choice")}
SPECS["in_host"] = {**SPECS["memory"], "table_on": "host"}


@cache
def connected(row_shards=1, replicas=1):
    """One for all checks: making groups takes longer than a check."""
    return connect(row_shards, replicas=replicas, timeout=timedelta(seconds=TIMEOUT_S))


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
    if name.endswith("table.scales"):  # one a row, of all its columns
        return tensor[slice(*exchange.rows_held(len(tensor)))]
    if name.endswith((*(f"{table}.weight" for table in ("table", "down", "up")),)) and tensor.ndim == 2:
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


def loss_of(layer, x, upstream, routing=None):
    y = layer(x, routing)
    loss = (y * upstream).sum()
    return y, loss if layer.auxiliary_loss is None else loss + layer.auxiliary_loss


def replica_sized(whole, exchange, x, upstream, selected=None):
    """The whole layer's outputs and summed loss, replica by replica: experts choose among the tokens of one."""
    parts = []
    for at in range(0, len(x), exchange.ranks):
        of_replica = slice(at, at + exchange.ranks)
        routing = None if selected is None else Routing(torch.cat(selected[of_replica]))
        parts.append(loss_of(whole, torch.cat(x[of_replica]), torch.cat(upstream[of_replica]), routing))
    return torch.cat([y for y, _ in parts]), sum(loss for _, loss in parts)


def drawn_inputs(share, counts, stated):
    """(x, selected or None) of each process: its own tokens, and what is imposed on them."""
    x, selected = [], []
    for number, count in enumerate(counts):
        recorded = None
        if stated == "trace":  # of a trace each process is given its own tokens' part
            _, drawn = share.draw_input(count, StatedRouting("uniform"), torch.Generator().manual_seed(number + 100))
            recorded = drawn.selected
        routing = StatedRouting(stated or "routed", 1.1, recorded)
        tokens, imposed = share.draw_input(count, routing, torch.Generator().manual_seed(number))
        assert stated != "trace" or torch.equal(imposed.selected, recorded)
        x.append(tokens.requires_grad_())
        selected.append(imposed and imposed.selected)
    return x, None if stated is None else selected


def same_as_whole(kind, row_shards, replicas, counts, stated=None):
    """The output, also without a graph, and every gradient."""
    exchange = connected(row_shards, replicas)
    whole = build(spec_from(SPECS[kind]), seed=1)
    share = share_of(whole, exchange)
    me, counts = dist.get_rank(), counts[: dist.get_world_size()]
    x, selected = drawn_inputs(share, counts, stated)
    upstream = [part.to(x[0].dtype) for part in tokens_of_all(counts)]
    y, loss = replica_sized(whole, exchange, x, upstream, selected)
    loss.backward()
    wanted = {"y": y.split(list(counts))[me], "x": x[me].grad.clone()}
    wanted |= {name: cut(gradient, name, share) for name, gradient in gradients(whole).items()}
    x[me].grad = None
    routing = None if selected is None else Routing(selected[me])
    own, loss = loss_of(share, x[me], upstream[me], routing)
    loss.backward()
    share.sum_gradients()
    exact = torch.cat([gradient.flatten() for gradient in gradients(whole).values()]).float().norm()
    close = closeness(x[0].dtype, len(counts))
    torch.testing.assert_close(clip_gradients_(share, float("inf")), exact, rtol=close, atol=0)
    found = {"y": own, "x": x[me].grad, **gradients(share)}
    for name, value in wanted.items():
        check_close(found[name], value, close, name)
    check_touched(whole, share, x, routing, selected)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            check_close(share(x[me], routing), wanted["y"], close, without.__name__)


def check_touched(whole, share, x, routing, selected):
    """What a rank says that it reads and computes is its part of what its replica's tokens touch."""
    exchange, me = share.exchange, dist.get_rank()
    of_replica = slice(me - exchange.rank, me - exchange.rank + exchange.ranks)
    of_all = None if selected is None else Routing(torch.cat(selected[of_replica]))
    wanted, found = whole.touched(torch.cat(x[of_replica]), of_all), share.touched(x[me], routing)
    if wanted.expert_load is not None:
        first, past = exchange.experts_held(whole.spec.num_experts)
        assert torch.equal(found.expert_load, wanted.expert_load[first:past])
    if wanted.rows is not None:
        first, past = exchange.rows_held(whole.spec.num_keys)
        rows = wanted.rows.unique()
        assert torch.equal(found.rows.unique().long(), rows[(rows >= first) & (rows < past)].long() - first)


def model_trains_as_whole(pool, row_shards, replicas):
    """A model of two memory layers, on one pool or two: losses, gradients, and the weights after some steps."""
    exchange = connected(row_shards, replicas)
    whole = build(spec_from({**MODEL, "pool": pool}), seed=1)
    share = share_of(whole, exchange)
    me, counts = dist.get_rank(), SEQUENCES[: dist.get_world_size()]
    one, many = (LayerOptimizer(layer, "row_adagrad", 1e-2) for layer in (whole, share))
    for group in (*one.param_groups, *many.param_groups):
        group["eps"] = 1e-3
    for step in range(4):
        wanted: tuple[torch.Tensor, ...] = ()
        tokens = torch.randint(MODEL["vocab_size"], (sum(counts), 7)).split(list(counts))
        for optimizer, layer, given in ((one, whole, torch.cat(tokens)), (many, share, tokens[me])):
            optimizer.zero_grad()
            losses = layer(given)
            with optimizer.queued() if step % 2 and replicas == 1 else nullcontext():
                losses.sum().backward()
            if layer is share:
                torch.testing.assert_close(losses, wanted[me], **CLOSE)
                share.sum_gradients()
            else:
                wanted = losses.split(list(counts))
            optimizer.step()
    with torch.inference_mode():
        torch.testing.assert_close(
            share.eval()(tokens[me]), whole.eval()(torch.cat(tokens)).split(list(counts))[me], **CLOSE
        )
    for name, parameter in share.named_parameters():
        wanted = cut(dict(whole.named_parameters())[name], name, share)
        torch.testing.assert_close(parameter, wanted, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def quantized_as_whole(row_format, row_shards):
    """Rows of eight bits, which are read and never trained: each shard has its columns of the same numbers."""
    exchange = connected(row_shards)
    spec = spec_from({**SPECS["memory"], "row_format": row_format})
    whole = build(spec, seed=1)
    share = share_of(whole, exchange)
    rows, columns = exchange.rows_held(spec.num_keys), exchange.columns_held(spec.row_elements)
    assert share.table.weight.shape == (rows[1] - rows[0], columns[1] - columns[0])
    me, counts = dist.get_rank(), UNEVEN[: dist.get_world_size()]
    x = tokens_of_all(counts)
    with torch.inference_mode():
        torch.testing.assert_close(share(x[me]), whole(torch.cat(x)).split(list(counts))[me], **CLOSE)
    assert "read, not trained" in spec.mode_error("train_step", "row_adagrad")


def closeness(dtype, processes):
    """Of numbers of this dtype that are sums of so many processes' parts: a part, and each sum, is rounded once."""
    return 2e-5 if dtype == torch.float32 else (processes + 2) * torch.finfo(dtype).eps


def check_close(found, wanted, close, name):
    """Against the largest number of a tensor: parts of either sign cancel, and their rounding stays."""
    scale = wanted.detach().abs().amax().item() if wanted.numel() else 0.0
    message = f"{name}: {{}}".format
    torch.testing.assert_close(found, wanted, rtol=close, atol=close * max(scale, 0.1), msg=message)


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


def sends_as_counted(kind, row_shards, replicas, optimizer):
    """Each collective in its turn, of the bytes of the layer's formulas, where every row shard has as many lookups."""
    tokens, exchange = 4, connected(row_shards, replicas)
    (spec, routing), touched = evenly_routed(kind, tokens), None
    share = build(spec, ranks=exchange)
    trained = LayerOptimizer(share, optimizer)
    x = torch.randn(tokens, 16, requires_grad=True)
    if share.tables():
        touched = len(share.touched(x, routing).rows.unique())
    with WireBytes().counting() as wire:
        loss_of(share, x, 1.0, routing)[1].backward()
        share.sum_gradients()
        trained.step()
    predicted = calls_predicted(spec, tokens, "train_step", optimizer, row_shards, replicas, touched)
    assert calls_of(wire) == predicted, wire.calls
    trained.zero_grad()
    with WireBytes().counting() as wire:
        loss = loss_of(share, x, 1.0, routing)[1]
        with trained.fused() if replicas == 1 else nullcontext():
            loss.backward()
        share.sum_gradients()
        trained.step()
    assert sorted(calls_of(wire)) == sorted(predicted), "rows are updated by the backward pass, in an order of its own"
    for without in (torch.no_grad, torch.inference_mode):
        with WireBytes().counting() as wire, without():
            share.eval()(x, routing)
        assert calls_of(wire) == calls_predicted(spec, tokens, "forward", None, row_shards, replicas, touched)


def adds_up_either_way():
    """A reduce-scatter of the backend's own, and what takes its place over gloo."""
    sizes, rank = UNEVEN[: dist.get_world_size()], dist.get_rank()
    y = torch.randn(sum(sizes), 3) + rank
    wanted = y.clone()
    dist.all_reduce(wanted)
    for way in (collectives._added_on_the_way, collectives._sent_and_added):
        torch.testing.assert_close(way(y, sizes, dist.group.WORLD), wanted.split(sizes)[rank])


def numbers_rows_as_counted(row_shards):
    """Rows above 2^31 arrive as what they are, and in as many bytes as the formulas say: no table is needed."""
    exchange, tokens = connected(row_shards), 3
    spec = spec_from({**SPECS["memory"], "num_keys": 50_000**2, "key_dim": 2})
    first, past = exchange.rows_held(spec.num_keys)
    size, each = spec.num_keys // row_shards, spec.lookups_per_token // row_shards
    rows = torch.cat([torch.randint(size, (tokens, each)) + shard * size for shard in range(row_shards)], dim=1)
    with WireBytes().counting() as wire:
        call = exchange.read(rows, torch.ones(rows.shape), spec.num_keys, None, weights_by_columns=True)
    sent = {call.stage: call.sent for call in wire.calls}
    counted = spec.cost(Step(tokens, ranks=exchange.ranks, row_shards=row_shards)).communication_bytes
    assert sent.items() <= counted.items(), (sent, counted)
    wanted = rows[(rows >= first) & (rows < past)] - first
    assert torch.equal(call.lookups.rows.flatten().long(), wanted.repeat(exchange.ranks)), "all processes draw the same"


def evenly_routed(kind, tokens):
    """(spec, routing): where every process sends as much to each of the others."""
    spec = spec_from(SPECS[kind])
    if kind in TABLES:
        # one of a head's four rows in each quarter of the table, the same on every process
        rows = torch.stack([torch.randperm(16)[:4] + torch.arange(4) * 16 for _ in range(tokens * spec.heads)])
        return spec, Routing(rows.view(tokens, spec.heads, spec.top_k))
    if kind == "expert_choice":  # each expert takes all tokens
        return spec_from({**SPECS[kind], "num_experts": 8, "capacity_factor": 4}), None
    routing = Routing((torch.arange(4) * 2).expand(tokens, 4).contiguous())
    return spec_from({**SPECS[kind], "num_experts": 8, "top_k": 4}), routing


def calls_of(wire):
    return [(call.kind, call.ranks, round(call.sent, 6)) for call in wire.calls]


def calls_predicted(spec, tokens, mode, optimizer, row_shards, replicas, touched):
    """As gloo sends them: a reduce-scatter as an all-to-all, whose parts each rank adds up."""
    step = Step(tokens, mode, optimizer, dist.get_world_size(), unique_rows=touched)
    found = []
    for each in Layout("", replicas=replicas, row_shards=row_shards).cost(spec, step)[1]:
        kind = "all_to_all" if each.kind == "reduce_scatter" else each.kind
        found += int(each.calls) * [(kind, each.ranks, round(each.sent_bytes / each.calls, 6))]
    return found


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
