"""Memory of a training worker under DeepSpeed ZeRO: arithmetic on a model's footprint.

Model states after Rajbhandari et al. 2020 (arXiv:1910.02054), as our engine holds them: weights and gradients are
fp32 always (bf16 is autocast), and from stage 1 on DeepSpeed clones the weights that a worker's optimizer owns. What is
offloaded (Ren et al. 2021, arXiv:2101.06840) is in main memory; on a CPU that is the same memory.
"""

from __future__ import annotations

from cluster.control.planning.prediction import Layout, Memory, Placed
from pipelines.stages.training.sizing.footprint import FP32, Footprint

BUCKET_ELEMENTS = 500_000_000  # at most, of DeepSpeed's reductions
LIVE_ELEMENTS = 1_000_000_000  # of gathered weights under ZeRO 3, at most
# Resident memory of a worker that has imported everything and built nothing: what `gpt2-1m` took under Ray Train on a
# CPU at its peak (683 and 691 MB), less what it needs itself.
RUNTIME_BYTES_CPU = 650_000_000
RUNTIME_BYTES_GPU = 1_000_000_000  # CUDA's context and NCCL's buffers; an assumption, not measured


def place(footprint: Footprint, layout: Layout, workers: int, *, on_cpu: bool, accumulates: bool) -> Placed:
    """What a layout takes of each of `workers` workers. `accumulates`: a step is of more than one micro-batch."""
    device, host = _states(footprint, layout, workers, accumulates)
    state = FP32 * footprint.trained_parameters + footprint.state_bytes
    activations = footprint.activations_bytes(layout.micro_batch_size, layout.activation_checkpointing)
    device += Memory(activations=activations, runtime=RUNTIME_BYTES_CPU if on_cpu else RUNTIME_BYTES_GPU)
    host += Memory(checkpoint=-(-state // workers))
    beside = footprint.beside
    if on_cpu:
        between = max(0, beside.between_steps_bytes - activations)
        return Placed(layout, device + host + beside.device + beside.host + Memory(sync=between), None)
    host += beside.host + Memory(sync=beside.between_steps_bytes, runtime=RUNTIME_BYTES_CPU)
    return Placed(layout, device + beside.device, host)


def _states(footprint: Footprint, layout: Layout, workers: int, accumulates: bool) -> tuple[Memory, Memory]:
    """Weights, gradients, optimizer and communication: where the passes are computed, and in main memory.

    Gradients are gathered in one bucket and summed over the ranks in another, and the optimizer's share of them is
    flattened; ZeRO 3 holds one bucket and one share more. As measured (benchmarks/sizing.py).
    """
    stage, frozen = layout.zero_stage, footprint.frozen_bytes
    trained = FP32 * footprint.trained_parameters
    bucket = min(FP32 * BUCKET_ELEMENTS, trained)
    if stage == 0:
        buffers = bucket if workers > 1 else 0
        return Memory(trained + frozen, trained, footprint.state_bytes, buffers), Memory()
    share = -(-trained // workers)
    optimizer = share + -(-footprint.state_bytes // workers)
    buffers = FP32 * footprint.gathered_parameters  # of Muon, for its orthogonalization
    if stage == 3:
        shards = share + -(-frozen // workers)
        live = min(FP32 * LIVE_ELEMENTS, trained + frozen)
        device, host = Memory(weights=live, buffers=buffers + 3 * bucket), Memory()
        if layout.offload_parameters == "cpu":
            host += Memory(weights=shards)
        else:
            device += Memory(weights=shards)
        if layout.offload_optimizer == "cpu":  # its gradients are there in a flat buffer, and in the optimizer's
            return device, host + Memory(gradients=share, optimizer=optimizer, buffers=share)
        return device + Memory(gradients=share, optimizer=optimizer, buffers=2 * share), host
    whole = trained if stage == 1 and accumulates else 0
    device = Memory(trained + frozen, whole, buffers=buffers + 2 * bucket)
    if layout.offload_optimizer == "cpu":
        # Each gradient passes through a buffer of the largest one's size; there, sums of micro-batches have a place of
        # their own, and updated weights pass through a copy of the share.
        largest = FP32 * footprint.largest_parameter
        summed = share if accumulates else 0
        host = Memory(gradients=share, optimizer=optimizer, buffers=summed + share + largest)
        return device + Memory(buffers=largest), host
    return device + Memory(gradients=0 if whole else share, optimizer=optimizer, buffers=share), Memory()
