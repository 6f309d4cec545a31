"""What each process of several checks of a dense layer that torch's libraries share: against the whole layer."""

from collections import Counter

import torch
import torch.distributed as dist
from sharded_checks import CLOSE, connected, loss_of, tokens_of_all
from wire_bytes import WireBytes

from layers import LayerOptimizer, build, clip_gradients_, spec_from
from layers.spec import Layout, Step

SPEC = {"kind": "dense", "model_dim": 16, "ffn_hidden": 24, "dtype": "float32"}
WAYS = {"fsdp": Layout("fsdp", gathers=True), "tensor": Layout("tensor", tensor=True)}


def both(way, replicas):
    """The whole layer, and this process's part of it, drawn from the same seed."""
    spec = spec_from(SPEC)
    return build(spec, seed=1), build(spec, ranks=connected(1, replicas, dense=way), seed=1)


def whole_values(layer, of=lambda parameter: parameter.detach()):
    """By the names of the whole layer; parts are gathered."""
    found = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in ((name, of(parameter)) for name, parameter in layer.named_parameters())
    }
    if "cut.gate.weight" in found:
        gate_up = torch.cat([found["cut.gate.weight"], found["cut.up.weight"]])
        found = {"gate_up": gate_up, "down": found["cut.down.weight"]}
    return found


def assert_alike(found, wanted, close):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, **close, msg=lambda text, name=name: f"{name}: {text}")


def same_as_whole(way, replicas, counts):
    """The output, every gradient and their norm; each rank holds its part alone."""
    whole, share = both(way, replicas)
    me, counts = dist.get_rank(), counts[: dist.get_world_size()]
    x, upstream = ([part.clone() for part in tokens_of_all(counts)] for _ in range(2))
    for each in x:
        each.requires_grad_()
    y, loss = loss_of(whole, torch.cat(x), torch.cat(upstream))
    loss.backward()
    wanted = {"y": y.split(list(counts))[me], "x": x[me].grad.clone(), **whole_values(whole, lambda p: p.grad)}
    x[me].grad = None
    own, loss = loss_of(share, x[me], upstream[me])
    loss.backward()
    share.sum_gradients()
    assert_alike({"y": own, "x": x[me].grad, **whole_values(share, lambda p: p.grad)}, wanted, CLOSE)
    norm = torch.cat([p.grad.flatten() for p in whole.parameters()]).norm()
    torch.testing.assert_close(clip_gradients_(share, float(norm) / 2), norm)
    halves = {name: value / 2 for name, value in whole_values(whole, lambda p: p.grad).items()}
    assert_alike(whole_values(share, lambda p: p.grad), halves, CLOSE)
    held = sum(p.to_local().numel() for p in share.parameters())
    ranks = dist.get_world_size() // replicas
    assert held == 3 * 16 * 24 // ranks == WAYS[way].cost(share.spec, Step(1, ranks=ranks))[0].rank_params


def trains_as_whole(way, replicas, counts):
    """Twenty steps: losses, and all weights after them."""
    whole, share = both(way, replicas)
    me, counts = dist.get_rank(), counts[: dist.get_world_size()]
    one, many = (LayerOptimizer(layer, "adamw", 1e-2) for layer in (whole, share))
    for group in (*one.param_groups, *many.param_groups):
        group["eps"] = 1e-3  # else rounding, where gradients cancel, would be a step of full size
    for _ in range(20):
        x, upstream = tokens_of_all(counts), tokens_of_all(counts)
        one.zero_grad()
        _, wanted = loss_of(whole, torch.cat(x), torch.cat(upstream))
        wanted.backward()
        one.step()
        many.zero_grad()
        _, loss = loss_of(share, x[me], upstream[me])
        loss.backward()
        share.sum_gradients()
        many.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-4)
    assert_alike(whole_values(share), whole_values(whole), {"rtol": 1e-4, "atol": 1e-4})


def sends_as_counted(way):
    """Each kind of collective sends what the layout's formulas say, where each rank has as many tokens."""
    _, share = both(way, 1)
    trained, tokens = LayerOptimizer(share, "adamw"), 4
    for mode in ("forward", "train_step"):
        x = torch.randn(tokens, 16, requires_grad=mode == "train_step")
        with WireBytes().counting() as wire, torch.set_grad_enabled(mode == "train_step"):
            y = share(x)
            if mode == "train_step":
                y.sum().backward()
                share.sum_gradients()
                trained.step()
        step = Step(tokens, mode, "adamw", dist.get_world_size())
        counted = Counter()
        for name, count in WAYS[way].cost(share.spec, step)[0].communication_bytes.items():
            counted[next(kind for kind in ("all_gather", "reduce_scatter") if name.startswith(kind))] += count
        sent = Counter()
        for call in wire.calls:
            sent[call.kind] += call.sent
        assert +sent == counted, (mode, sent, counted)
