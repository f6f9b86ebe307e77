"""Estimate memory, time and cost of a run, before anything is allocated.

    momentum-gpt plan model=gpt_350m model.vocab_size=50304 training=paper
    momentum-gpt plan data=data/mine experiment=dai2023_350m cluster=a100_40x8
    momentum-gpt plan data=data/mine model=gpt_2_7b cluster.nodes=128

The options are those of `train`, with a cluster. It prints parameters, memory
by ZeRO stage, the sequences that fit, time, cost, communication, disk and the
learning rate, and refuses what cannot run with the nearest that can.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import ClusterConfig, TrainConfig
from momentum_gpt.core.errors import UserError, require
from momentum_gpt.core.terminal import table_text

if TYPE_CHECKING:
    from momentum_gpt.launching.plan import Plan, Way

BARS = " ▁▂▃▄▅▆▇█"


@dataclass
class PlanConfig(TrainConfig):
    """A run that is planned: the options of `train`, and a cluster."""

    cluster: ClusterConfig = field(kw_only=True)
    trainings: int = 1
    """Runs of this size, such as those of a sweep, whose time and cost are printed as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.trainings >= 1, "trainings", self.trainings, "at least 1")

    def _check_source(self) -> None:
        """Data need not be there yet."""


def plan(config: PlanConfig) -> None:
    """Print what the run would take."""
    # Imported here so that --help does not load torch.
    from momentum_gpt.launching.plan import AUTO, plan_of

    settle_vocabulary_of(config)
    made = plan_of(config, config.cluster)
    if config.deepspeed["zero_optimization"].get("stage") == AUTO:
        made = made.with_way(made.choice() or made.way)
    print("\n\n".join(part(made) for part in (summary, memory_table, costs)))
    if made.sequences(made.way):
        if config.trainings > 1:
            print(total(made, config.trainings))
        return
    found = made.nearest()
    remedy = "use a smaller model"
    if found:
        nodes = f"cluster.nodes={found.cluster.nodes} " * (found.cluster.nodes > made.cluster.nodes)
        remedy = f"the nearest that fits is {nodes}{found.way.options}"
    needed = made.memory(made.way, 1).total / 1e9
    raise UserError(
        f"one sequence needs {needed:.1f} GB on each rank, and a device has "
        f"{made.usable / 1e9:.1f} GB: {remedy}"
    )


def summary(made: Plan) -> str:
    """Return the model, its FLOPs, the cluster and the learning rate."""
    from momentum_gpt.core.flops import flops_per_token

    config, cluster = made.config, made.cluster
    parts = [f"{name} {count:,}" for name, count in made.parameters.items() if count]
    flops = flops_per_token(config.model)
    causal = flops_per_token(config.model, causal=True)
    hosts = f"{cluster.nodes:,} host(s) x {cluster.gpus_per_node} x {cluster.device}"
    each = f"{cluster.memory_gb:g} GB and {cluster.peak_tflops:g} TFLOP/s each"
    return lines_of(
        {
            "model": f"{made.n_parameters:,} parameters: {', '.join(parts)}",
            "FLOPs": f"{flops / 1e9:.3f} GFLOPs a token, forward and backward; {causal / 1e9:.3f} "
            "with causal attention alone",
            "cluster": f"{hosts}, {each}",
            "lr": lr_curve(config),
        }
    )


def lr_curve(config: TrainConfig, width: int = 40) -> str:
    """Return the learning rate over the run, in `width` bars, with its highest and last value."""
    from momentum_gpt.training.optim import lr_at

    last = config.training.max_steps - 1
    steps = [round(last * place / (width - 1)) for place in range(width)]
    rates = [lr_at(step, config.optim, config.training.max_steps) for step in steps]
    bars = "".join(BARS[round(rate / config.optim.lr * (len(BARS) - 1))] for rate in rates)
    return f"{bars}  up to {config.optim.lr:g}, at the end {rates[-1]:.3g}"


def memory_table(made: Plan) -> str:
    """Return the memory of a rank, in every way that a run can be divided."""
    chosen = made.way
    ways = list(made.ways())
    if chosen not in ways:
        ways.insert(0, chosen)
    rows = []
    for way in ways:
        fitting = made.sequences(way)
        memory = made.memory(way, max(1, fitting))
        parts = (
            memory.weights,
            memory.gradients,
            memory.optimizer,
            memory.buffers,
            memory.activations,
            memory.working,
            memory.total,
            memory.on_host,
        )
        cells = [f"{part / 1e9:.2f}" if part else "" for part in parts]
        mark = "*" if way == chosen else " "
        rows.append([f"{mark} {name_of(way)}", *cells, str(fitting) if fitting else "none fits"])
    head = ["way", "weights", "gradients", "optimizer", "buffers", "activations", "working"]
    title = (
        f"GB of each of {made.ranks:,} rank(s), of {made.usable / 1e9:.1f} usable, with as many "
        "sequences in a pass as fit.\n* is what the options choose; recomputing is "
        "training.activation_checkpointing=true"
    )
    return table_text(title, [*head, "in all", "on the host", "sequences"], rows)


def name_of(way: Way) -> str:
    """Return a way's name in the table."""
    offload = "_offload" if way.offload else ""
    return f"zero{way.stage}{offload}{', recomputing' if way.checkpointing else ''}"


def costs(made: Plan) -> str:
    """Return time, price, communication and disk of the chosen way."""
    sequences = made.sequences(made.way)
    if not sequences:
        return ""
    training, cluster = made.config.training, made.cluster
    per_rank = training.tokens_per_step // (made.config.model.seq_len * made.groups)
    at_once = sequences * made.config.model.seq_len // made.config.ranks_per_sequence
    passes = per_rank // sequences
    step = training.tokens_per_step / made.tokens_per_s
    sent = made.sent_bytes(made.way, passes)
    waited = made.communication_s(made.way, passes)
    hours = made.hours
    device_hours = hours * made.ranks
    price = price_text(device_hours, cluster.price)

    interval = made.best_interval_s
    every = max(1, round(interval / step))
    kept = training.keep_checkpoints + 1
    return lines_of(
        {
            "batch": f"{training.tokens_per_step:,} tokens a step: {per_rank} sequences a "
            f"{'rank' if made.groups == made.ranks else 'group'} = "
            f"{sequences} in a pass x {passes} accumulated (training.max_tokens_per_forward="
            f"{at_once})",
            "speed": f"{made.tokens_per_s:,.0f} tokens/s at {cluster.mfu:.0%} MFU, {step:.3g} s a "
            "step",
            "time": f"{hours:,.3g} h for {training.max_steps:,} steps, {device_hours:,.3g} device "
            f"hours{price}",
            "sends": f"{sent / 1e9:.3g} GB from each rank in a step: {waited:.3g} s, "
            f"{waited / step:.1%} of the step, if nothing is computed meanwhile",
            "disk": f"{made.checkpoint_bytes / 1e9:.3g} GB a checkpoint, {made.checkpoint_s:.3g} s "
            f"to write; {kept * made.checkpoint_bytes / 1e9:.3g} GB for {kept}",
            "failures": f"one in {made.between_failures_s / 3600:,.3g} h; best training.save_every="
            f"{every} ({interval / 60:.3g} min), expected goodput {made.goodput(interval):.1%}",
        }
    )


def total(made: Plan, trainings: int) -> str:
    """Return time and price of several runs."""
    hours = made.hours * trainings
    device_hours = hours * made.ranks
    price = price_text(device_hours, made.cluster.price)
    text = f"{hours:,.3g} h one after another, {device_hours:,.3g} device hours{price}"
    return lines_of({"all": f"{trainings:,} runs: {text}"})


def price_text(device_hours: float, price: float | None) -> str:
    """Return what device hours cost, where the price of one is known."""
    return "" if price is None else f", cost {device_hours * price:,.0f}"


def lines_of(texts: dict[str, str]) -> str:
    """Return lines with a name before each text."""
    return "\n".join(f"{name:<10}{text}" for name, text in texts.items())


def settle_vocabulary_of(config: PlanConfig) -> None:
    """Fill in the vocabulary: that of the data, if there are any."""
    from momentum_gpt.data import inspect_data
    from momentum_gpt.training.settle import settle_vocabulary

    if config.data.path or config.task.kind:
        settle_vocabulary(config, inspect_data(config).vocab_size)
    elif config.model.vocab_size is None:
        raise UserError(
            "model.vocab_size is not known without data=DIR: give one of them, such as "
            "model.vocab_size=50304"
        )


main = Command(plan, PlanConfig, "plan")


if __name__ == "__main__":
    main()
