"""Ask `transformers` about an exported folder, in a process that loads nothing of this project.

    python answers.py FOLDER WORK [--trust]

Reads WORK/questions.json, and writes WORK/answers.json and WORK/logits.safetensors. Their fields
are those of `Questions` and `Answers` in check.py.
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
"""Tokens decoded without a cache, at most: each of them costs a whole pass."""


def greedy(
    model: Any, prompts: list[list[int]], max_new_tokens: int, use_cache: bool
) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, decoded as one batch padded on the left."""
    T = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), T, dtype=torch.long)
    mask = torch.zeros(len(prompts), T, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, T - len(prompt) :] = torch.tensor(prompt)
        mask[row, T - len(prompt) :] = 1

    options = {"do_sample": False, "max_new_tokens": max_new_tokens, "use_cache": use_cache}
    return model.generate(tokens, attention_mask=mask, **options)[:, T:].tolist()


def text_answers(folder: str, texts: list[str], trust: bool) -> dict[str, Any]:
    """Return what the folder's tokenizer makes of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    decoded = [tokenizer.decode(row) for row in ids]
    return {"ids": ids, "decoded": decoded, "eos_id": tokenizer.eos_token_id}


@torch.no_grad()
def main(folder: str, work: Path, trust: bool) -> None:
    """Answer the questions in the folder `work`."""
    questions = json.loads((work / "questions.json").read_text(encoding="utf-8"))
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, trust_remote_code=trust, dtype=torch.float32).eval()

    answers: dict[str, Any] = {"transformers": transformers.__version__}
    if questions["texts"]:
        answers |= text_answers(folder, questions["texts"], trust)

    prompts = questions["prompts"]
    n = questions["max_new_tokens"]
    cached = greedy(model, prompts, n, use_cache=True)
    recomputed = greedy(model, prompts, min(n, RECOMPUTED), use_cache=False)
    answers["greedy"] = [*cached, *recomputed]

    logits = model(torch.tensor(questions["tokens"])).logits
    save_file({"logits": logits.contiguous()}, work / "logits.safetensors")
    (work / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "--trust" in sys.argv)
