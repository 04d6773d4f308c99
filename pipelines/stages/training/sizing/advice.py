"""The layout that suits a worker's memory, and what would save enough of it where a layout does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Layout, Placed
from pipelines.stages.training.sizing.footprint import Footprint
from pipelines.stages.training.sizing.memory import place

HEADROOM = 0.9  # what a recommended layout may take of the memory


def recommend(
    footprint: Footprint,
    global_batch_size: int,
    workers: int,
    groups: int,
    hardware: Hardware,
    stages: Sequence[int] = (1, 2, 3),
) -> Layout | None:
    """The cheapest layout that fits, with the largest micro-batch that fits there; None where none does. `groups` of
    workers have sequences of their own.

    A higher ZeRO stage sends more (ZeRO 3: half as much again); stage 1 sends what stage 0 does, and keeps less; one
    worker has nothing to share, and stage 0 spares it a second copy of the weights. Activation checkpointing computes a
    third more, so it comes after all stages. Offloading comes last, and only beside main memory that is known.
    """
    share = global_batch_size // groups
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    for plain in _kinds(footprint, workers, hardware, stages):
        for size in sizes:
            layout = replace(plain, micro_batch_size=size)
            placed = place(footprint, layout, workers, on_cpu=hardware.on_cpu, accumulates=size < share)
            if placed.fits(hardware, HEADROOM):
                return layout
    return None


def _kinds(footprint: Footprint, workers: int, hardware: Hardware, stages: Sequence[int]) -> Iterator[Layout]:
    """Layouts of one sequence a micro-batch, from the cheapest on."""
    for checkpointing in (False, True) if footprint.checkpointed else (False,):
        for stage in (0,) if workers == 1 else stages:
            yield Layout(stage, 1, checkpointing)
    if hardware.on_cpu or not hardware.host_memory_bytes:
        return
    checkpointing = bool(footprint.checkpointed)
    for stage in stages:
        yield Layout(stage, 1, checkpointing, offload_optimizer="cpu")
    if 3 in stages:
        yield Layout(3, 1, checkpointing, offload_optimizer="cpu", offload_parameters="cpu")


def instead(placed: Placed, footprint: Footprint, workers: int, hardware: Hardware, accumulates: bool) -> Placed | None:
    """The layout with what it does not use yet of activation checkpointing and, on GPUs, offloading: with the first of
    these that makes it fit; None where it fits as it is, or nothing helps."""
    if placed.fits(hardware):
        return None
    for layout in _savings(placed.layout, bool(footprint.checkpointed), hardware.on_cpu):
        found = place(footprint, layout, workers, on_cpu=hardware.on_cpu, accumulates=accumulates)
        if layout != placed.layout and found.fits(hardware):
            return found
    return None


def _savings(layout: Layout, blocks: bool, on_cpu: bool) -> Iterator[Layout]:
    checkpointed = replace(layout, activation_checkpointing=blocks)
    yield checkpointed
    if on_cpu or layout.zero_stage == 0:
        return
    for kept in (layout, checkpointed):
        yield replace(kept, offload_optimizer="cpu")
    if layout.zero_stage == 3:
        yield replace(checkpointed, offload_optimizer="cpu", offload_parameters="cpu")
