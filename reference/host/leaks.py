"""What is left when every device is closed and every operation is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .broken import Broken
from .hardware import Device
from .host import Host
from .record import What
from .space import AddressSpace

__all__ = ["leaks"]


def leaks(host: Host) -> None:
    """`Broken`, naming the first thing that should have been given back.

    What a kernel does not miss is only noted in the event record.
    """
    for rule, message in _found(host):
        host.record(What.LEAK, message, 1)
        raise Broken(rule, message)
    if host.zero_pins:
        host.record(What.LEAK, f"{host.zero_pins} pins of the zero page were not dropped", 0)


def _found(host: Host) -> Iterator[tuple[str, str]]:
    for lock in host.locks.held_at_end():
        yield "W3", f"{lock} is still held at the end"
    yield from _of_subscriptions(host)
    for space in host.spaces.values():
        yield from _of_space(space)
    for device in host.devices:
        yield from _of_device(device)
    for number, count in sorted(host.held.items()):
        if count:
            yield "W5", f"{count} references to frame {number} were not dropped"
    for frame in host.pool.live.values():
        if frame.pins:
            yield "W5", f"frame {frame.number} is still pinned"
        if frame.locked is not None:
            yield "W3", f"frame {frame.number} is still locked"


def _of_subscriptions(host: Host) -> Iterator[tuple[str, str]]:
    for number, count in sorted(host.gets.items()):
        if count:
            yield "L5", f"subscription {number} was got {count} times more than it was put"
    for number in sorted(host.live_subscriptions):
        yield "W5", f"subscription {number} is still there after the device was closed"


def _of_space(space: AddressSpace) -> Iterator[tuple[str, str]]:
    if space.users != 1:
        yield "W5", f"{space.users - 1} users of address space {space.number} are left over"
    if space.subscriptions.active:
        yield "B12", f"{space.subscriptions.active} ranges are active although all have ended"


def _of_device(device: Device) -> Iterator[tuple[str, str]]:
    name = f"device {device.number}"
    if device.dma:
        yield "W5", f"{name} still has DMA addresses: {_few(device.dma)}"
    if any(device.tables.values()):
        yield "W5", f"{name} still has page table entries after it was closed"
    if device.shared is not None:
        yield "W5", f"{name} still walks the page table of process {device.shared.number}"
    if device.memory.live:
        yield "W5", f"frames {_few(device.memory.live)} of {name} are still in use"
    allocations = device.driver.kernel.allocations
    if allocations:
        yield "W5", f"{name} did not free {_few(allocations.values())}"


def _few(things: Iterable[object]) -> str:
    listed = list(things)
    return ", ".join(str(thing) for thing in listed[:4]) + (", ..." if len(listed) > 4 else "")
