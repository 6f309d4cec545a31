"""Published peaks of usual GPUs, with their sources. Dense rates, without sparsity.

Rates and bandwidths are decimal as published; caches are binary. What the maker does not publish is None. A measured
ceiling is always better than one of these. ``link`` is a GPU's fastest published interconnect; ``network`` is what the
maker's own server of these GPUs gives each of them to other servers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from membench.errors import UsageError, shown, suggestion

MAX_DEVICES = 2**16
_MAX_DIGITS = 20
_MIB = 2**20
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Link:
    """What one device sends in one direction.

    ``reached_bytes_per_s`` is what the collectives of its makers get out of it, protocols paid; None: unpublished.
    """

    name: str
    bytes_per_s: float
    reached_bytes_per_s: float | None
    sources: tuple[str, ...]

    @property
    def best_known_bytes_per_s(self) -> float:
        return self.reached_bytes_per_s or self.bytes_per_s


@dataclass(frozen=True)
class Entry:
    """One GPU. ``flops_per_s`` by dtype; float32 without tensor cores, tfloat32 with."""

    key: str
    name: str
    device_name: str  # a regular expression that is all of its CUDA device name but the maker's
    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    memory_bytes: float
    cache_bytes: int | None
    link: Link
    network: Link | None
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Hardware:
    """So many devices of one kind in a host, as in ``h100x8``, and so many such hosts."""

    entry: Entry
    count: int = 1
    hosts: int = 1

    @property
    def devices(self) -> int:
        return self.count * self.hosts

    @property
    def name(self) -> str:
        in_a_host = self.entry.key if self.count == 1 else f"{self.entry.key}x{self.count}"
        return in_a_host if self.hosts == 1 else f"{self.hosts} hosts of {in_a_host}"


def _rates(half: float, tfloat32: float, float32: float) -> dict[str, float]:
    """TFLOP/s to FLOP/s by dtype; bfloat16 and float16 run at the same rate on all of these."""
    return {
        "bfloat16": half * 1e12,
        "float16": half * 1e12,
        "tfloat32": tfloat32 * 1e12,
        "float32": float32 * 1e12,
    }


_A100 = ("NVIDIA A100 Tensor Core GPU Datasheet", "NVIDIA A100 Tensor Core GPU Architecture whitepaper (40 MB L2)")
_H100 = ("NVIDIA H100 Tensor Core GPU Datasheet (with sparsity, halved)", "NVIDIA H100 whitepaper (50 MB L2)")

_NCCL = "NCCL, src/graph/topo.h"
_NVLINK3 = Link("NVLink 3", 300e9, 240e9, ("A100 Datasheet (600 GB/s both ways)", f"{_NCCL}: 12 links of 20 GB/s"))
_NVLINK4 = Link("NVLink 4", 450e9, 370e9, ("H100 Datasheet (900 GB/s both ways)", f"{_NCCL}: 18 links of 20.6 GB/s"))
_NVLINK5 = Link("NVLink 5", 900e9, 720e9, ("B200 Datasheet (1.8 TB/s both ways)", f"{_NCCL}: 18 links of 40.1 GB/s"))
_PCIE4 = Link("PCIe Gen4 x16", 32e9, None, ("64 GB/s both ways",))
_PCIE5 = Link("PCIe Gen5 x16", 64e9, None, ("128 GB/s both ways; an NVLink bridge is optional",))
_INFINITY_FABRIC = Link("Infinity Fabric", 448e9, None, ("MI300X Data Sheet: 7 links of 128 GB/s both ways",))
_HDR = Link("HDR InfiniBand", 25e9, 24e9, ("DGX A100 Datasheet: 8 of 200 Gb/s", "nccl-tests#252: 24 GB/s a NIC"))
_NDR = Link("NDR InfiniBand", 50e9, 48.5e9, ("DGX H100 Datasheet: 8 of 400 Gb/s", "nccl-tests#267: 48-49 GB/s a NIC"))

ENTRIES: tuple[Entry, ...] = (
    Entry(
        key="a100-40gb",
        name="NVIDIA A100 SXM4 40GB",
        device_name=r"A100-SXM4?-40GB",
        flops_per_s=_rates(312, 156, 19.5),
        memory_bytes_per_s=1.555e12,
        memory_bytes=40e9,
        cache_bytes=40 * _MIB,
        link=_NVLINK3,
        network=_HDR,
        sources=_A100,
    ),
    Entry(
        key="a100-80gb",
        name="NVIDIA A100 SXM4 80GB",
        device_name=r"A100-SXM4?-80GB",
        flops_per_s=_rates(312, 156, 19.5),
        memory_bytes_per_s=2.039e12,
        memory_bytes=80e9,
        cache_bytes=40 * _MIB,
        link=_NVLINK3,
        network=_HDR,
        sources=_A100,
    ),
    Entry(
        key="h100",
        name="NVIDIA H100 SXM5 80GB",
        device_name=r"H100 80GB HBM3",
        flops_per_s=_rates(989.4, 494.7, 66.9),
        memory_bytes_per_s=3.35e12,
        memory_bytes=80e9,
        cache_bytes=50 * _MIB,
        link=_NVLINK4,
        network=_NDR,
        sources=_H100,
    ),
    Entry(
        key="h100-pcie",
        name="NVIDIA H100 PCIe 80GB",
        device_name=r"H100 PCIe",
        flops_per_s=_rates(756, 378, 51),
        memory_bytes_per_s=2.0e12,
        memory_bytes=80e9,
        cache_bytes=50 * _MIB,
        link=_PCIE5,
        network=None,
        sources=_H100,
    ),
    Entry(
        key="h200",
        name="NVIDIA H200 SXM 141GB",
        device_name=r"H200",
        flops_per_s=_rates(989.4, 494.7, 66.9),
        memory_bytes_per_s=4.8e12,
        memory_bytes=141e9,
        cache_bytes=None,
        link=_NVLINK4,
        network=_NDR,
        sources=("NVIDIA H200 Tensor Core GPU Datasheet (with sparsity, halved)",),
    ),
    Entry(
        key="b200",
        name="NVIDIA B200 SXM 180GB (HGX, 1000 W)",
        device_name=r"B200",
        flops_per_s=_rates(2250, 1100, 80),
        memory_bytes_per_s=8.0e12,
        memory_bytes=180e9,
        cache_bytes=126 * _MIB,
        link=_NVLINK5,
        network=_NDR,
        sources=(
            "NVIDIA Blackwell Architecture Technical Brief (HGX B200)",
            "NVIDIA DGX B200 Datasheet (1,440 GB in 8 GPUs)",
            "CUDA Blackwell Tuning Guide (126 MB L2)",
        ),
    ),
    Entry(
        key="l40s",
        name="NVIDIA L40S 48GB",
        device_name=r"L40S",
        flops_per_s=_rates(362.05, 183, 91.6),
        memory_bytes_per_s=0.864e12,
        memory_bytes=48e9,
        cache_bytes=None,
        link=_PCIE4,
        network=None,
        sources=("NVIDIA L40S Datasheet",),
    ),
    Entry(
        key="rtx4090",
        name="NVIDIA GeForce RTX 4090 24GB",
        device_name=r"GeForce RTX 4090",
        flops_per_s=_rates(165.2, 82.6, 82.6),
        memory_bytes_per_s=1.008e12,
        memory_bytes=24e9,
        cache_bytes=72 * _MIB,
        link=_PCIE4,
        network=None,
        sources=("NVIDIA Ada GPU Architecture whitepaper, appendix A (half precision with fp32 sums)",),
    ),
    Entry(
        key="mi300x",
        name="AMD Instinct MI300X 192GB",
        device_name=r"Instinct MI300X( OAM)?",
        flops_per_s=_rates(1307.4, 653.7, 163.4),
        memory_bytes_per_s=5.3e12,
        memory_bytes=192e9,
        cache_bytes=256 * _MIB,
        link=_INFINITY_FABRIC,
        network=None,
        sources=("AMD Instinct MI300X Data Sheet (256 MB last-level cache)",),
    ),
)

_ALIASES = {
    "a100": "a100-80gb",
    "a100-sxm": "a100-80gb",
    "h100-sxm": "h100",
    "h100-sxm5": "h100",
    "h200-sxm": "h200",
    "rtx-4090": "rtx4090",
    "4090": "rtx4090",
}


def parse_hardware(text: str) -> Hardware:
    """``h100`` or ``h100x8`` as Hardware.

    Raises:
        UsageError: no such device, or a count that is no whole number above zero.
    """
    entries = {entry.key: entry for entry in ENTRIES}
    known = [*entries, *_ALIASES]
    name, count = text.strip().lower().replace("_", "-"), 1
    if name not in known and (match := re.fullmatch(r"(.+?)x([0-9]+)", name)):
        name, count = match.group(1), int(match.group(2)[:_MAX_DIGITS])
    name = _ALIASES.get(name, name)
    if name not in entries:
        known = suggestion(name, known)
        raise UsageError(f"unknown hardware {shown(text)}; {known} (8 of them: h100x8)", source="--hardware")
    if not 1 <= count <= MAX_DEVICES:
        raise UsageError(f"{shown(text)}: write from x1 to x{MAX_DEVICES} devices", source="--hardware")
    return Hardware(entries[name], count)


def parse_hosts(hardware: Hardware | None, text: str | None) -> list[Hardware]:
    """So many hosts of it, each number of ``text`` a case: ``16`` or ``1,2,4``. None where nothing is named.

    Raises:
        UsageError: no whole numbers above zero, no hardware to have hosts of, no network known between such hosts, or
            too many devices.
    """
    if text is None:
        return [] if hardware is None else [hardware]
    if hardware is None:
        raise UsageError(f"{shown(text)}: hosts of what? add --hardware, such as h100x8", source="--nodes")
    numbers = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", part) for part in numbers):
        raise UsageError(f"{shown(text)}: write a whole number from 1, or several, as in 1,2,4", source="--nodes")
    return [_hosts_of(hardware, int(part)) for part in dict.fromkeys(numbers)]


def _hosts_of(hardware: Hardware, hosts: int) -> Hardware:
    if hosts > 1 and hardware.entry.network is None:
        known = ", ".join(entry.key for entry in ENTRIES if entry.network)
        raise UsageError(
            f"{hosts}: no network between hosts of {hardware.entry.key} is published, of {known} it is",
            source="--nodes",
        )
    if hosts * hardware.count > MAX_DEVICES:
        problem = f"{hosts} of {hardware.name} are {hosts * hardware.count} devices: {MAX_DEVICES} are the most"
        raise UsageError(problem, source="--nodes")
    return replace(hardware, hosts=hosts)


def lookup(device_name: str) -> Entry | None:
    """The entry of a CUDA device's name such as ``NVIDIA H100 80GB HBM3``; None where there is none.

    All of the name counts: what is called ``GH200 480GB``, ``H100 NVL`` or ``… MIG 1g.10gb`` is another device.
    """
    name = re.sub(r"^(NVIDIA|AMD)\s+", "", device_name.strip())
    return next((entry for entry in ENTRIES if re.fullmatch(entry.device_name, name)), None)


def local_gpu(directory: Path = _NVIDIA_GPUS) -> Entry | None:
    """The entry of this machine's first NVIDIA GPU, as its driver names it; None where unknown."""
    for information in sorted(directory.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        return lookup(match.group(1)) if match else None
    return None
