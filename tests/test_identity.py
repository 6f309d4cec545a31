"""A machine's identity: by facts with tolerances, of processors and GPUs by whole names."""

import re
from pathlib import Path

import pytest
from gate_results import a_file, a_record

from membench.gate.baselines import FILE_NAME, read_baselines, set_baseline
from membench.gate.cases import comparability
from membench.gate.result_set import LoadedResult, group_results
from membench.machine import device
from membench.machine.datasheet import lookup
from membench.machine.identity import Machine
from membench.machine.provenance import device_slug
from membench.results.records import read_result, write_result

RESULTS = Path(__file__).parent.parent / "results"
CPU = {
    "type": "cpu",
    "name": "Intel(R) Xeon(R) Processor",
    "cores": 2,
    "memory_bytes": 25_276_502_016,
    "cache_bytes": 2**25,
    "vector_extensions": ["avx2", "avx512f"],
}
GPU = {"type": "cuda", "name": "NVIDIA H100 80GB HBM3", "cores": 132, "memory_bytes": 85e9, "cache_bytes": 50 * 2**20}


def machine(base=CPU, /, fingerprint="0", host=None, nvml=None, **changes):
    facts = {"device": {**base, **changes}, "host": {"name": host}, "nvml": nvml, "fingerprint": fingerprint}
    return Machine.of(facts)


def test_memory_that_a_kernel_keeps_back_makes_no_other_machine():
    edge = int(23.5 * 2**30)
    for below, above in ((edge - 100_000, edge + 100_000), (25_276_502_016, 25_276_502_016 - 2**29)):
        assert machine(memory_bytes=below, fingerprint="1").difference(machine(memory_bytes=above)) is None
    assert "memory 25.3 GB and 50.6 GB" in machine().difference(machine(memory_bytes=2 * CPU["memory_bytes"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"vector_extensions": ["avx2"]},
        {"instruction_sets": ["avx2", "avx512f", "amx_bf16"]},
        {"model": "6-143-8"},  # clouds call several generations by one name
        {"physical_cores": 1},
        {"cores": 4},
        {"cache_bytes": 2**26},
        {"name": "AMD EPYC"},
        {"type": "cuda"},
    ],
)
def test_what_makes_another_machine(changes):
    """Though the fingerprints are the same."""
    known = {"instruction_sets": ["avx2", "avx512f"], "model": "6-207-2", "physical_cores": 2}
    (name,) = changes
    difference = machine(**known).difference(machine(**{**known, **changes}))
    assert difference and " and " in difference
    if name in known:  # a file from before it was asked for
        assert machine(**known).difference(machine()) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"host": "Xeon"}, {"host": "EPYC"}, False),
        ({"nvml": {"power_limit_w": 700.0}}, {"nvml": {"power_limit_w": 350.0}}, False),
        ({"nvml": {"power_limit_w": 700.0}}, {"nvml": {"power_limit_w": 699.9}}, True),
        ({"nvml": {"ecc": True}}, {"nvml": {"ecc": False}}, False),
        ({"nvml": {"ecc": True}}, {"nvml": None}, True),
        ({"memory_bytes": 85e9}, {"memory_bytes": 80e9}, False),
    ],
)
def test_what_makes_another_gpu(one, other, same):
    assert (machine(GPU, **one).difference(machine(GPU, **other)) is None) == same


def test_what_is_unknown_is_told_by_its_fingerprint_alone():
    bare = {"type": "cpu", "name": "x"}
    assert machine(bare, memory_bytes=None).difference(machine(bare)) is None
    assert machine(bare, fingerprint="1", memory_bytes=None).difference(machine(bare)) == "another fingerprint"
    unknown = Machine.of({"device": 3, "nvml": "x"})
    assert not unknown.known and unknown.difference(unknown) == "the device is not known"
    odd = machine(memory_bytes="lots", cache_bytes=-1, vector_extensions={})
    assert odd.difference(machine()) is None


def of_machine(fingerprint, **changes):
    result = a_file([a_record([0.004] * 8)], fingerprint=fingerprint)
    return result.model_copy(update={"environment": {**result.environment, "device": {**CPU, **changes}}})


def test_files_of_one_machine_compare_whatever_their_fingerprints():
    """Old files have hashes over rounded memory."""
    base, head = of_machine("old"), of_machine("new", memory_bytes=CPU["memory_bytes"] - 10**8)
    assert comparability(base, head).timings is None
    other = of_machine("old", vector_extensions=["avx2"])
    assert "instruction sets avx512f and none more" in (comparability(base, other).timings or "")
    loaded = [LoadedResult(Path(f"{i}.json"), each) for i, each in enumerate((base, other, head))]
    groups = group_results(loaded, None, every=False)
    assert [[each.path.name for each in group.judged] for group in groups] == [["2.json"], ["1.json"]]


def test_committed_results_compare_with_each_other_and_a_newer_file():
    kept = [RESULTS / name for name in re.findall(r"^\| \[(\S+)\]", (RESULTS / "README.md").read_text(), re.MULTILINE)]
    kept = [path for path in kept if '"schema_version"' in path.read_text()]  # a run of the reader may lie beside them
    runs = [read_result(path) for path in kept if "_amd-epyc-2c_" in path.name]
    known = Machine.of(runs[0].environment)
    differences = [known.difference(Machine.of(each.environment)) for each in runs]
    assert differences.count(None) >= 3
    # another EPYC has no AVX-512, and files from before instruction sets were written do not say
    assert {*differences} == {None, "instruction sets avx512_bf16 avx512f and none more"}
    newer = {**runs[0].environment["device"], "model": "25-1-1", "physical_cores": 2, "instruction_sets": ["avx"]}
    assert known.difference(Machine.of({"device": newer, "fingerprint": "new"})) is None
    others = [read_result(path) for path in kept if "_intel-r-xeon-2c_" in path.name]
    assert others
    assert all(known.difference(Machine.of(each.environment)) is not None for each in others)


def test_a_baseline_is_found_again_by_facts(tmp_path):
    path = tmp_path / "a.json"
    write_result(of_machine("old"), path)
    set_baseline(path, read_result(path), None)
    other, same = Machine.of(of_machine("old", cores=4).environment), Machine.of(of_machine("new").environment)
    known = read_baselines(tmp_path)
    assert known.find(same, "small", tmp_path) and not known.find(other, "small", tmp_path)
    kept = [line for line in (tmp_path / FILE_NAME).read_text().splitlines() if "device." not in line]
    text = "\n".join(kept).replace("facts:", "facts: {}").replace("    - avx2\n", "").replace("    - avx512f\n", "")
    (tmp_path / FILE_NAME).write_text(text)  # as it was written before facts were kept
    known = read_baselines(tmp_path)
    assert known.find(same, "small", tmp_path) and not known.find(other, "small", tmp_path)
    path.unlink()
    assert known.find(Machine("old"), "small", tmp_path) and not known.find(Machine("new"), "small", tmp_path)


def test_the_fingerprint_is_the_same_at_any_memory(monkeypatch):
    found = {device.fingerprint({**CPU, "memory_bytes": size}) for size in (25_233_000_000, 25_234_000_000)}
    assert len(found) == 1
    assert device.fingerprint({**CPU, "instruction_sets": ["avx"]}) not in found


CPUINFO = {
    "x86": "cpu family : 6\nmodel : 207\nmodel name : X\nstepping : 2\nflags : fpu smep avx2 amx_bf16 avx\n",
    "arm": "Features : fp asimd sve i8mm\nCPU implementer : 0x41\nCPU variant : 0x0\nCPU part : 0xd40\n",
}


@pytest.mark.parametrize(
    ("kind", "model", "sets", "vectors"),
    [
        ("x86", "6-207-2", ["amx_bf16", "avx", "avx2"], ["amx_bf16", "avx2"]),
        ("arm", "0x41-0xd40-0x0", ["asimd", "i8mm", "sve"], ["asimd", "sve"]),
    ],
)
def test_a_processor_is_read(kind, model, sets, vectors, monkeypatch):
    monkeypatch.setattr(device, "read_text", lambda path: CPUINFO[kind] if str(path) == "/proc/cpuinfo" else None)
    found = device._cpu()
    assert (found["model"], found["instruction_sets"], found["vector_extensions"]) == (model, sets, vectors)
    assert found["physical_cores"] is None


def test_threads_of_one_core_are_one_core(monkeypatch):
    monkeypatch.setattr(device, "usable_cores", lambda: (0, 1, 2))
    siblings = {"cpu0": "0-1", "cpu1": "0-1", "cpu2": "2-3"}
    monkeypatch.setattr(device, "read_text", lambda path: siblings[Path(path).parent.parent.name])
    assert device._physical_cores() == 2


@pytest.mark.parametrize(
    ("name", "key", "slug"),
    [
        ("NVIDIA H200", "h200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie", "h100-pcie"),
        ("NVIDIA A100-SXM-80GB", "a100-80gb", "a100-80gb"),
        ("A100-SXM4-40GB", "a100-40gb", "a100-40gb"),
        ("AMD Instinct MI300X OAM", "mi300x", "mi300x"),
        ("NVIDIA GH200 480GB", None, "gh200-480gb"),
        ("NVIDIA GH200 144G HBM3e", None, "gh200-144g-hbm3e"),
        ("NVIDIA GB200", None, "gb200"),
        ("NVIDIA B200 MIG 1g.23gb", None, "b200-mig-1g-23gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, "h100-80gb-hbm3-mig"),
        ("NVIDIA H20", None, "h20"),
        ("NVIDIA H200-141C", None, "h200-141c"),
        ("NVIDIA H200 NVL", None, "h200-nvl"),
        ("NVIDIA A100-PCIE-40GB", None, "a100-pcie-40gb"),
        ("NVIDIA A800-SXM4-80GB", None, "a800-sxm4-80gb"),
        ("NVIDIA RTX A1000", None, "rtx-a1000"),
        ("NVIDIA L40", None, "l40"),
        ("NVIDIA L40S-48Q", None, "l40s-48q"),
        ("NVIDIA GeForce RTX 4090 D", None, "rtx-4090-d"),
        ("AMD Instinct MI300X VF", None, "mi300x-vf"),
        ("NVIDIA", None, "cuda"),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name, key, slug):
    found = lookup(name)
    assert (found.key if found else None) == key
    assert device_slug({"type": "cuda", "name": name, "cores": 1}) == slug


def test_a_processor_is_no_gpu():
    assert device_slug({"type": "cpu", "name": "AMD EPYC B200 @ 2 GHz", "cores": 8}) == "amd-epyc-b200-8c"


def test_what_is_not_known_of_a_device_is_not_in_its_slug():
    assert device_slug({"type": "cpu", "name": "AMD EPYC"}) == "amd-epyc"
    assert device_slug({"type": "cpu", "name": None, "cores": 8}) == "cpu"
    assert device_slug({}) == "device"
