"""Collectives predicted: by hand, ring against tree, inside hosts and between, from a file; a fit finds its lines."""

import itertools
import json

import pytest

from layers.spec import COLLECTIVES, Collective
from membench.errors import UsageError
from membench.machine.datasheet import ENTRIES, parse_hardware, parse_hosts
from membench.measuring.alpha_beta import fitted_lines
from membench.planning.nccl import NcclNetwork, nccl_network
from membench.planning.network import AlphaBeta, FlatNetwork, plain_network, steps_of, total_ms
from membench.planning.network_file import read_network

H100 = nccl_network(parse_hosts(parse_hardware("h100x8"), "16")[0])
ONE_HOST = nccl_network(parse_hardware("h100x8"))
MB, GB = 1e6, 1e9


def test_a_plain_link_is_bytes_over_bandwidth():
    network = plain_network(10)
    assert network.seconds(Collective("all_gather", 4e9, 4)) == pytest.approx(0.3)
    assert network.seconds(Collective("all_reduce", 4e9, 4, calls=2)) == pytest.approx(1.2)


def test_unknown_networks_predict_nothing_but_where_nothing_is_sent():
    sent = [Collective("all_gather", 8.0, 2)]
    assert total_ms(None, sent) is None
    assert total_ms(None, []) == total_ms(None, [Collective("all_gather", 8.0, 1)]) == 0.0
    assert total_ms(plain_network(1), sent) == pytest.approx(4e-6)


def test_of_two_lines_the_longer_counts_and_more_ranks_send_more_messages():
    lines = (AlphaBeta(1e-5, 1e9), AlphaBeta(0.0, 0.5e9))
    network = FlatNetwork("", dict.fromkeys(COLLECTIVES, lines))
    assert network.seconds(Collective("all_gather", 2000.0, 2)) == pytest.approx(1e-5 + 1e-6)
    assert network.seconds(Collective("all_gather", 2e6, 2)) == pytest.approx(2e-3)
    assert network.seconds(Collective("all_gather", 4.0, 4)) == pytest.approx(3e-5, rel=1e-3)
    assert steps_of("all_reduce", 4) == 6


def test_a_large_ring_inside_a_host_runs_at_nvlink():
    one = Collective("all_gather", 16 * GB, 8)
    assert ONE_HOST.seconds(one) == pytest.approx(16 * GB * 7 / 8 / 370e9 + 8.4e-6 + 7 * 3.4e-6)


def test_small_messages_go_by_the_protocol_of_least_latency():
    assert ONE_HOST.seconds(Collective("all_gather", 8.0, 8)) == pytest.approx(6.6e-6 + 7 * 0.6e-6, rel=1e-3)


def test_an_all_reduce_of_many_hosts_takes_the_tree():
    """16 hosts: 2 x (7 hops inside + log2(16) between) against 2 x 127 steps of a ring."""
    small = H100.seconds(Collective("all_reduce", 8.0, 128))
    assert small == pytest.approx(6.8e-6 + 2 * (7 * 1.0e-6 + 4 * 5.0e-6), rel=1e-3)
    gathered = H100.seconds(Collective("all_gather", 8.0, 128))
    assert gathered == pytest.approx(6.6e-6 + (127 - 15) * 1.0e-6 + 15 * 2.7e-6, rel=1e-3)


def test_rings_use_every_nic_of_a_host_and_no_more_than_nvlink():
    large = Collective("all_gather", 64 * GB, 128)
    assert large.sent_bytes / H100.seconds(large) == pytest.approx(370e9, rel=0.02)
    slow = NcclNetwork(370e9, 24e9, 8)
    assert large.sent_bytes / slow.seconds(large) == pytest.approx(8 * 24e9, rel=0.02)


def test_ranks_of_different_hosts_have_one_nic_each():
    between = Collective("all_gather", 64 * GB, 16, stride=8)
    assert H100.hosts(between) == (1, 16)
    assert between.sent_bytes / H100.seconds(between) == pytest.approx(48.5e9, rel=0.01)
    assert H100.hosts(Collective("all_gather", 1.0, 16, stride=2)) == (4, 4)
    assert H100.hosts(Collective("all_gather", 1.0, 4)) == (4, 1)


def test_an_all_to_all_waits_for_the_slower_kind_of_link():
    one = Collective("all_to_all", 128 * MB, 128)
    assert H100.to_all(one) == (7 * MB, 120 * MB)
    assert H100.seconds(one) == pytest.approx(8.4e-6 + 127 * 3.4e-6 + 14e-6 + 120 * MB / 48.5e9)
    assert ONE_HOST.seconds(Collective("all_to_all", 8 * GB, 8)) == pytest.approx(7 * GB / 370e9, rel=0.01)
    assert H100.exchange_s(7 * GB, 1.0, starts=0) == pytest.approx(8.4e-6 + 14e-6 + 7 * GB / 370e9), "NVLink is slower"


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("network", [ONE_HOST, H100], ids=["one host", "16 hosts"])
def test_more_bytes_never_take_less(kind, network):
    """But where a tree's share of the bandwidth steps up, which NCCL's table has from measurements."""
    ranks = 8 if network is ONE_HOST else 128
    times = [network.seconds(Collective(kind, 2.0**power, ranks)) for power in range(3, 36)]
    assert all(later >= 0.9 * earlier > 0 for earlier, later in itertools.pairwise(times))


def test_every_link_has_a_source():
    for entry in ENTRIES:
        for link in filter(None, (entry.link, entry.network)):
            assert link.sources
            assert link.best_known_bytes_per_s <= link.bytes_per_s


def points(kind, ranks, lines):
    network = FlatNetwork("", {kind: lines})
    return [(2**power, network.seconds(Collective(kind, 2**power, ranks))) for power in range(10, 25)]


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_a_fit_finds_the_lines_that_made_the_points(kind):
    lines = (AlphaBeta(2e-5, 2e9), AlphaBeta(-1e-4, 0.5e9))
    made = points(kind, 4, lines)
    found = FlatNetwork("", {kind: fitted_lines(kind, 4, made[::2])})
    for payload, seconds in made:
        assert found.seconds(Collective(kind, payload, 4)) == pytest.approx(seconds, rel=0.02)


def test_a_fit_of_one_line_stays_one():
    made = points("all_gather", 2, (AlphaBeta(1e-4, 1e9),))
    found = FlatNetwork("", {"all_gather": fitted_lines("all_gather", 2, made)})
    assert found.seconds(Collective("all_gather", 3e5, 2)) == pytest.approx(1e-4 + 1.5e-4, rel=0.01)


def a_file(tmp_path, **changes):
    line = [{"alpha_s": 1e-5, "bytes_per_s": 1e9}, {"alpha_s": -1e-2, "bytes_per_s": 0.5e9}]
    found = {
        "benchmark": "network",
        "backend": "gloo",
        "ranks": 2,
        "collectives": {key: {"lines": line} for key in COLLECTIVES},
    }
    path = tmp_path / "network.json"
    path.write_text(json.dumps(found | changes))
    return str(path)


def test_a_network_is_read_from_the_file_that_doctor_keeps(tmp_path):
    network = read_network(a_file(tmp_path))
    assert network.description == "gloo as measured on 2 processes of one machine"
    assert network.seconds(Collective("all_to_all", 4e6, 2)) == pytest.approx(1e-5 + 2e-3)
    assert network.seconds(Collective("all_to_all", 4e8, 2)) == pytest.approx(0.4 - 1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": "other"},
        {"collectives": {}},
        {"collectives": {key: {"lines": []} for key in COLLECTIVES}},
        {"collectives": {key: {"lines": [{"alpha_s": 1, "bytes_per_s": 0}]} for key in COLLECTIVES}},
        {"collectives": {key: {"lines": [{"alpha_s": -1, "bytes_per_s": 1}]} for key in COLLECTIVES}},
        {"ranks": "many"},
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, changes):
    with pytest.raises(UsageError, match=r"network\.json: fit\.network: is no network: .* doctor --nproc"):
        read_network(a_file(tmp_path, **changes))
