"""Every option of a training run: its type, its unit, its bounds.

The order of precedence is: the defaults here < the YAML files in `conf/` < the command line. What comes out is a plain
`TrainConfig`; a function below the doors gets the part of it that it uses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError

POSITIONS = ("learned", "sinusoidal", "rotary")
ACTIVATIONS = ("gelu_tanh", "gelu")
SCHEDULES = ("polynomial", "cosine", "wsd")
PRECISIONS = ("fp32", "bf16")
WANDB_MODES = ("auto", "online", "offline", "disabled")
PACKINGS = ("concatenate", "best_fit")
TASKS = ("recall", "induction")
RESUME_MODES = ("auto", "never")
DOCUMENTS = ("stream", "apart")


def require(holds: bool, option: str, value: Any, rule: str) -> None:
    """Raise a UserError that names the option, its value and the rule, unless the rule holds."""
    if not holds:
        raise UserError(f"{option} must be {rule}, got {value!r}")


@dataclass
class ModelConfig:
    """The shape of a GPT; what mixes the tokens is chosen by `attention`, not here."""

    n_layers: int
    n_heads: int
    d_model: int
    seq_len: int
    """Longest context, tokens."""
    vocab_size: int | None = None
    """Rows of the embedding. null: the tokenizer's size, padded to a multiple of 64."""
    positions: str = "learned"
    """learned | sinusoidal (fairseq's form) | rotary."""
    init_std: float = 0.02
    """Standard deviation of the initial matrices and embeddings; that of outputs into the residual stream is smaller."""
    bias: bool = True
    """Biases in the linear layers and the LayerNorms."""
    activation: str = "gelu_tanh"
    """gelu_tanh (GPT-2's approximation) | gelu (exact, fairseq's)."""
    scale_embedding: bool = False
    """Token embeddings times sqrt(d_model) on their way in, as fairseq does."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "seq_len"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(
            self.vocab_size is None or self.vocab_size >= 1,
            "model.vocab_size",
            self.vocab_size,
            "at least 1",
        )
        require(self.init_std > 0, "model.init_std", self.init_std, "above 0")
        require(
            self.positions in POSITIONS,
            "model.positions",
            self.positions,
            f"one of {', '.join(POSITIONS)}",
        )
        require(
            self.activation in ACTIVATIONS,
            "model.activation",
            self.activation,
            f"one of {', '.join(ACTIVATIONS)}",
        )
        if self.d_model % self.n_heads:
            raise UserError(
                f"model.d_model={self.d_model} is not divisible by model.n_heads={self.n_heads}: every head needs the same "
                f"d_head; take model.n_heads={_nearest_divisor(self.d_model, self.n_heads)}"
            )
        if self.positions == "rotary":
            require(
                self.d_head % 2 == 0,
                "d_model / n_heads",
                self.d_head,
                "even for model.positions=rotary",
            )
        if self.positions == "sinusoidal":
            require(
                self.d_model % 2 == 0 and self.d_model >= 4,
                "model.d_model",
                self.d_model,
                "even and at least 4 here",
            )

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


@dataclass
class DataConfig:
    path: str | None
    """Folder of token shards, made by `python -m data_prep.prepare`. `data=DIR` is short for `data.path=DIR`. null: a task."""
    document_mask: bool = False
    """Each document by itself: attention, momentum and positions begin anew at the token that ends the one before."""
    packing: str = "concatenate"
    """concatenate (the paper's: one stream, cut every seq_len tokens) | best_fit (documents kept whole where they fit)."""

    def __post_init__(self) -> None:
        require(
            self.packing in PACKINGS, "data.packing", self.packing, f"one of {', '.join(PACKINGS)}"
        )


@dataclass
class TaskConfig:
    """A synthetic task instead of a corpus: see data/synthetic.py."""

    kind: str | None = None
    """recall | induction. null: no task."""
    n_pairs: int = 8
    """Key-value pairs in a sequence (recall)."""
    n_keys: int = 128
    n_values: int = 128

    def __post_init__(self) -> None:
        require(self.kind in (None, *TASKS), "task.kind", self.kind, f"one of {', '.join(TASKS)}")
        require(self.n_pairs >= 1, "task.n_pairs", self.n_pairs, "at least 1")
        for name in ("n_keys", "n_values"):
            require(
                getattr(self, name) >= self.n_pairs,
                f"task.{name}",
                getattr(self, name),
                "at least task.n_pairs",
            )


@dataclass
class OptimConfig:
    """AdamW; the learning rate is `training.optim.lr_at(step)`."""

    lr: float
    """Highest learning rate, reached at the end of the warm-up."""
    min_lr: float
    """Learning rate of the last step."""
    warmup_steps: int
    schedule: str = "cosine"
    """polynomial | cosine | wsd (warm-up, stable, decay)."""
    power: float = 1.0
    """Exponent of the polynomial schedule; 1 is linear."""
    decay_fraction: float = 0.2
    """Share of max_steps over which wsd falls, linearly, to min_lr."""
    weight_decay: float = 0.1
    """On matrices and embeddings; never on biases and LayerNorms."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    grad_clip: float = 1.0
    """Largest L2 norm of the whole gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        require(
            0 <= self.min_lr <= self.lr,
            "optim.min_lr",
            self.min_lr,
            f"between 0 and optim.lr={self.lr}",
        )
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "at least 0")
        require(
            self.schedule in SCHEDULES,
            "optim.schedule",
            self.schedule,
            f"one of {', '.join(SCHEDULES)}",
        )
        require(self.power > 0, "optim.power", self.power, "above 0")
        require(
            0 < self.decay_fraction <= 1, "optim.decay_fraction", self.decay_fraction, "in (0, 1]"
        )
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "at least 0")
        require(0 <= self.beta1 < 1, "optim.beta1", self.beta1, "in [0, 1)")
        require(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "in [0, 1)")
        require(self.eps > 0, "optim.eps", self.eps, "above 0")
        require(self.grad_clip >= 0, "optim.grad_clip", self.grad_clip, "at least 0")


@dataclass
class TrainingConfig:
    max_steps: int
    """Optimizer steps of the whole run."""
    tokens_per_step: int
    """Tokens in the global batch: a multiple of model.seq_len."""
    seed: int = 0
    """Draws the initial weights and the order of the data."""
    max_tokens_per_forward: int = 16384
    """Per rank: bounds the activation memory; micro-batch and accumulation are derived from it."""
    precision: str = "fp32"
    """fp32 | bf16 (weights and activations; master weights and gradient accumulation stay fp32)."""
    compile: bool = False
    """torch.compile the model."""
    activation_checkpointing: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more time."""
    log_every: int = 10
    """Steps between two lines of training metrics."""
    eval_every: int = 500
    """Steps between two evaluations; 0: only at the end."""
    save_every: int = 500
    """Steps between two checkpoints; 0: only at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "tokens_per_step",
            "max_tokens_per_forward",
            "log_every",
            "keep_checkpoints",
        ):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        for name in ("seed", "eval_every", "save_every"):
            require(getattr(self, name) >= 0, f"training.{name}", getattr(self, name), "at least 0")
        require(
            self.precision in PRECISIONS,
            "training.precision",
            self.precision,
            f"one of {', '.join(PRECISIONS)}",
        )


@dataclass
class IclConfig:
    """Few-shot in-context learning."""

    tasks: list[str] = field(default_factory=list)
    """Of conf/icl/, or .yaml files; none: not measured."""
    data: str | None = None
    """A folder with TASK/SPLIT.jsonl. null: the hub."""
    k: list[int] = field(default_factory=lambda: [0, 1, 4, 8, 16, 32])
    """Demonstrations; as many of them as fit the context."""
    seeds: int = 5
    """Draws of the demonstrations."""
    queries: int | None = None
    """Of each task, at most, drawn from queries_seed, the same for every model. null: 2,000; in training as `share` says."""
    queries_seed: int = 1
    separator: str = "\n"
    """Between demonstrations; eos: the end of a document, as in Dai et al.'s code."""
    flipped: bool = False
    """Measure with wrong answers in the demonstrations, too."""
    verify: int = 0
    """Queries of each (task, k, seed) that are held against a plain pass."""

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "evaluation.icl.seeds", self.seeds, "at least 1")
        require(
            self.queries is None or self.queries >= 1,
            "evaluation.icl.queries",
            self.queries,
            "at least 1",
        )
        require(
            bool(self.k) and min(self.k) >= 0,
            "evaluation.icl.k",
            self.k,
            "numbers of at least 0, one or more",
        )
        require(self.verify >= 0, "evaluation.icl.verify", self.verify, "at least 0")


@dataclass
class EvaluationConfig:
    tokens: int | None = None
    """Validation targets at each context length; the same ones at each. null: 65,536; in training as many of them as `share`
    allows, see `windows`."""
    windows: int | None = None
    """Of these, measure so many windows of model.seq_len targets, spread evenly. null: all."""
    context_lengths: list[int] | None = None
    """Tokens of context. null: a quarter, a half and the whole of model.seq_len."""
    stride: int | None = None
    """Also measure with windows that overlap, each scoring so many of its last targets. null: disjoint windows alone."""
    documents: str | None = None
    """stream (they run on, as in training) | apart (each by itself, as lm-eval does). null: stream; apart for text=."""
    induction_sequences: int | None = None
    """Random sequences, shown twice, in the induction probe. null: 64; in training as `share` says."""
    share: float = 0.02
    """Of a training's computation that evaluating may take: what is null above and in `icl` is chosen so, at its start."""
    icl: IclConfig = field(default_factory=IclConfig)

    def __post_init__(self) -> None:
        require(
            self.tokens is None or self.tokens >= 1, "evaluation.tokens", self.tokens, "at least 1"
        )
        require(
            self.windows is None or self.windows >= 1,
            "evaluation.windows",
            self.windows,
            "at least 1",
        )
        require(
            self.stride is None or self.stride >= 1, "evaluation.stride", self.stride, "at least 1"
        )
        require(
            self.documents in (None, *DOCUMENTS),
            "evaluation.documents",
            self.documents,
            f"one of {', '.join(DOCUMENTS)}",
        )
        sequences = self.induction_sequences
        require(
            sequences is None or sequences >= 1,
            "evaluation.induction_sequences",
            sequences,
            "at least 1",
        )
        require(self.share > 0, "evaluation.share", self.share, "above 0")
        for length in self.context_lengths or []:
            require(length >= 1, "evaluation.context_lengths", length, "at least 1, each")

    def check(self, seq_len: int) -> None:
        """Raise a UserError unless a model of that context can be measured so."""
        rule = f"a divisor of model.seq_len={seq_len}, so that each length scores the same targets"
        for length in self.context_lengths or []:
            require(seq_len % length == 0, "evaluation.context_lengths", length, rule)
        if self.tokens is not None and self.documents != "apart":
            require(
                self.tokens >= seq_len,
                "evaluation.tokens",
                self.tokens,
                f"at least model.seq_len={seq_len}",
            )


@dataclass
class Sampling:
    """How the next token is drawn from the model's distribution."""

    temperature: float = 1.0
    """Divides the logits; 0: always the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens. null: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability (nucleus sampling, arXiv 1904.09751)."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "sampling.temperature", self.temperature, "at least 0")
        require(
            self.top_k is None or self.top_k >= 1,
            "sampling.top_k",
            self.top_k,
            "at least 1, or null",
        )
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")


@dataclass
class TrackingConfig:
    wandb: str = "auto"
    """auto (online when logged in, else offline) | online | offline | disabled. metrics.jsonl is written in any case."""
    project: str = "momentum-gpt"
    group: str | None = None
    """Runs that belong together on the dashboard."""
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(
            self.wandb in WANDB_MODES,
            "tracking.wandb",
            self.wandb,
            f"one of {', '.join(WANDB_MODES)}",
        )


@dataclass
class LaunchConfig:
    nproc_per_node: int = 1
    """Ranks on this machine; more than one are started by torchrun."""

    def __post_init__(self) -> None:
        require(
            self.nproc_per_node >= 1, "launch.nproc_per_node", self.nproc_per_node, "at least 1"
        )


CHANGES_NOTHING = (
    "name",
    "runs",
    "resume",
    "launch.",
    "tracking.",
    "training.log_every",
    "training.save_every",
    "training.keep_checkpoints",
)
"""Options that change nothing of a result: a run may be resumed with others, and `compare` does not list them."""


@dataclass
class TrainConfig:
    name: str
    """The run's name: its folder is `runs/NAME`."""
    data: DataConfig
    model: ModelConfig
    attention: dict[str, Any]
    """The variant's name and its options: the arguments of its class in models/attention.py."""
    optim: OptimConfig
    training: TrainingConfig
    deepspeed: dict[str, Any]
    """DeepSpeed's own keys, passed on as they are; batch, precision and clipping keys are derived and refused here."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """A synthetic task instead of data.path."""
    init: str | None = None
    """Folder of a model whose weights to start from: a run, a checkpoint, an export, or a GPT-2 or XGLM of `transformers`. Its
    shape must be `model`'s; the attention may be another. null: weights drawn from the seed."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    resume: str = "auto"
    """auto: go on from the newest complete checkpoint | never: refuse a run that exists."""
    runs: str = "runs"
    """The folder that holds the run folders."""

    def __post_init__(self) -> None:
        plain = self.name and not self.name.startswith(".") and not set(self.name) & set("/\\\0\n")
        require(
            bool(plain),
            "name",
            self.name,
            "a plain folder name, without '/' and not starting with '.'",
        )
        if (self.task.kind is None) == (self.data.path is None):
            raise UserError(
                f"set data=DIR or task.kind, one of both, got {self.data.path!r} and {self.task.kind!r}"
            )
        if self.data.document_mask and self.task.kind:
            raise UserError(
                "data.document_mask=true needs documents, and a task has none: leave it out"
            )
        if self.evaluation.icl.tasks and self.task.kind:
            raise UserError(
                "evaluation.icl.tasks are read by a model of text, and a task has none: leave them out"
            )
        require(
            self.resume in RESUME_MODES, "resume", self.resume, f"one of {', '.join(RESUME_MODES)}"
        )
        self.evaluation.check(self.model.seq_len)
        plan_batch(self.training, self.model.seq_len, self.launch.nproc_per_node)

    @property
    def run_dir(self) -> Path:
        return Path(self.runs) / self.name


@dataclass(frozen=True)
class BatchPlan:
    """How one step's sequences are spread: global = world_size x micro x accumulation."""

    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int


def plan_batch(training: TrainingConfig, seq_len: int, world_size: int) -> BatchPlan:
    """Derive micro-batch and accumulation: the largest micro-batch that divides a rank's share of the step and fits.

    Raises:
        UserError: the tokens of a step do not make whole sequences, or not the same number for each rank.
    """
    tokens = training.tokens_per_step
    if tokens % (seq_len * world_size):
        unit = seq_len * world_size
        raise UserError(
            f"training.tokens_per_step={tokens} does not split into whole sequences of {seq_len} tokens for {world_size} "
            f"rank(s): take a multiple of {unit}, such as {max(1, round(tokens / unit)) * unit}"
        )
    if training.max_tokens_per_forward < seq_len:
        raise UserError(
            f"training.max_tokens_per_forward={training.max_tokens_per_forward} is less than one sequence: take at least "
            f"model.seq_len={seq_len}"
        )
    per_rank = tokens // (seq_len * world_size)
    micro = _nearest_divisor(per_rank, min(per_rank, training.max_tokens_per_forward // seq_len))
    return BatchPlan(per_rank * world_size, micro, per_rank // micro, world_size)


def _nearest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return max(d for d in range(1, limit + 1) if number % d == 0)


def read_config(path: Path) -> TrainConfig:
    """The run's `config.yaml` as plain dataclasses, checked as strictly as the command line."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{path} is not a config of this version: {' '.join(str(error).split())}"
        ) from None
    assert isinstance(config, TrainConfig)
    return config


def write_config(config: TrainConfig, path: Path) -> None:
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def flat(config: Any) -> dict[str, Any]:
    """A nested config as {"model.n_layers": 4, ...}."""
    values = {}
    for key, value in (config if isinstance(config, dict) else asdict(config)).items():
        if isinstance(value, dict):
            values.update({f"{key}.{inner}": v for inner, v in flat(value).items()})
        else:
            values[key] = value
    return values
