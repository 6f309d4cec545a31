"""What each process does with checkpoints of what it shares: trains on, saves, loads on another number, trains on."""

import json
from functools import cache

import torch
import torch.distributed as dist
from sharded_checks import SPECS, connected

from layers import LayerOptimizer, build, spec_from
from layers.sharded_checkpoint import load, save

MODEL = {
    "kind": "model",
    "vocab_size": 32,
    "model_dim": 16,
    "num_blocks": 3,
    "attention": {"heads": 2, "kv_heads": 2, "head_dim": 8},
    "ffn_hidden": 24,
    "layer": SPECS["memory_plus"],
    "at": (0, 2),
    "pool": "shared",
    "dtype": "float32",
}
KINDS = {**SPECS, "dense": {"kind": "dense", "model_dim": 16, "ffn_hidden": 24, "dtype": "float32"}, "model": MODEL}
# kind, optimizer, row shards (0: one for each process), a dense layer's way
CASES = {
    "columns": ("memory", "row_adagrad", 1, "replicas"),
    "rows": ("memory", "lazy_adam", 0, "replicas"),
    "both": ("memory", "row_adam", 2, "replicas"),
    "adamw": ("memory", "adamw", 2, "replicas"),
    "peer": ("peer", "row_adam", 0, "replicas"),
    "moe": ("token_choice", "adamw", 1, "replicas"),
    "bias": ("bias", "adamw", 1, "replicas"),
    "fsdp": ("dense", "adamw", 1, "fsdp"),
    "tensor": ("dense", "adamw", 1, "tensor"),
    "model": ("model", "row_adagrad", 0, "fsdp"),
    "host columns": ("in_host", "row_adam", 1, "replicas"),
    "host rows": ("in_host", "lazy_adam", 0, "replicas"),
}
# formats of rows that are read and never trained, and row shards
READ = {"int8 rows": ("int8", 0), "float8 columns": ("float8_e4m3fn", 1), "int8 both": ("int8", 2)}
SAMPLES = 12
SAVED_ON = 4


def shards(rows):
    world = dist.get_world_size()
    return {0: world, 2: 2 if world % 2 == 0 else 1}.get(rows, rows)


def made(case, seed):
    kind, optimizer, rows, dense = CASES[case]
    rows = shards(rows)
    layer = build(spec_from(KINDS[kind]), ranks=connected(rows, 1, dense), seed=seed)
    return layer, LayerOptimizer(layer, optimizer, 1e-2, table_weight_decay=0.1)


@cache
def data(case, step):
    generator = torch.Generator().manual_seed(step)
    if CASES[case][0] == "model":
        return torch.randint(32, (SAMPLES, 6), generator=generator)
    return torch.randn(SAMPLES, 16, generator=generator), torch.randn(SAMPLES, 16, generator=generator)


def losses(case, layer, optimizer, steps):
    """Of all processes together, which share the same samples whatever their number."""
    found = []
    mine = slice(*(SAMPLES * each // dist.get_world_size() for each in (dist.get_rank(), dist.get_rank() + 1)))
    for step in steps:
        optimizer.zero_grad()
        if CASES[case][0] == "model":
            loss = layer(data(case, step)[mine]).sum()
        else:
            x, upstream = data(case, step)
            loss = (layer(x[mine]) * upstream[mine]).sum()
        (loss if layer.auxiliary_loss is None else loss + layer.auxiliary_loss).backward()
        layer.sum_gradients()
        optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        found.append(float(loss))
    return found


def saves(case, folder):
    """On so many processes as saved it, what goes on from the checkpoint has the same losses to the bit."""
    layer, optimizer = made(case, seed=1)
    losses(case, layer, optimizer, range(3))
    save(folder / case, layer, optimizer)
    wanted = losses(case, layer, optimizer, range(3, 6))
    other, others = made(case, seed=2)
    load(folder / case, other, others)
    assert losses(case, other, others, range(3, 6)) == wanted
    if dist.get_rank() == 0:
        (folder / f"{case}.json").write_text(json.dumps(wanted))


def goes_on(case, folder):
    """On another number of processes, to rounding."""
    layer, optimizer = made(case, seed=2)
    load(folder / case, layer, optimizer)
    found = torch.tensor(losses(case, layer, optimizer, range(3, 6)))
    wanted = torch.tensor(json.loads((folder / f"{case}.json").read_text()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def read_only(case, folder):
    """Rows of eight bits: saved on so many processes, on others each has its part, to the bit, and reads the same."""
    row_format, rows = READ[case]
    spec, saves_it = spec_from({**SPECS["memory"], "row_format": row_format}), dist.get_world_size() == SAVED_ON
    layer = build(spec, ranks=connected(shards(rows), 1), seed=1 if saves_it else 2)
    whole = build(spec, seed=1)
    if saves_it:
        save(folder / case, layer)
    other = build(spec, ranks=connected(shards(rows), 1), seed=2)
    load(folder / case, other)
    exchange = other.exchange
    (first, last), (left, right) = exchange.rows_held(spec.num_keys), exchange.columns_held(spec.row_elements)
    part = whole.table.weight[first:last, left:right].view(torch.int8)
    assert other.table.weight.numel() * dist.get_world_size() <= whole.table.weight.numel() * 1.1
    assert torch.equal(other.table.weight.view(torch.int8), part)
    assert torch.equal(other.table.scales, whole.table.scales[first:last])
    x = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    mine = slice(*(SAMPLES * each // dist.get_world_size() for each in (dist.get_rank(), dist.get_rank() + 1)))
    with torch.inference_mode():
        torch.testing.assert_close(other(x[mine]), whole(x)[mine], rtol=2e-5, atol=2e-6)
