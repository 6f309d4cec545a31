"""What the model of a network predicts beside what others have published, and the curve of scale_out.

Nothing is measured: DeepEP's dispatch and combine, and bandwidths of NCCL's own tests, are their authors' figures. No
parameter of the model is fitted to them; NCCL's maintainers say what a link reaches (membench/machine/datasheet.py).

    python -m benchmarks.published_networks --json results/published_networks.json
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.writing import add_json_option, heading, write_found
from membench.layers.spec import Collective
from membench.machine.datasheet import parse_hardware, parse_hosts
from membench.machine.provenance import utc_now
from membench.planning.nccl import NcclNetwork, nccl_network
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario

HOST = 8
NODES = "1,2,4,8,16,32,64,128"
# H800: DeepEP's own "~160 GB/s NVLink maximum bandwidth"; a NIC as the H100's.
H800 = NcclNetwork(160e9, nccl_network(parse_hosts(parse_hardware("h100x8"), "2")[0]).between_bytes_per_s, HOST)
LEGACY, README = "DeepEP, docs/legacy.md", "DeepEP, README"
WIDTH, TOP_K, GROUPS = 7168, 8, 4
FP8_BYTES, BF16_BYTES = WIDTH + WIDTH // 128 * 4, 2 * WIDTH  # of a token; fp8 with a scale for 128 numbers


@dataclass(frozen=True)
class Beside:
    """One published figure and what is predicted for it."""

    what: str
    source: str
    ranks: int
    unit: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def low_latency() -> Iterator[Beside]:
    """DeepEP's kernels for decoding, V1 on H800: every token is sent to each of its experts, all at once."""
    published = {
        "dispatch": (FP8_BYTES, {8: 77, 16: 118, 32: 155, 64: 173, 128: 192, 256: 194}),
        "combine": (BF16_BYTES, {8: 114, 16: 195, 32: 273, 64: 314, 128: 369, 256: 360}),
    }
    for name, (token_bytes, of_ranks) in published.items():
        for ranks, microseconds in of_ranks.items():
            inside, between = H800.to_all(Collective("all_to_all", 128 * TOP_K * token_bytes, ranks))
            seconds = H800.exchange_s(inside, between, starts=0)
            yield Beside(f"low-latency {name}, 128 tokens", LEGACY, ranks, "µs", microseconds, 1e6 * seconds)


def normal() -> Iterator[Beside]:
    """DeepEP's kernels for training: a token is sent once to each host with an expert of it, and there to each rank.

    The published bandwidth is of the bytes that leave for all hosts (in one host, all ranks), the own one included.
    """
    h100 = nccl_network(parse_hosts(parse_hardware("h100x8"), "2")[0])
    of_v1 = {
        "dispatch": (FP8_BYTES, {8: 153, 16: 43, 32: 58, 64: 51}),
        "combine": (BF16_BYTES, {8: 158, 16: 43, 32: 57, 64: 50}),
    }
    of_v2 = {"dispatch": (FP8_BYTES, {16: 90, 32: 61}), "combine": (BF16_BYTES, {16: 81, 32: 61})}
    for source, network, tokens, published in ((LEGACY, H800, 4096, of_v1), (README, h100, 8192, of_v2)):
        for name, (token_bytes, of_ranks) in published.items():
            for ranks, gb_s in of_ranks.items():
                predicted = _normal_gb_s(network, ranks, tokens * token_bytes)
                yield Beside(f"{name}, {tokens} tokens", source, ranks, "GB/s", gb_s, predicted)


def _normal_gb_s(network: NcclNetwork, ranks: int, tokens_bytes: float) -> float:
    hosts = ranks // HOST
    if hosts == 1:
        copies = _distinct(HOST, TOP_K)
        seconds = network.exchange_s(tokens_bytes * copies * (HOST - 1) / HOST, 0.0, starts=0)
        return tokens_bytes * copies / seconds / 1e9
    chosen = min(GROUPS, hosts)  # hosts that the experts of a token are in
    arriving = chosen * _distinct(HOST, TOP_K / chosen)  # copies that NVLink hands on, of tokens from all hosts
    seconds = network.exchange_s(tokens_bytes * arriving, tokens_bytes * chosen * (hosts - 1) / hosts, starts=0)
    return tokens_bytes * chosen / seconds / 1e9


def _distinct(places: int, draws: float) -> float:
    """Expected distinct ones of so many draws."""
    return -places * math.expm1(draws * math.log1p(-1 / places))


def nccl() -> Iterator[Beside]:
    """Bus bandwidths, and two times, of nccl-tests."""
    h100 = nccl_network(parse_hosts(parse_hardware("h100x8"), "2")[0])
    four = nccl_network(parse_hardware("h100x4"))
    rows: list[tuple[str, str, NcclNetwork, Collective, float]] = [
        ("all-gather, 16 GiB", "nccl-tests#326", h100, Collective("all_gather", 2**34, 8), 360),
        ("all-reduce, 4 GiB, NVLink SHARP", "nccl-tests#272", h100, Collective("all_reduce", 2**32, 8), 475),
        ("all-to-all, 500 MiB, 4 GPUs in a host", "nccl#2169", four, Collective("all_to_all", 524288000, 4), 120.77),
        ("all-to-all, 8 MiB, H800", "nccl#1531", H800, Collective("all_to_all", 2**23, 64), 24.44),
        ("all-reduce, 64 MiB", "nccl#1469", h100, Collective("all_reduce", 2**26, 128), 150),
        ("all-gather, 2 GiB", "nccl#1218", h100, Collective("all_gather", 2**31, 256), 200),
        ("all-reduce, 2 GiB", "nccl#1218", h100, Collective("all_reduce", 2**31, 256), 340),
        ("all-reduce, 512 MiB, H200", "nccl-tests#283", h100, Collective("all_reduce", 2**29, 1984), 350),
    ]
    for what, source, network, one, gb_s in rows:
        yield Beside(what, source, one.ranks, "GB/s", gb_s, one.sent_bytes / network.seconds(one) / 1e9)
    least = Collective("all_reduce", 8, 128)
    yield Beside("all-reduce, 8 bytes", "nccl#1469", 128, "µs", 72.01, 1e6 * h100.seconds(least))


def curve() -> list[dict[str, Any]]:
    """Predicted milliseconds of each way to share each layer of scale_out, by devices; null where it cannot be."""
    scenario = load_scenario("scale_out")
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for hardware in reversed(parse_hosts(parse_hardware("h100x8"), NODES)):
        for each in make_plan(scenario, hardware=hardware).layouts:
            names = (each.arm, each.mode, each.layout)
            of = found.setdefault(
                names,
                dict(zip(("arm", "mode", "layout"), names, strict=True)) | {"step_ms": {}, "communication_ms": {}},
            )
            for quantity in ("step_ms", "communication_ms"):
                of[quantity][str(hardware.devices)] = getattr(each, quantity)
    return list(found.values())


def main() -> None:
    """Shows both beside each other, and keeps them with the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json_option(parser)
    options = parser.parse_args()
    started = utc_now()
    rows = [*low_latency(), *normal(), *nccl()]
    for row in rows:
        print(
            f"{row.what:40} {row.source:24} {row.ranks:5} {row.published:8g} {row.predicted:8.3g} {row.unit:5}", end=""
        )
        print(f" {row.error:+.0%}")
    if options.json is None:
        return
    found = heading("published_networks", started)
    found |= {"figures": [asdict(row) | {"error": row.error} for row in rows], "curve": curve()}
    write_found(found, options.json)


if __name__ == "__main__":
    main()
