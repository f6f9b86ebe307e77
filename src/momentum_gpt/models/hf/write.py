"""A trained model as a folder of `transformers`: a GPT-2 where it is one, else with one file of modelling code beside it.

The code is hf/modeling_momentum_gpt.py, which knows every variant of ATTENTIONS. What was written is loaded by
`transformers` in a fresh process and compared with the model, see `check_export`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from momentum_gpt.core.errors import UserError
from momentum_gpt.models.attention import MomentumAttention
from momentum_gpt.models.gpt import GPT
from momentum_gpt.models.hf.read import OWN

HF = Path(__file__).parent
CODE = "modeling_momentum_gpt"

VARIANTS = ("vanilla", "momentum", "shift", "linear", "linear_momentum")
"""What the modelling code knows."""

LONGEST, N_GREEDY = 256, 32
"""Tokens whose logits are compared, and tokens decoded greedily; at most, and as the model's context allows."""

CLOSE = 1e-5
"""Logits may differ by this times the largest one, or by this if that is below 1: the rounding of fp32 in another order."""


def require_transformers() -> None:
    if find_spec("transformers") is None:
        raise UserError(
            "transformers is not installed, and the export is checked with it: pip install transformers"
        )


def is_gpt2(model: GPT) -> bool:
    """Whether `transformers`' GPT-2 is the same function."""
    config = model.config
    shape = (config.positions, config.bias, config.activation, config.scale_embedding)
    return model.attention["name"] == "vanilla" and shape == ("learned", True, "gelu_tanh", False)


def write_model(folder: Path, model: GPT, eos_id: int | None, pad_id: int | None) -> None:
    """Write config.json, generation_config.json, model.safetensors and, unless it is a GPT-2, the modelling code.

    Raises:
        UserError: an attention variant that the modelling code does not have.
    """
    if model.attention["name"] not in VARIANTS:
        raise UserError(
            f"attention {model.attention['name']!r} cannot be exported, only {', '.join(VARIANTS)}: add it to {HF / CODE}.py "
            f"and to VARIANTS in {__file__}"
        )
    about = gpt2_config(model) if is_gpt2(model) else own_config(model)
    weights = gpt2_weights(model) if is_gpt2(model) else dict(model.named_parameters())
    if not is_gpt2(model):
        shutil.copyfile(HF / f"{CODE}.py", folder / f"{CODE}.py")
    ends = {
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }  # a document begins behind the end of another
    if model.document_end is not None:
        about["document_end"] = (
            model.document_end
        )  # for load_model alone: in `transformers` each row is one document
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    write_json(folder / "config.json", about | ends | {"dtype": dtype, "tie_word_embeddings": True})
    write_json(folder / "generation_config.json", ends | {"pad_token_id": pad_id})
    contiguous = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def gpt2_config(model: GPT) -> dict[str, Any]:
    config = model.config
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.seq_len,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "activation_function": "gelu_new",
        "initializer_range": config.init_std,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),  # as it was trained
    }


def gpt2_weights(model: GPT) -> dict[str, Tensor]:
    """Under GPT-2's names, whose matrices are (in, out), torch's being (out, in)."""
    modules = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
    }
    modules |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    theirs = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}
    for layer in range(model.config.n_layers):
        theirs |= {f"blocks.{layer}.{mine}": f"h.{layer}.{its}" for mine, its in modules.items()}
    weights = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        is_transposed = kind == "weight" and ".c_" in theirs[module]
        weights[f"transformer.{theirs[module]}.{kind}"] = (
            parameter.T if is_transposed else parameter
        )
    return weights


def own_config(model: GPT) -> dict[str, Any]:
    shape = asdict(model.config)
    init_std = shape.pop("init_std")
    return {
        "model_type": OWN,
        "architectures": ["MomentumGPTForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{CODE}.MomentumGPTConfig",
            "AutoModelForCausalLM": f"{CODE}.MomentumGPTForCausalLM",
        },
        **shape,
        "initializer_range": init_std,
        "attention": written_out(model),
    }


def written_out(model: GPT) -> dict[str, Any]:
    """The attention's options, those of momentum without defaults: a decay for each head of each layer."""
    momentum = [module for module in model.modules() if isinstance(module, MomentumAttention)]
    if not momentum:
        return model.attention
    decays = [
        torch.as_tensor(it.decays, dtype=torch.float64).expand(model.config.n_heads).tolist()
        for it in momentum
    ]
    return {
        "name": model.attention["name"],
        "ema_decay": decays,
        "learned": model.attention.get("learned", False),
        "normalised": momentum[0].normalised,
        "include_current": momentum[0].include_current,
        "layers": [layer for layer, it in enumerate(momentum) if it.active],
    }


class Text(NamedTuple):
    """What a text is to a tokenizer."""

    ids: list[int]
    decoded: str


@dataclass(frozen=True)
class Checked:
    """What `check_export` measured."""

    transformers: str
    """Its version."""
    logit_difference: float
    largest_logit: float
    n_greedy: int
    """Tokens decoded greedily."""


def check_export(
    folder: Path, model: GPT, eos_id: int | None, texts: Mapping[str, Text]
) -> Checked:
    """Compare a folder, as `transformers` loads it in a fresh process, with the model in fp32 on the CPU.

    Args:
        texts: what they are to our tokenizer. Empty: the folder has no tokenizer.

    Raises:
        UserError: it does not load, or says what differs: logits, greedy tokens, the ids of texts.
    """
    model = model.cpu().float().eval()
    assert model.config.vocab_size is not None
    length = min(model.config.seq_len, LONGEST)
    tokens = torch.randint(
        model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)
    )
    longest = max(1, min(48, length // 2))
    prompts = [
        tokens[0, :longest].tolist(),
        tokens[0, longest : longest + (longest + 1) // 2].tolist(),
    ]
    n_greedy = min(N_GREEDY, model.config.seq_len - longest)
    questions = {
        "tokens": tokens.tolist(),
        "prompts": prompts,
        "max_new_tokens": n_greedy,
        "texts": list(texts),
    }
    answers, theirs = ask(folder, questions, trust=not is_gpt2(model))
    ours = logits_of(model, tokens)
    largest, difference = ours.abs().max().item(), (theirs - ours).abs().max().item()
    tolerance, version = CLOSE * max(1.0, largest), f"transformers {answers['transformers']}"
    if not difference <= tolerance:
        refuse(
            f"logits differ by {difference:.1e} in {version}, where {tolerance:.1e} would be rounding"
        )
    for prompt, drawn in zip([*prompts, *prompts], answers["greedy"], strict=True):
        check_greedy(model, prompt, drawn, eos_id, tolerance, version)
    if texts:
        check_texts(answers, texts, eos_id, version)
    return Checked(answers["transformers"], difference, largest, sum(map(len, answers["greedy"])))


def refuse(what: str) -> None:
    raise UserError(
        f"the export is not the same model and was discarded: {what}; try another version of transformers"
    )


@torch.no_grad()
def logits_of(model: GPT, tokens: Tensor) -> Tensor:
    """(B, T, V), each row read as one document, as it is where tokens are decoded, and everywhere in `transformers`."""
    return model(tokens, document_ids=torch.zeros_like(tokens))


def check_greedy(
    model: GPT,
    prompt: list[int],
    drawn: list[int],
    eos_id: int | None,
    tolerance: float,
    version: str,
) -> None:
    """Each token must be our likeliest behind those before it; of tokens as likely as each other, any may be."""
    if eos_id in drawn:
        drawn = drawn[: drawn.index(eos_id) + 1]
    logits = logits_of(model, torch.tensor([[*prompt, *drawn[:-1]]]))[
        0, len(prompt) - 1 :
    ]  # (n, V)
    behind = logits.max(-1).values - logits[torch.arange(len(drawn)), drawn]
    if behind.max() > tolerance:
        place = int((behind > tolerance).nonzero()[0])
        refuse(
            f"greedy token {place + 1} is {drawn[place]} in {version} and {int(logits[place].argmax())} here"
        )


def check_texts(
    answers: dict[str, Any], texts: Mapping[str, Text], eos_id: int | None, version: str
) -> None:
    if answers["eos_id"] != eos_id:
        refuse(
            f"the tokenizer's end of a document is {answers['eos_id']} in {version} and {eos_id} here"
        )
    for (text, ours), ids, decoded in zip(
        texts.items(), answers["ids"], answers["decoded"], strict=True
    ):
        if ids != ours.ids:
            refuse(f"the text {text!r:.80} is {ids[:20]} in {version} and {ours.ids[:20]} here")
        if decoded != ours.decoded:
            refuse(
                f"the tokens of {text!r:.80} are {decoded!r:.80} in {version} and {ours.decoded!r:.80} here"
            )


def ask(folder: Path, questions: dict[str, Any], trust: bool) -> tuple[dict[str, Any], Tensor]:
    """What `transformers` answers in a fresh process: see hf/answers.py. It writes nothing to the user's caches."""
    with TemporaryDirectory() as work:
        Path(work, "questions.json").write_text(json.dumps(questions))
        done = subprocess.run(
            [
                sys.executable,
                str(HF / "answers.py"),
                str(folder.resolve()),
                work,
                *(["--trust"] if trust else []),
            ],
            env=os.environ
            | {"HF_HUB_OFFLINE": "1", "HF_HOME": work, "HF_MODULES_CACHE": f"{work}/modules"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            refuse(f"transformers does not load it: {' '.join(done.stderr.splitlines()[-1:])}")
        return json.loads(Path(work, "answers.json").read_text()), load_file(
            Path(work, "logits.safetensors")
        )["logits"]
