"""Published peaks: names, aliases, plausibility."""

import pytest

from membench.errors import UsageError
from membench.machine.datasheet import ENTRIES, local_gpu, lookup, parse_hardware


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("h100", "h100", 1),
        ("H100", "h100", 1),
        ("h100x8", "h100x8", 8),
        ("h100-sxmx4", "h100x4", 4),
        ("a100", "a100-80gb", 1),
        ("a100-40gbx2", "a100-40gbx2", 2),
        ("mi300x", "mi300x", 1),
        ("mi300xx8", "mi300xx8", 8),
        ("rtx_4090x2", "rtx4090x2", 2),
        ("l40s", "l40s", 1),
    ],
)
def test_names(text, name, count):
    hardware = parse_hardware(text)
    assert (hardware.name, hardware.count) == (name, count)


@pytest.mark.parametrize("text", ["h1000", "h100x0", "h100x", "", "x8", "h100x-1", "h100x99999999"])
def test_unknown_names(text):
    with pytest.raises(UsageError) as caught:
        parse_hardware(text)
    assert str(caught.value).startswith("--hardware: ")


@pytest.mark.parametrize(
    ("device_name", "key"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GB200", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_device_names(device_name, key):
    found = lookup(device_name)
    assert (found.key if found else None) == key


def test_known_figures():
    figures = {entry.key: entry for entry in ENTRIES}
    assert figures["h100"].flops_per_s["bfloat16"] == 989.4e12, "dense, not the 1979 of a sparse matrix"
    assert figures["h200"].memory_bytes_per_s == 4.8e12
    assert figures["a100-40gb"].cache_bytes == 41943040, "what CUDA reports"
    assert figures["h200"].cache_bytes is None, "not published"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_units_are_plausible(entry):
    rates = entry.flops_per_s
    assert set(rates) == {"bfloat16", "float16", "tfloat32", "float32"}
    assert rates["bfloat16"] >= 1.9 * rates["tfloat32"] >= 1.9 * rates["float32"]
    assert 1e14 < rates["bfloat16"] < 5e15
    assert 5e11 < entry.memory_bytes_per_s < 1e13
    assert 2e10 < entry.memory_bytes < 4e11
    assert 1e10 < entry.link.bytes_per_s < 2e12
    assert entry.network is None or 1e10 < entry.network.bytes_per_s < entry.link.bytes_per_s
    assert entry.sources


def test_the_local_gpu_is_read_from_the_driver(tmp_path):
    assert local_gpu(tmp_path / "absent") is None
    gpu = tmp_path / "0000:01:00.0"
    gpu.mkdir()
    (gpu / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t 100\n")
    assert local_gpu(tmp_path).key == "h100"
    (gpu / "information").write_text("Model: Tesla T4\n")
    assert local_gpu(tmp_path) is None
    (gpu / "information").write_text("nothing\n")
    assert local_gpu(tmp_path) is None
