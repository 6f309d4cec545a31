"""Every way in which named devices can share each layer, with its predicted step. Pure arithmetic."""

from collections.abc import Callable, Iterable, Iterator

from membench.case import Case
from membench.layers.spec import Layout
from membench.machine.datasheet import Hardware
from membench.planning.fit import PROCESS_BYTES, Room, Work
from membench.planning.network import Network, total_ms
from membench.planning.plan import PlannedLayout
from membench.planning.roofline import predicted_ms


def planned_layouts(
    works: Iterable[Work],
    case_of: Callable[[Work], Case],
    hardware: Hardware,
    network: Network,
    room: Room,
    cache_bytes: float,
) -> list[PlannedLayout]:
    """Of each work all layouts; a case that several points have is there once.

    Args:
        works: everything that is compared.
        case_of: the case of a work.
        hardware: whose devices are the ranks.
        network: what connects them.
        room: what one of them may hold.
        cache_bytes: of its last-level cache.
    """
    found: dict[tuple[str, str], PlannedLayout] = {}
    for work in works:
        if work.arm.spec.COUNTED and not work.arm.spec.mode_error(work.mode, work.optimizer):
            for each in _of_work(work, case_of(work), hardware, network, room, cache_bytes):
                found.setdefault((each.id, each.layout), each)
    return list(found.values())


def _of_work(
    work: Work, case: Case, hardware: Hardware, network: Network, room: Room, cache_bytes: float
) -> Iterator[PlannedLayout]:
    for layout in work.arm.spec.layouts(hardware.devices, hardware.count):
        named = PlannedLayout(
            id=case.id,
            arm=work.arm.name,
            mode=work.mode,
            optimizer=work.optimizer,
            point=work.point.values,
            layout=layout.name,
        )
        if error := layout.error(work.arm.spec, hardware.devices):
            yield named.model_copy(update={"skipped": error})
        else:
            yield named.model_copy(update=_counts(work, layout, hardware, network, room, cache_bytes))


def _counts(
    work: Work, layout: Layout, hardware: Hardware, network: Network, room: Room, cache_bytes: float
) -> dict[str, object]:
    cost, exchanged = layout.cost(work.arm.spec, work.step(hardware.devices, cache_bytes))
    need = cost.memory.total + PROCESS_BYTES
    if room.device_bytes is not None and need > room.device_bytes:
        return {"skipped": f"needs {need / 1e9:.1f} GB a device, has {room.device_bytes / 1e9:.1f} GB"}
    return {
        "memory_bytes": cost.memory.total,
        "sent_bytes": sum(each.sent_bytes for each in exchanged),
        "predicted_ms": predicted_ms(cost, work.arm.spec.dtype, hardware.entry),
        "communication_ms": total_ms(network, exchanged),
    }
