"""Every option of a training run: its type, its unit, its bounds and what it means.

Values are taken from the defaults here, then from the YAML files in `conf/`, then from the command
line. The result is a plain `TrainConfig`; below the commands, a function gets the part of it that
it uses. The text under each field is what `--help` and the option reference show.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.batch_plan import BatchPlan, nearest_divisor, plan_batch
from momentum_gpt.core.errors import (
    UserError,
    require,
    require_at_least,
    require_choice,
    require_finite,
)
from momentum_gpt.core.files import write_text
from momentum_gpt.core.untrusted import read_plain_yaml

POSITIONS = ("learned", "sinusoidal", "rotary")
ACTIVATIONS = ("gelu_tanh", "gelu")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("polynomial", "cosine", "wsd")
PRECISIONS = ("fp32", "bf16")
WANDB_MODES = ("auto", "online", "offline", "disabled")
PAPERS = ("dai2023",)
DASHBOARDS = ("tensorboard",)
PACKINGS = ("concatenate", "best_fit")
TASKS = ("recall", "induction")
BAD_STEPS = ("skip", "rewind", "stop")
LAUNCHERS = ("local", "hosts", "slurm", "kubernetes")
RESUME_MODES = ("auto", "never")
DOCUMENTS = ("stream", "apart")
COMPILED_FROM = 2000
"""Steps of a run that torch.compile makes shorter, on a GPU. Of the 350M model on an H200, the
start and the first evaluation took 2 minutes longer, and each step of 0.66 s was 0.1 s shorter."""

CHANGES_NOTHING = (
    "name",
    "runs",
    "resume",
    "dry_run",
    "launch.",
    "tracking.",
    "training.log_every",
    "training.layers_every",
    "training.profile",
    "training.save_every",
    "training.keep_checkpoints",
    "training.keep_every",
    "training.keep_best",
)
"""Options that change nothing of a result; a name that ends in "." stands for all options in it.

A run may be resumed with other values of them, and `compare` does not count them as differences.
"""


REMOVED = ("evaluation.windows",)
"""Options of earlier versions that a run's config.yaml may still have; they are not read."""


def changes_nothing(option: str) -> bool:
    """Return whether an option, such as "training.log_every", changes nothing of a result."""
    section = option.partition(".")[0] + "."
    return option in CHANGES_NOTHING or section in CHANGES_NOTHING


@dataclass
class ModelConfig:
    """The shape of a GPT. What mixes the tokens is chosen by `attention`, not here."""

    n_layers: int
    """Number of transformer blocks."""
    n_heads: int
    """Attention heads in each block; must divide d_model."""
    d_model: int
    """Width of the model."""
    seq_len: int
    """Longest context, in tokens."""
    vocab_size: int | None = None
    """Rows of the token embedding. null: the tokenizer's size, rounded up to a multiple of 64."""
    positions: str = "learned"
    """Position encoding: learned | sinusoidal (fairseq's form) | rotary."""
    init_std: float = 0.02
    """Standard deviation of the initial matrices and embeddings.

    The two matrices of each block that write into the residual stream are scaled down by
    sqrt(2 n_layers), as in GPT-2.
    """
    bias: bool = True
    """Whether linear layers and LayerNorms have biases."""
    activation: str = "gelu_tanh"
    """Activation of the MLP: gelu_tanh (GPT-2's approximation) | gelu (exact, fairseq's)."""
    scale_embedding: bool = False
    """Whether token embeddings are multiplied by sqrt(d_model), as in fairseq."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "seq_len"):
            require_at_least(1, f"model.{name}", getattr(self, name))
        require_at_least(1, "model.vocab_size", self.vocab_size)
        require_finite("model", self)
        require(self.init_std > 0, "model.init_std", self.init_std, "above 0")
        require_choice(POSITIONS, "model.positions", self.positions)
        require_choice(ACTIVATIONS, "model.activation", self.activation)
        self._check_heads()

    def _check_heads(self) -> None:
        if self.d_model % self.n_heads:
            nearest = nearest_divisor(self.d_model, self.n_heads)
            raise UserError(
                f"model.d_model={self.d_model} is not divisible by model.n_heads={self.n_heads}, "
                f"but every head needs the same d_head: use model.n_heads={nearest}"
            )
        if self.positions == "rotary":
            # Rotary positions turn pairs of dimensions.
            even = self.d_head % 2 == 0
            require(even, "d_model / n_heads", self.d_head, "even for model.positions=rotary")
        if self.positions == "sinusoidal":
            # Half of the dimensions are sines, the other half cosines.
            fits = self.d_model % 2 == 0 and self.d_model >= 4
            rule = "even and at least 4 for model.positions=sinusoidal"
            require(fits, "model.d_model", self.d_model, rule)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads


@dataclass
class DataConfig:
    """What a run is trained and measured on."""

    path: str | None
    """Folder of token shards, made by `momentum-gpt prepare`; `data=DIR` is short for it.

    null: a synthetic task, see `task`.
    """
    document_mask: bool = False
    """Whether each document is read by itself.

    Attention, momentum and positions then start again at the token that ends the document before.
    """
    packing: str = "concatenate"
    """How windows are cut: concatenate | best_fit.

    concatenate cuts one long stream every seq_len tokens, as the paper does; best_fit keeps
    documents whole where they fit.
    """

    def __post_init__(self) -> None:
        require_choice(PACKINGS, "data.packing", self.packing)


@dataclass
class TaskConfig:
    """A synthetic task instead of a corpus; see data/synthetic_tasks.py."""

    kind: str | None = None
    """The task: recall | induction. null: none."""
    n_pairs: int = 8
    """Key-value pairs in a sequence of the recall task."""
    n_keys: int = 128
    """Different keys."""
    n_values: int = 128
    """Different values."""

    def __post_init__(self) -> None:
        require_choice((None, *TASKS), "task.kind", self.kind)
        require_at_least(1, "task.n_pairs", self.n_pairs)
        for name in ("n_keys", "n_values"):
            value = getattr(self, name)
            require(value >= self.n_pairs, f"task.{name}", value, "at least task.n_pairs")


@dataclass
class OptimConfig:
    """The optimizer and its learning rate schedule; see training/optim.py and training/muon.py."""

    lr: float
    """Highest learning rate, reached at the end of the warm-up."""
    min_lr: float
    """Learning rate of the last step."""
    warmup_steps: int
    """Steps over which the learning rate rises linearly."""
    name: str = "adamw"
    """adamw | muon (Muon for the matrices of the blocks, AdamW for all else)."""
    schedule: str = "cosine"
    """Decay after the warm-up: polynomial (the paper's) | cosine | wsd (warm-up, stable, decay)."""
    power: float = 1.0
    """Exponent of the polynomial schedule; 1 is linear."""
    decay_fraction: float = 0.2
    """Share of max_steps over which the wsd schedule falls linearly to min_lr."""
    weight_decay: float = 0.1
    """Weight decay of matrices and embeddings; biases and LayerNorms have none."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    momentum: float = 0.95
    """Muon's momentum."""
    grad_clip: float = 1.0
    """Largest L2 norm of the whole gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        require_finite("optim", self)
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        rule = f"between 0 and optim.lr={self.lr}"
        require(0 <= self.min_lr <= self.lr, "optim.min_lr", self.min_lr, rule)
        require_choice(OPTIMIZERS, "optim.name", self.name)
        require_choice(SCHEDULES, "optim.schedule", self.schedule)
        require(self.power > 0, "optim.power", self.power, "above 0")
        in_range = 0 < self.decay_fraction <= 1
        require(in_range, "optim.decay_fraction", self.decay_fraction, "in (0, 1]")
        for name in ("warmup_steps", "weight_decay", "grad_clip"):
            require_at_least(0, f"optim.{name}", getattr(self, name))
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name}", value, "in [0, 1)")
        require(self.eps > 0, "optim.eps", self.eps, "above 0")


@dataclass
class TrainingConfig:
    """Length, batch, precision and rhythm of a run."""

    max_steps: int
    """Optimizer steps of the whole run."""
    tokens_per_step: int
    """Tokens in the global batch; a multiple of model.seq_len times the number of ranks."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    max_tokens_per_forward: int = 16384
    """Tokens that one rank passes through the model at once; this bounds the activation memory.

    Micro-batch size and gradient accumulation are derived from it.
    """
    precision: str = "fp32"
    """fp32 | bf16 (weights and activations; master weights and gradient sums stay fp32)."""
    compile: bool | None = None
    """Whether to run the model through torch.compile, which takes minutes at the start. null: on
    GPUs, for runs of at least 2,000 steps at ZeRO 0 to 2; a step then takes 0.87 of the time."""
    activation_checkpointing: bool = False
    """Whether to recompute activations in the backward pass.

    This takes less memory and about a third more time.
    """
    log_every: int = 10
    """Steps between two lines of training metrics."""
    layers_every: int = 100
    """Steps between two lines of metrics by layer: norms, and what the variant adds. 0: none."""
    profile: bool = False
    """Whether to profile the steps 5 to 8: a trace in profile/, and where a step went."""
    eval_every: int = 500
    """Steps between two evaluations. 0: only at the end."""
    save_every: int = 500
    """Steps between two checkpoints. 0: only at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_every: int = 0
    """Checkpoints at multiples of so many steps stay, too. 0: none."""
    keep_best: bool = False
    """Whether the checkpoint with the lowest validation loss stays, too."""
    bad_step: str = "skip"
    """What is done if a loss or gradient is not finite, or the loss a spike: skip | rewind | stop.

    skip leaves the update out, rewind goes back to the last checkpoint and leaves it out then. What
    the step was trained on is kept in bad_steps/. After three bad steps in a row the run stops.
    """
    spike: float | None = None
    """Standard deviations above the mean of the last 128 losses that make a loss a spike.

    null: losses that are finite are never bad.
    """

    def __post_init__(self) -> None:
        positive = ("max_steps", "tokens_per_step", "max_tokens_per_forward", "log_every")
        for name in (*positive, "keep_checkpoints"):
            require_at_least(1, f"training.{name}", getattr(self, name))
        for name in ("seed", "layers_every", "eval_every", "save_every", "keep_every"):
            require_at_least(0, f"training.{name}", getattr(self, name))
        require_choice(PRECISIONS, "training.precision", self.precision)
        require_choice(BAD_STEPS, "training.bad_step", self.bad_step)
        above = self.spike is None or self.spike > 0
        require(above, "training.spike", self.spike, "above 0, or null")


@dataclass
class IclConfig:
    """Few-shot in-context learning (ICL)."""

    tasks: list[str] = field(default_factory=list)
    """Names of tasks in conf/icl/, or paths of .yaml files. Empty: no task is measured."""
    data: str | None = None
    """Folder that holds TASK/SPLIT.jsonl. null: the Hugging Face hub."""
    k: list[int] = field(default_factory=lambda: [0, 1, 4, 8, 16, 32])
    """Numbers of demonstrations; of each, as many as fit the context are used."""
    seeds: int = 5
    """How many times the demonstrations are drawn."""
    queries: int | None = None
    """Queries of each task, at most; the same ones for every model.

    null: 2,000; in training, as many as `evaluation.share` allows.
    """
    queries_seed: int = 1
    """Seed of the drawing of the queries."""
    separator: str = "\n"
    """Text between demonstrations; eos: the end of a document, as in Dai et al.'s code."""
    flipped: bool = False
    """Whether to measure with wrong answers in the demonstrations, too, where a task has some."""
    verify: int = 0
    """Queries of each (task, k, seed) that are checked against a plain forward pass.

    Answers that the model writes are not.
    """

    def __post_init__(self) -> None:
        require_at_least(1, "evaluation.icl.seeds", self.seeds)
        require_at_least(1, "evaluation.icl.queries", self.queries)
        require_at_least(0, "evaluation.icl.verify", self.verify)
        valid = bool(self.k) and min(self.k) >= 0
        require(valid, "evaluation.icl.k", self.k, "one or more numbers of at least 0")


@dataclass
class EvaluationConfig:
    """What is measured of a model, in training and afterwards."""

    tokens: int | None = None
    """Validation targets, the same ones at each context length.

    They are windows (or documents) in a random order that is the same for every model, so that
    fewer targets are a part of more. null: 65,536; in training, as many of them as `share` allows.
    """
    context_lengths: list[int] | None = None
    """Context lengths, in tokens. null: a quarter, a half and the whole of model.seq_len."""
    stride: int | None = None
    """Targets that each window scores if windows overlap. null: only disjoint windows."""
    documents: str | None = None
    """stream (documents follow one another, as in training) | apart (each alone, as in lm-eval).

    null: stream, and apart for `text=`.
    """
    induction_sequences: int | None = None
    """Random sequences, shown twice, in the induction probe.

    null: 64; in training, as many as `share` allows.
    """
    share: float = 0.02
    """Share of a training run's computation that its evaluations may take.

    What is null above and in `icl` is chosen at the start of training so that they keep to it.
    """
    icl: IclConfig = field(default_factory=IclConfig)

    def __post_init__(self) -> None:
        for name in ("tokens", "stride", "induction_sequences"):
            require_at_least(1, f"evaluation.{name}", getattr(self, name))
        require_choice((None, *DOCUMENTS), "evaluation.documents", self.documents)
        require_finite("evaluation", self)
        require(self.share > 0, "evaluation.share", self.share, "above 0")
        for length in self.context_lengths or []:
            require(length >= 1, "evaluation.context_lengths", length, "at least 1, each")

    def check(self, seq_len: int) -> None:
        """Raise a UserError unless a model with a context of `seq_len` tokens can be measured."""
        rule = f"a divisor of model.seq_len={seq_len}, so that each length scores the same targets"
        for length in self.context_lengths or []:
            require(seq_len % length == 0, "evaluation.context_lengths", length, rule)
        if self.tokens is not None and self.documents != "apart":
            enough = self.tokens >= seq_len
            rule = f"at least model.seq_len={seq_len}"
            require(enough, "evaluation.tokens", self.tokens, rule)


@dataclass
class Sampling:
    """How the next token is drawn from the model's distribution."""

    temperature: float = 1.0
    """Divides the logits. 0: always the most likely token."""
    top_k: int | None = None
    """Draw only from the k most likely tokens. null: all."""
    top_p: float = 1.0
    """Draw only from the most likely tokens that together have this probability.

    Nucleus sampling, arXiv 1904.09751.
    """
    seed: int = 0
    """Seed of the drawing."""

    def __post_init__(self) -> None:
        require_finite("sampling", self)
        require_at_least(0, "sampling.temperature", self.temperature)
        enough = self.top_k is None or self.top_k >= 1
        require(enough, "sampling.top_k", self.top_k, "at least 1, or null")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")


@dataclass
class TrackingConfig:
    """Weights & Biases; metrics.jsonl is written in any case."""

    wandb: str = "auto"
    """auto (online if logged in, otherwise offline) | online | offline | disabled."""
    project: str = "momentum-gpt"
    """The W&B project."""
    group: str | None = None
    """Name of the runs that belong together on W&B. null: the variant, such as momentum
    (ema_decay 0.5)."""
    tags: list[str] = field(default_factory=list)
    """Tags of the W&B run; the attention's name is always one of them."""
    also: list[str] = field(default_factory=list)
    """Further dashboards that get the same metrics: tensorboard, in `runs/NAME/tensorboard/`."""

    def __post_init__(self) -> None:
        require_choice(WANDB_MODES, "tracking.wandb", self.wandb)
        for name in self.also:
            require_choice(DASHBOARDS, "tracking.also", name)


@dataclass
class SlurmConfig:
    """What a SLURM job asks for; for `launch=slurm`."""

    partition: str | None = None
    """The partition. null: the cluster's default."""
    account: str | None = None
    """The account that pays. null: the user's default."""
    time: str | None = None
    """Longest time of a job, such as 24:00:00; after it the job is queued again and goes on.

    null: the partition's default.
    """
    gpus_per_node: int | None = None
    """GPUs of each host. null: one for each rank; 0: none."""
    cpus_per_task: int = 8
    """CPU cores of each rank."""
    extra: list[str] = field(default_factory=list)
    """Further options of sbatch, such as [qos:high,exclusive] for --qos=high --exclusive."""

    def __post_init__(self) -> None:
        require_at_least(0, "launch.slurm.gpus_per_node", self.gpus_per_node)
        require_at_least(1, "launch.slurm.cpus_per_task", self.cpus_per_task)


@dataclass
class KubernetesConfig:
    """What an indexed Job needs; for `launch=kubernetes`."""

    image: str = "momentum-gpt:latest"
    """Container image with momentum-gpt installed."""
    claim: str = "momentum-gpt"
    """PersistentVolumeClaim that all pods mount at `folder`: data and runs are there."""
    folder: str = "/work"
    """Where it is mounted, and the folder that the command runs in."""
    gpus_per_node: int | None = None
    """GPUs of each pod. null: one for each rank; 0: none."""


@dataclass
class LaunchConfig:
    """Where the ranks of a run are started, and how."""

    kind: str = "local"
    """local (here) | hosts (over ssh) | slurm | kubernetes; chosen by `launch=`."""
    dry_run: bool = False
    """Whether to show the script that would be submitted, and not to submit it."""
    wait: bool = False
    """Whether to wait for the end of the SLURM job, and to cancel it when this command is stopped.

    `sweep` and `recall` do so.
    """
    nproc_per_node: int = 1
    """Ranks on each host; more than one are started by torchrun."""
    nnodes: int = 1
    """Hosts of the run."""
    node_rank: int = 0
    """Number of this host, counted from 0: the only option that differs between hosts."""
    master_addr: str | None = None
    """Name or address of the host number 0, as the other hosts reach it."""
    master_port: int = 29500
    """Port of the host number 0 at which the hosts meet."""
    hostfile: str | None = None
    """Hosts for `launch=hosts`: a line "HOST slots=RANKS" for each, as DeepSpeed's."""
    wait_for_hosts: float = 1800.0
    """Seconds that a host waits for the others: at the start, and after the connection was lost."""
    max_restarts: int = 3
    """How often in a row ranks that failed are started again; a new checkpoint begins a new row.

    This is for ranks under torchrun. A run that was stopped on request is not started again.
    """
    hang_after: float = 600.0
    """Seconds without progress on any rank after which a run is taken to hang, and ends.

    It must be longer than the longest pause between two passes through the model, such as a
    compilation or a checkpoint. A rank that is frozen is noticed after 30 s in any case.
    """
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)

    def __post_init__(self) -> None:
        require_choice(LAUNCHERS, "launch.kind", self.kind)
        require_at_least(1, "launch.nproc_per_node", self.nproc_per_node)
        require_at_least(1, "launch.nnodes", self.nnodes)
        require_at_least(0, "launch.max_restarts", self.max_restarts)
        require_finite("launch", self)
        require_at_least(10, "launch.hang_after", self.hang_after)
        require_at_least(0, "launch.wait_for_hosts", self.wait_for_hosts)

        known = 0 <= self.node_rank < self.nnodes
        rule = f"from 0 to launch.nnodes - 1 = {self.nnodes - 1}"
        require(known, "launch.node_rank", self.node_rank, rule)
        in_range = 0 < self.master_port < 2**16
        require(in_range, "launch.master_port", self.master_port, "a port, 1 to 65535")
        if self.kind == "local" and self.nnodes > 1 and not self.master_addr:
            raise UserError(
                f"launch.nnodes={self.nnodes} needs launch.master_addr=HOST, the name of the host "
                "number 0: all hosts meet there"
            )
        if self.wait and self.kind not in ("slurm", "hosts"):
            raise UserError(
                f"launch.wait=true is for launch=slurm, got launch={self.kind}: leave it out"
            )
        if self.kind == "hosts" and not self.hostfile:
            raise UserError(
                'launch=hosts needs launch.hostfile=FILE, with lines "HOST slots=RANKS"'
            )


@dataclass
class TrainConfig:
    """A pretraining run."""

    name: str
    """Name of the run; its folder is `runs/NAME`."""
    data: DataConfig
    model: ModelConfig
    attention: dict[str, Any]
    """Name of the attention variant and its options; see models/attention.py."""
    optim: OptimConfig
    training: TrainingConfig
    deepspeed: dict[str, Any]
    """DeepSpeed's own keys, passed on unchanged.

    The keys for batch sizes, precision and gradient clipping are derived from the options above
    and refused here.
    """
    task: TaskConfig = field(default_factory=TaskConfig)
    init: str | None = None
    """Folder of a model whose weights to start from. null: weights drawn from the seed.

    A run, a checkpoint, an export, or a GPT-2 or XGLM of `transformers`. Its shape must be that of
    `model`; the attention may be another.
    """
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    resume: str = "auto"
    """auto (resume from the newest complete checkpoint) | never (refuse a run that exists)."""
    runs: str = "runs"
    """Folder that holds the run folders."""
    dry_run: bool = False
    """Whether to check everything, say what would be trained, and write nothing."""

    def __post_init__(self) -> None:
        allowed = not self.name.startswith(".") and not set(self.name) & set("/\\\0\n")
        rule = "a plain folder name, without '/' and not starting with '.'"
        require(bool(self.name) and allowed, "name", self.name, rule)
        require_choice(RESUME_MODES, "resume", self.resume)
        self._check_source()
        self.evaluation.check(self.model.seq_len)
        n_ranks = self.launch.nnodes * self.launch.nproc_per_node
        # srun and torchrun start ranks that no option tells of: each rank checks this again.
        self.plan_batch(n_ranks if n_ranks > 1 else self.ranks_per_sequence)

    @property
    def variant(self) -> str:
        """The attention's name and options that are on, such as "momentum 0.5, learned"."""
        attention = dict(self.attention)
        decay = attention.pop("ema_decay", None)
        words = [str(attention.pop("name")) + ("" if decay is None else f" {decay}")]
        for key, value in attention.items():
            if value is True:
                words.append(key)
            elif value is not None and value is not False:
                words.append(f"{key} {value}")
        return ", ".join(words)

    def is_compiled_on(self, device: str) -> bool:
        """Return whether the model is run by torch.compile, or by DeepSpeed's own form of it.

        Args:
            device: "cuda" or "cpu".
        """
        if self.deepspeed.get("compile", {}).get("deepcompile"):
            return True
        if self.training.compile is not None:
            return self.training.compile
        stage = self.deepspeed.get("zero_optimization", {}).get("stage", 1)
        pays = self.training.max_steps >= COMPILED_FROM and stage != 3
        return pays and device == "cuda" and find_spec("triton") is not None

    @property
    def ranks_per_sequence(self) -> Any:
        """Ranks that share each sequence of the training batches."""
        return self.deepspeed.get("sequence_parallel_size", 1)

    def stage_on(self, n_ranks: int) -> int:
        """Return the ZeRO stage at which this number of ranks trains.

        In fp32, a single rank has nothing to divide, and stages 1 and 2 would keep a second copy of
        the weights and copy every gradient: it takes stage 0, which computes the same.
        """
        zero = self.deepspeed.get("zero_optimization", {})
        stage = int(zero.get("stage", 1))
        offloads = "offload_optimizer" in zero
        alone = n_ranks == 1 and self.training.precision == "fp32" and not offloads
        return 0 if alone and stage < 3 else stage

    def plan_batch(self, n_ranks: int) -> BatchPlan:
        """Return how the sequences of a step are spread over this number of ranks.

        Raises:
            UserError: they cannot be.
        """
        shared = self.ranks_per_sequence
        rule = f"a divisor of model.n_heads={self.model.n_heads}"
        divides = isinstance(shared, int) and shared >= 1 and self.model.n_heads % shared == 0
        require(divides, "deepspeed.sequence_parallel_size", shared, rule)
        return plan_batch(self.training, self.model.seq_len, n_ranks, shared)

    def _check_source(self) -> None:
        """Check that there is either a corpus or a synthetic task, and nothing it cannot have."""
        path, task = self.data.path, self.task.kind
        if (task is None) == (path is None):
            raise UserError(f"set either data=DIR or task.kind, got {path!r} and {task!r}")
        if task is None:
            return
        if self.data.document_mask:
            raise UserError(
                "data.document_mask=true needs documents, which a task has not: omit it"
            )
        if self.evaluation.icl.tasks:
            raise UserError(
                "evaluation.icl.tasks need text, which a synthetic task has not: omit it"
            )

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.runs) / self.name


@dataclass
class ClusterConfig:
    """Machines to plan for, and what they reach."""

    device: str
    """What each rank computes on."""
    gpus_per_node: int
    """Devices of one host."""
    memory_gb: float
    """Memory of one device, in GB (10^9 bytes)."""
    host_memory_gb: float
    """Memory of one host, in GB."""
    peak_tflops: float
    """Dense bf16 TFLOP/s of one device (fp32 for a CPU)."""
    link_gb_s: float
    """GB/s that a device sends to the others of its host."""
    network_gb_s: float
    """GB/s that a host sends to the others, over all its cards."""
    mfu: float
    """Model FLOPs utilisation to plan with: the share of the peak that the model's FLOPs reach."""
    price: float | None = None
    """Price of one device for one hour, in your currency. null: not known."""
    nodes: int = 1
    """Hosts."""
    disk_gb_s: float = 2.0
    """GB/s that the file system of the runs writes for one run."""
    reserved_gb: float = 2.0
    """GB of a device that CUDA, NCCL and fragmentation take."""
    failure_hours: float = 50_000.0
    """Hours of one device between two failures that end a run.

    Llama 3 had 419 in 54 days on 16,384 GPUs (arXiv 2407.21783, section 3.3.4), one in 50,700.
    """
    restart_minutes: float = 10.0
    """Minutes from a failure to the next step."""

    def __post_init__(self) -> None:
        require_finite("cluster", self)
        for name in ("gpus_per_node", "nodes"):
            require_at_least(1, f"cluster.{name}", getattr(self, name))
        positive = ("memory_gb", "host_memory_gb", "peak_tflops", "link_gb_s", "network_gb_s")
        for name in (*positive, "mfu", "disk_gb_s", "failure_hours"):
            value = getattr(self, name)
            require(value > 0, f"cluster.{name}", value, "above 0")
        require(self.mfu <= 1, "cluster.mfu", self.mfu, "at most 1")


def read_config(path: Path) -> TrainConfig:
    """Return a run's `config.yaml` as dataclasses, checked as strictly as the command line.

    No interpolation is resolved: an untrusted config could use it to read the environment.

    Raises:
        UserError: the file is not a config of this version, or a value is out of its bounds.
    """
    found = read_plain_yaml(path)
    for option in REMOVED:
        section, _, name = option.rpartition(".")
        options = found.get(section)
        if isinstance(options, dict):
            options.pop(name, None)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), found)
        config = OmegaConf.to_object(merged)
        assert isinstance(config, TrainConfig)
        variant = config.attention.get("name")
        require(isinstance(variant, str), "attention.name", variant, "the name of a variant")
    except (OmegaConfBaseException, UserError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a config of this version: {reason}") from None
    return config


def write_config(config: TrainConfig, path: Path) -> None:
    """Write the config as YAML, whole or not at all."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def flat(config: Any) -> dict[str, Any]:
    """Return a nested config as one dictionary with keys such as "model.n_layers"."""
    nested = config if isinstance(config, dict) else asdict(config)
    values = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            for inner, inner_value in flat(value).items():
                values[f"{key}.{inner}"] = inner_value
        else:
            values[key] = value
    return values
