"""What each process of several checks of its share of a layer: against the layer that one process has alone."""

from contextlib import contextmanager, nullcontext
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
from layers.layer import RemoteAssignments, RemoteLookups
from layers.moe import MoE
from layers.parallel import collectives
from layers.parallel.distributed import connect
from layers.routing import StatedRouting, busiest_rank
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
DENSE = {"kind": "dense", "model_dim": 16, "ffn_hidden": 24, "dtype": "float32"}
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
def connected(row_shards=1, replicas=1, rows_inside=False, dense="replicas"):
    """One for all checks: making groups takes longer than a check."""
    limit = timedelta(seconds=TIMEOUT_S)
    return connect(row_shards, replicas=replicas, rows_inside=rows_inside, dense=dense, timeout=limit)


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


def same_as_whole(kind, row_shards, replicas, counts, stated=None, rows_inside=False):
    """The output, also without a graph, and every gradient."""
    exchange = connected(row_shards, replicas, rows_inside)
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


def sends_as_counted(kind, row_shards, replicas, optimizer, rows_inside=False):
    """Each collective in its turn, of the bytes of the layer's formulas, where every row shard has as many lookups."""
    tokens, world, exchange = 4, dist.get_world_size(), connected(row_shards, replicas, rows_inside)
    layout = Layout("", replicas=replicas, row_shards=row_shards, rows_inside=rows_inside)
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
    predicted = predicted_calls(spec, Step(tokens, "train_step", optimizer, world, unique_rows=touched), layout)
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
        assert calls_of(wire) == predicted_calls(spec, Step(tokens, ranks=world, unique_rows=touched), layout)


def model_sends_as_counted(pool):
    """Each block's layer has calls of its own, a pool is updated once, and gradients of matrices go together."""
    exchange, shape = connected(), (2, 6)
    share = build(spec_from({**MODEL, "pool": pool}), ranks=exchange)
    tokens = torch.randint(MODEL["vocab_size"], (shape[0], shape[1] + 1))
    for rule in ("lazy_adam", "row_adagrad"):
        trained = LayerOptimizer(share, rule)
        trained.zero_grad()
        with WireBytes().counting() as wire:
            share(tokens).sum().backward()
            share.sum_gradients()
            rows = sum(len(table.gradient.rows) for table in dict.fromkeys(share.tables()))
            trained.step()
        step = Step(shape[0] * shape[1], "train_step", rule, exchange.ranks, sequences=shape[0], unique_rows=rows)
        predicted = predicted_calls(share.spec, step, Layout(""))
        if rule == "row_adagrad":  # its tables read as many rows on average
            assert sum(sent for *_, sent in calls_of(wire)) == sum(sent for *_, sent in predicted)
            predicted, found = ([call[:3] for call in calls] for calls in (predicted, calls_of(wire)))
            assert sorted(found) == sorted(predicted)
        else:
            assert sorted(calls_of(wire)) == sorted(predicted)


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
    return [(call.kind, call.ranks, call.stride, round(call.sent, 6)) for call in wire.calls]


def predicted_calls(spec, step, layout):
    """As gloo sends them: a reduce-scatter as an all-to-all, whose parts each rank adds up."""
    found = []
    for each in layout.cost(spec, step)[1]:
        kind = "all_to_all" if each.kind == "reduce_scatter" else each.kind
        found += int(each.calls) * [(kind, each.ranks, each.stride, round(each.sent_bytes / each.calls, 6))]
    return found


def share_alone_is_the_real_one(kind, stated):
    """One rank's share by policy ``rank``, given what the others send: the same rows read, and the same bags of them,
    gradients of these rows, and counts."""
    ranks, rank, exchange = dist.get_world_size(), dist.get_rank(), connected()
    spec = spec_from({"kind": kind, **RETRIEVAL})
    whole = build(spec, seed=1)
    share, alone = share_of(whole, exchange), build(spec, ranks=ranks)
    alone.load_state_dict(share.state_dict())
    x, selected = drawn_inputs(share, [3] * ranks, stated)
    x = [part.detach() for part in x]
    first_mine = [rank, *(other for other in range(ranks) if other != rank)]
    everyone = torch.cat([x[each] for each in first_mine])
    chosen = whole.select(everyone)
    imposed = selected and torch.cat([selected[each] for each in first_mine])
    rows = chosen.indices if imposed is None else imposed
    remote = RemoteLookups(rows[3:], chosen.weights[3:].detach())
    mine = x[rank]
    if kind == "peer":
        columns = slice(*exchange.columns_held(16))
        whole_dots = torch.einsum("bhkd,bd->bhk", whole.down.weight[rows], everyone)
        own_dots = torch.einsum("bhkd,bd->bhk", whole.down.weight[rows][..., columns], everyone[:, columns])
        remote = RemoteLookups(remote.indices, remote.weights, everyone[3:, columns], whole_dots - own_dots)
        # its own columns are the first where there are no other ranks
        mine = torch.cat([mine[:, columns], mine[:, columns.stop :], mine[:, : columns.start]], dim=1)
        alone.select = lambda _: whole.select(x[rank])
    routings = Routing(selected and selected[rank]), Routing(imposed if imposed is None else imposed[:3], remote)
    calls = [(share, x[rank], routings[0]), (alone, mine, routings[1])]
    read = [layer.touched(given, routing).rows.long().sort().values for layer, given, routing in calls]
    assert torch.equal(*read)
    bags, simulated = (bags_of(*call) for call in calls)
    in_turn = torch.cat([bags.split(3)[each] for each in first_mine])
    torch.testing.assert_close(simulated, in_turn, **CLOSE)
    upstream = torch.randn(in_turn.shape) + torch.arange(len(everyone))[:, None]
    in_turn.backward(upstream)
    simulated.backward(upstream)
    # of peer's other table the gradient has to do with what other columns find
    real, simulated = (layer.tables()[-1].gradient for layer in (share, alone))
    assert torch.equal(real.rows, simulated.rows)
    torch.testing.assert_close(real.values, simulated.values, **CLOSE)


def bags_of(layer, x, routing):
    """(M, D/C): what a rank's shard of the last table gives for the tokens of all."""
    found = []
    bag = layer.tables()[-1].bag
    layer.tables()[-1].bag = lambda *given: found.append(bag(*given)) or found[0]
    layer(x, routing)
    del layer.tables()[-1].bag
    return found[0]


def experts_alone_are_the_real_ones():
    """One rank's experts by policy ``rank``: of as many rows the same results and gradients, and the load of the
    busiest."""
    ranks, rank, exchange = dist.get_world_size(), dist.get_rank(), connected()
    spec = spec_from({**MIXTURE, "num_experts": 2 * ranks})
    share, alone = share_of(build(spec, seed=1), exchange), build(spec, ranks=ranks)
    alone.load_state_dict(share.state_dict())
    x = torch.randn(3, 16) + rank
    # each process keeps its tokens: then they are what its share, alone, takes for all that it receives
    kept = torch.tensor([2 * rank, 2 * rank + 1]).expand(3, 2).contiguous()
    counts = share.touched(x, Routing(kept)).expert_load
    assert counts.tolist() == [3, 3]
    y, simulated = share(x, Routing(kept)), alone(x, Routing(remote=RemoteAssignments(counts)))
    torch.testing.assert_close(simulated, y, **CLOSE)
    for each in (y, simulated):
        each.sum().backward()
    for name in ("expert_gate_up", "expert_down", "router"):
        torch.testing.assert_close(getattr(alone, name).grad, getattr(share, name).grad, **CLOSE)
    for stated in ("uniform", "zipf", None):
        x, selected = drawn_inputs(share, [5] * ranks, stated)
        own = share.touched(x[rank], selected and Routing(selected[rank])).expert_load
        loads = collectives.Gather([len(own)] * ranks, exchange.group).there(own)
        everyone = share.select(torch.cat(x)).indices if selected is None else torch.cat(selected)
        busiest = busiest_rank(everyone, spec.num_experts, ranks)
        assert busiest.tolist() == max(loads.view(ranks, -1).tolist(), key=sum)
        step = Step(5, ranks=ranks, assignments=float(busiest.sum()), active_experts=float((busiest > 0).sum()))
        computed = sum(stage.flops for stage in spec.cost(step).stages if stage.name == "experts_up")
        assert computed == 4 * loads.view(ranks, -1).sum(1).max() * 16 * spec.expert_hidden


def is_verified(kind, row_shards, replicas, spoiled, dense="replicas"):
    """The check before timing: right on all ranks, or, where one rank's shard gives wrong answers, wrong on all."""
    share = build(
        spec_from({**SPECS, "dense": DENSE}[kind]), ranks=connected(row_shards, replicas, dense=dense), seed=1
    )
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
