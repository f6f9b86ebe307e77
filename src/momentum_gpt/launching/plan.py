"""What a run would take: memory, time, communication and disk, from its options and a cluster.

Everything is counted from the shape of the model, as torch and DeepSpeed allocate and send. Nothing
is allocated for it.

Symbols: P parameters, N ranks, L layers, C width, T sequence length, V vocabulary, b sequences that
pass through a rank at once, s bytes of a number (2 in bf16, 4 in fp32).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ClusterConfig, LaunchConfig, ModelConfig, TrainConfig
from momentum_gpt.core.disk import WEIGHT_BYTES, checkpoint_bytes
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.models import ATTENTIONS, GPT
from momentum_gpt.ops.cross_entropy import ROWS, bytes_of_logit

GB = 1e9

AUTO = "auto"
"""The ZeRO stage of `deepspeed=auto`."""

MOMENT = 4
"""Bytes of one moment of a parameter, in fp32: AdamW has two of them, Muon one."""

IN_A_BLOCK = 16
"""Numbers per token and channel that a block keeps for its backward pass.

The inputs of the two norms, of qkv, up and out: 5; q, k and v: 3; the input of GELU and that of
down, four times as wide: 8.
"""

IN_BACKWARD = 4
"""Numbers per token and channel that the backward pass of a block needs besides: the gradient of
what is four times as wide, in place of which the next one comes."""

RECOMPUTED = 4 / 3
"""Computation with activation checkpointing, to that without: a second forward pass."""


@dataclass(frozen=True)
class Way:
    """How a run is divided among the ranks."""

    stage: int
    """ZeRO stage."""
    offload: bool = False
    """Whether the optimizer's state is in the memory of the host."""
    checkpointing: bool = False
    """Whether activations are recomputed."""

    @property
    def options(self) -> str:
        """The options of `train` that choose it."""
        words = [f"deepspeed=zero{self.stage}{'_offload' if self.offload else ''}"]
        if self.checkpointing:
            words.append("training.activation_checkpointing=true")
        return " ".join(words)


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float
    """For what is sent."""
    activations: float
    """For the backward pass, of all tokens that pass at once."""
    working: float
    """For what is computed at the moment: some of the logits, or the gradients in a block."""
    on_host: float
    """What is in the memory of the host instead."""

    @property
    def total(self) -> float:
        """On the device."""
        states = self.weights + self.gradients + self.optimizer + self.buffers
        return states + self.activations + self.working


@dataclass(frozen=True)
class Plan:
    """A run on a cluster."""

    config: TrainConfig
    cluster: ClusterConfig
    parameters: dict[str, int]
    """Number of parameters by part of the model."""

    @property
    def n_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def n_moments(self) -> int:
        """Numbers in the optimizer's moments."""
        by_muon = 0
        if self.config.optim.name == "muon":
            by_muon = self.parameters["attention"] + self.parameters["MLP"]  # and few biases
        return 2 * self.n_parameters - by_muon

    @property
    def ranks(self) -> int:
        return self.cluster.nodes * self.cluster.gpus_per_node

    @property
    def groups(self) -> int:
        """Ranks, or groups of ranks that share sequences."""
        return self.ranks // self.config.ranks_per_sequence

    @property
    def way(self) -> Way:
        """What the options choose."""
        zero = self.config.deepspeed.get("zero_optimization", {})
        offload = (zero.get("offload_optimizer") or {}).get("device", "none") != "none"
        checkpointing = self.config.training.activation_checkpointing
        stage = 1 if zero.get("stage") == AUTO else self.config.stage_on(self.ranks)
        return Way(stage, offload, checkpointing)

    @property
    def usable(self) -> float:
        """Bytes of a device that a run may take."""
        return GB * (self.cluster.memory_gb - self.cluster.reserved_gb)

    def memory(self, way: Way, sequences: int) -> Memory:
        """Return the memory of one rank.

        Args:
            way: how the run is divided.
            sequences: that pass through the rank, or its group, at once.
        """
        tokens = sequences * self.config.model.seq_len // self.config.ranks_per_sequence
        kept, in_block = passing(self.config, way.checkpointing)
        device = "cpu" if self.cluster.device.startswith("CPU") else "cuda"
        of_logit = bytes_of_logit(
            self.config.training.precision,
            self.config.is_compiled_on(device),
            math.ceil(tokens / ROWS[device]),
        )
        of_loss = of_logit * min(tokens, ROWS[device]) * (self.config.model.vocab_size or 0)
        working = max(of_loss, tokens * in_block) + embedding_gradient(self.config)
        return replace(model_states(self, way), activations=tokens * kept, working=working)

    def sequences(self, way: Way) -> int:
        """Return how many sequences fit through a rank at once; 0 if not even one."""
        if not self.fits_host(way):
            return 0
        seq_len = self.config.model.seq_len
        per_rank = self.config.training.tokens_per_step // (seq_len * self.groups)
        sizes = (size for size in range(per_rank, 0, -1) if per_rank % size == 0)
        fitting = (size for size in sizes if self.memory(way, size).total <= self.usable)
        return next(fitting, 0)

    def fits_host(self, way: Way) -> bool:
        """Return whether the host has room for what all its ranks put there."""
        needed = self.cluster.gpus_per_node * self.memory(way, 0).on_host
        return needed < 0.9 * GB * self.cluster.host_memory_gb

    @property
    def tokens_per_s(self) -> float:
        """Over all ranks, at the cluster's MFU."""
        flops = flops_per_token(self.config.model)
        if self.way.checkpointing:
            flops *= RECOMPUTED
        return self.ranks * self.cluster.mfu * self.cluster.peak_tflops * 1e12 / flops

    @property
    def hours(self) -> float:
        """Of the whole run, without evaluations and failures."""
        training = self.config.training
        return training.max_steps * training.tokens_per_step / self.tokens_per_s / 3600

    def sent_bytes(self, way: Way, passes: int) -> float:
        """Return the bytes that each rank sends in a step.

        Args:
            way: how the run is divided.
            passes: forward and backward passes of the step, one for each micro-batch.
        """
        whole = self.n_parameters * WEIGHT_BYTES[self.config.training.precision]
        share = (self.ranks - 1) / self.ranks
        # Sum gradients and hand out sums, or new weights; or, each pass, weights twice, gradients
        # once.
        times = 2 if way.stage < 3 else 2 * passes + passes
        return times * share * whole + self._exchanged_bytes()

    def _exchanged_bytes(self) -> float:
        """Return what each rank sends in a step to those that it shares sequences with.

        That is q, k, v and the output of each layer, forward and backward.
        """
        model, training = self.config.model, self.config.training
        shared = self.config.ranks_per_sequence
        numbers = model.n_layers * model.d_model * training.tokens_per_step / self.ranks
        return 8 * numbers * WEIGHT_BYTES[training.precision] * (shared - 1) / shared

    def communication_s(self, way: Way, passes: int) -> float:
        """Return the seconds of a step's communication, where nothing is computed meanwhile."""
        sent = self.sent_bytes(way, passes)
        cluster = self.cluster
        if cluster.nodes == 1:
            return sent / (GB * cluster.link_gb_s)
        # Of each host, all cards together send what one rank of a ring would.
        slowest = min(cluster.link_gb_s, cluster.network_gb_s)
        return sent / (GB * slowest)

    @property
    def checkpoint_bytes(self) -> int:
        stage = self.way.stage
        return checkpoint_bytes(self.n_parameters, self.config.training.precision, stage)

    @property
    def checkpoint_s(self) -> float:
        """Seconds in which a checkpoint is written."""
        return self.checkpoint_bytes / (GB * self.cluster.disk_gb_s)

    @property
    def between_failures_s(self) -> float:
        """Mean seconds between two failures of any device."""
        return 3600 * self.cluster.failure_hours / self.ranks

    @property
    def best_interval_s(self) -> float:
        """Seconds between two checkpoints that lose the least: sqrt(2 d M).

        Young (1974), "A first order approximation to the optimum checkpoint interval", with d the
        seconds of a checkpoint and M those between failures. Checkpoints are written beside the
        training, so that d is an upper bound of what one costs.
        """
        return math.sqrt(2 * self.checkpoint_s * self.between_failures_s)

    def goodput(self, interval_s: float) -> float:
        """Return the expected share of the time that is not lost to checkpoints and failures.

        A failure costs the restart and on average half an interval (Daly 2006, first order).
        """
        lost_to_failure = 60 * self.cluster.restart_minutes + interval_s / 2
        lost = self.checkpoint_s / interval_s + lost_to_failure / self.between_failures_s
        return max(0.0, 1 - lost)

    def ways(self) -> Iterator[Way]:
        """Yield every way, from the one that loses the least speed to the one that loses most."""
        for checkpointing in (False, True):
            for stage in (1, 2, 3):
                yield Way(stage, False, checkpointing)
        for stage in (2, 3):
            yield Way(stage, True, True)

    def choice(self) -> Way | None:
        """Return the way that `deepspeed=auto` takes: the fastest that fits; None if none does."""
        checkpointing = self.config.training.activation_checkpointing
        ways = [Way(stage, False, checkpointing) for stage in (1, 2, 3)]
        ways += [Way(stage, True, checkpointing) for stage in (2, 3)]
        return next((way for way in ways if self.sequences(way)), None)

    def nearest(self) -> Plan | None:
        """Return the nearest plan that fits: the same on this cluster, or on more of its hosts."""
        for nodes in (1, 2, 4, 8, 16, 32, 64, 128):
            cluster = replace(self.cluster, nodes=nodes * self.cluster.nodes)
            larger = replace(self, cluster=cluster)
            for way in larger.ways():
                if larger.sequences(way):
                    return larger.with_way(way)
        return None

    def with_way(self, way: Way) -> Plan:
        """Return the same plan, divided otherwise."""
        zero: dict[str, object] = {"stage": way.stage, "overlap_comm": False}
        if way.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
            if way.stage == 3:
                zero["offload_param"] = {"device": "cpu"}
        training = replace(self.config.training, activation_checkpointing=way.checkpointing)
        deepspeed = {**self.config.deepspeed, "zero_optimization": zero}
        if way.offload:
            deepspeed["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW
        config = replace(self.config, deepspeed=deepspeed, training=training)
        return replace(self, config=config)


def settle_stage(config: TrainConfig) -> str | None:
    """Replace `deepspeed=auto` by what fits this machine; return what was chosen, and why.

    Raises:
        UserError: nothing fits.
    """
    if config.deepspeed.get("zero_optimization", {}).get("stage") != AUTO:
        return None
    plan = plan_of(config, this_machine(config.launch))
    way = plan.choice()
    first = plan.memory(Way(1, False, config.training.activation_checkpointing), 1).total
    needs = f"ZeRO-1 takes {first / GB:.2f} GB of the {plan.usable / GB:.2f} GB that a rank has"
    if way is None:
        nearest = plan.nearest()
        remedy = nearest.way.options if nearest else "a smaller model"
        raise UserError(f"deepspeed=auto: nothing fits ({needs}): use {remedy}, or more ranks")
    config.deepspeed = plan.with_way(way).config.deepspeed
    return f"deepspeed=auto: {way.options}; with one sequence in a pass, {needs}"


def this_machine(launch: LaunchConfig) -> ClusterConfig:
    """Return this host, as often as the run has hosts; nothing but its memory is known."""
    ranks = launch.nproc_per_node
    host = psutil.virtual_memory().total
    device = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return ClusterConfig(
        device="GPU" if device else "CPU",
        gpus_per_node=ranks,
        nodes=launch.nnodes,
        memory_gb=(device or host / ranks) / GB,
        host_memory_gb=host / GB,
        peak_tflops=1,
        link_gb_s=1,
        network_gb_s=1,
        mfu=1,
    )


def plan_of(config: TrainConfig, cluster: ClusterConfig) -> Plan:
    """Return the plan of a run whose vocabulary is known."""
    with torch.device("meta"):
        model = GPT(config.model, config.attention)
    parts = dict.fromkeys(("embedding", "positions", "attention", "MLP", "norms", "variant"), 0)
    for name, parameter in model.named_parameters():
        parts[_part_of(name)] += parameter.numel()
    return Plan(config, cluster, parts)


def _part_of(name: str) -> str:
    if ".attend." in name:
        return "variant"
    if "norm" in name:
        return "norms"
    if ".attention." in name:
        return "attention"
    if ".mlp." in name:
        return "MLP"
    return "positions" if "position" in name else "embedding"


def model_states(plan: Plan, way: Way) -> Memory:
    """Return the memory of weights, gradients and optimizer of one rank.

    In bf16 the engine adds gradients up in fp32, and from stage 1 on the optimizer has weights of
    its own in fp32.
    """
    P, N = plan.n_parameters, plan.ranks
    s = WEIGHT_BYTES[plan.config.training.precision]
    divided = {  # by how many ranks each is divided
        "optimizer": N if way.stage >= 1 else 1,
        "gradients": N if way.stage >= 2 else 1,
        "weights": N if way.stage >= 3 else 1,
    }
    own_weights = 4 * P if way.stage else 0
    optimizer = (MOMENT * plan.n_moments + own_weights) / divided["optimizer"]
    gradients = 4 * P / divided["gradients"]
    buffers = s * distributed.bucket(P) if way.stage else 0
    if way.stage == 3:
        buffers += s * distributed.bucket(P)  # weights that are gathered
    on_host = optimizer + gradients if way.offload else 0
    return Memory(
        weights=s * P / divided["weights"],
        gradients=0 if way.offload else gradients,
        optimizer=0 if way.offload else optimizer,
        buffers=buffers,
        activations=0,
        working=0,
        on_host=on_host,
    )


def embedding_gradient(config: TrainConfig) -> float:
    """Return the bytes of the gradient that the loss keeps for its backward pass."""
    model = config.model
    return WEIGHT_BYTES[config.training.precision] * (model.vocab_size or 0) * model.d_model


def passing(config: TrainConfig, checkpointing: bool) -> tuple[float, float]:
    """Return the bytes of a token that are kept, and that the backward pass of a block takes."""
    model: ModelConfig = config.model
    s = WEIGHT_BYTES[config.training.precision]
    kept = IN_A_BLOCK
    if ATTENTIONS[config.attention["name"]].has_decay or config.ranks_per_sequence > 1:
        kept += 1  # what softmax mixed, beside what goes into the projection
    if model.positions == "rotary":
        kept += 2  # rotated q and k
    statistics = 4 * (4 + model.n_heads)  # of two norms and the softmax, in fp32
    block = s * kept * model.d_model + statistics
    ends = 2 * s * model.d_model  # what goes into the last norm, and comes out
    in_block = s * IN_BACKWARD * model.d_model
    if not checkpointing:
        return model.n_layers * block + ends, in_block
    # Each block's input is kept; the rest comes again, one block at a time.
    inputs = s * model.d_model
    return model.n_layers * inputs + ends, block - inputs + in_block
