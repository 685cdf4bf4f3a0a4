"""What a compiled step sends between devices, read from its HLO.

The body of a loop counts once: a step is compiled with kernels that have none.
"""

import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.devices.layout import Layout

__all__ = ["Traffic", "collective_traffic"]

_COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)\(.*(?:replica_groups|source_target_pairs)="
    r"(?P<groups>\{\{.*?\}\}|\[[\d,]*\]<=\[[\d,]*\](?:T\([\d,]*\))?|mesh\[[^{]*\{[^}]*\})"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Collectives of one kind along some axes of the mesh, of one device in one step.

    Attributes:
        calls: How many.
        bytes: Bytes of the whole arrays that are gathered, reduced or scattered.
    """

    calls: int
    bytes: int
    """Bytes of the whole arrays that are gathered, reduced or scattered."""

    def sent(self, kind: str, devices: int) -> float:
        """Bytes that a device sends where the data travels around a ring."""
        return self.bytes * (devices - 1) / devices * (2 if kind == "all-reduce" else 1)


def collective_traffic(compiled: Any, layout: Layout) -> dict[tuple[str, tuple[str, ...]], Traffic]:
    """Read the collectives of a compiled step from its HLO.

    Args:
        compiled: As from `runner.lower(shape).compile()`.
        layout: The devices.

    Returns:
        (kind, axes of the mesh) -> Traffic.

    Raises:
        ValueError: The HLO starts and ends collectives in two instructions, as compilers for other
            devices than CPUs do.
    """
    found: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for line in compiled.as_text().splitlines():
        if re.search(r"= .* (all|reduce|collective)-\w+-start\(", line):
            raise ValueError(f"a collective in two instructions is not read: {line.strip():.100}")
        if (match := _COLLECTIVE.search(line)) is None:
            continue
        group = _first_group(match["groups"])
        size = sum(_size(kind, shape) for kind, shape in _ARRAY.findall(match["result"]))
        if match["kind"] == "reduce-scatter":
            size *= len(group)
        if axes := _axes(group, layout):
            found[match["kind"], axes].append(size)
    return {key: Traffic(len(sizes), sum(sizes)) for key, sizes in found.items()}


def _axes(group: np.ndarray, layout: Layout) -> tuple[str, ...]:
    """The axes along which the devices of a group differ; positions count in the mesh's order."""
    places = np.unravel_index(group, layout.mesh.devices.shape)
    names = layout.mesh.axis_names
    return tuple(name for name, place in zip(names, places) if len(set(place.tolist())) > 1)


def _size(kind: str, shape: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return bits // 8 * math.prod(int(n) for n in shape.split(",") if n)


def _first_group(groups: str) -> np.ndarray:
    """Positions of the devices in the first group, in any of HLO's three ways to write them.

    >>> [_first_group(g).tolist() for g in ("{{0,2},{1,3}}", "[2,2]<=[2,2]T(1,0)")]
    [[0, 2], [0, 2]]
    >>> _first_group("mesh['a'=2,'b'=2] {'b'}").tolist()
    [0, 1]
    >>> _first_group("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}").tolist()
    [0, 2]
    """
    if groups.startswith("{"):
        return np.array([int(n) for n in groups[2 : groups.index("}")].split(",")])
    if groups.startswith("mesh"):
        axes = re.findall(r"'(\w+)'=(\d+)", groups)
        named = re.findall(r"'(\w+)'", groups.partition("{")[2])
        shape = [int(size) for _, size in axes]
        grid = _numbered(_lists(groups) or [[math.prod(shape)]]).reshape(shape)
        return grid[tuple(slice(None) if name in named else 0 for name, _ in axes)].flatten()
    shape, *order = _lists(groups)
    return _numbered(order).reshape(shape)[0]


def _lists(text: str) -> list[list[int]]:
    """The lists of numbers in brackets: "[2,4]T(1,0)" has two."""
    return [[int(n) for n in part.split(",")] for part in re.findall(r"[\[(]([\d,]+)[\])]", text)]


def _numbered(order: list[list[int]]) -> np.ndarray:
    """Numbers from 0 in the shape order[0], its axes then arranged as order[1] says."""
    grid = np.arange(math.prod(order[0])).reshape(order[0])
    return grid.transpose(order[1]) if len(order) > 1 else grid
