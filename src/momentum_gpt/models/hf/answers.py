"""What `transformers` makes of an exported folder, asked in a process of its own, where nothing of this project is loaded.

    python answers.py FOLDER WORK [--trust]

Reads WORK/questions.json and writes WORK/answers.json and WORK/logits.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

RECOMPUTED = 8
"""Tokens decoded without a cache at most, each of which costs a whole pass."""


def greedy(
    model: Any, prompts: list[list[int]], max_new_tokens: int, use_cache: bool
) -> list[list[int]]:
    """The likeliest tokens behind each prompt, of one batch, padded on the left."""
    T = max(map(len, prompts))
    tokens = torch.tensor([[0] * (T - len(prompt)) + prompt for prompt in prompts])  # (B, T)
    real = torch.tensor([[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"do_sample": False, "max_new_tokens": max_new_tokens, "use_cache": use_cache}
    return model.generate(tokens, attention_mask=real, **options)[:, T:].tolist()


def text_answers(folder: str, texts: list[str], trust: bool) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    return {
        "ids": ids,
        "decoded": [tokenizer.decode(row) for row in ids],
        "eos_id": tokenizer.eos_token_id,
    }


@torch.no_grad()
def main(folder: str, work: Path, trust: bool) -> None:
    asked = json.loads((work / "questions.json").read_text())
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, trust_remote_code=trust, dtype=torch.float32).eval()
    answers = text_answers(folder, asked["texts"], trust) if asked["texts"] else {}
    answers["transformers"] = transformers.__version__
    n = asked["max_new_tokens"]
    answers["greedy"] = greedy(model, asked["prompts"], n, True) + greedy(
        model, asked["prompts"], min(n, RECOMPUTED), False
    )
    save_file(
        {"logits": model(torch.tensor(asked["tokens"])).logits.contiguous()},
        work / "logits.safetensors",
    )
    (work / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "--trust" in sys.argv)
