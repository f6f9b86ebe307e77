"""Our models inside lm-eval, with what its requests have in common computed once. The only file that imports lm_eval."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from momentum_gpt.core import distributed
from momentum_gpt.core.config import Sampling
from momentum_gpt.data import Texts, load_tokenizer
from momentum_gpt.evaluation.few_shot.shared_prefix import Request, score_and_choose
from momentum_gpt.evaluation.perplexity import nats_of
from momentum_gpt.evaluation.targets import Targets, first_documents
from momentum_gpt.models import load_model
from momentum_gpt.models.decoding import generate
from momentum_gpt.models.weights import model_folder

HEAD = 64
"""Contexts whose first tokens are the same are taken to have a prefix in common."""

NEW_TOKENS = 256
"""Generated where a task does not say how many."""


@register_model("momentum_gpt")
class NativeLM(TemplateLM):
    """A run, checkpoint or model folder of ours, or a GPT-2 or XGLM of `transformers` with its tokenizer.

    Args:
        run: the folder.
        tokens_per_forward: bounds the memory.
        add_bos_token: contexts begin with the end of a document, as in training and in our own few-shot tasks.
    """

    def __init__(
        self, run: str, tokens_per_forward: int = 16384, add_bos_token: bool = False, **_: Any
    ) -> None:
        super().__init__()
        self.model = load_model(run, distributed.local_device())
        self.tokenizer = load_tokenizer(model_folder(Path(run)))
        self.tokens_per_forward = int(tokens_per_forward)
        self.seq_len = self.model.config.seq_len
        self.beginning = [self.tokenizer.eos_id] if add_bos_token else []

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return ([] if add_special_tokens is False else self.beginning) + self.tokenizer.encode(
            string
        )

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of each continuation; of a request longer than the context its end is taken, as lm-eval's own models do."""
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        pairs = []
        for _cached, context, continuation in requests:
            kept = (context + continuation)[-(self.seq_len + 1) :]
            pairs.append((kept[: -len(continuation)], list(continuation)))
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, (context, _continuation) in enumerate(pairs):
            groups.setdefault(tuple(context[:HEAD]), []).append(place)
        for places in groups.values():
            prefix, found = shared([pairs[place] for place in places])
            scores, chosen = score_and_choose(self.model, prefix, found, self.tokens_per_forward)
            for place, score, likeliest in zip(places, scores, chosen, strict=True):
                results[place] = float(score), bool(likeliest)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each behind the end of a document: windows of the context, the last reaching back to be full."""
        texts = [request.args[0] for request in requests]
        stream = Texts(texts, self.tokenizer, sys.maxsize, "the requests")
        targets = Targets(stream, *first_documents(stream, len(stream)), apart=True)
        nats = nats_of(
            self.model,
            targets,
            targets.windows(self.seq_len),
            self.seq_len,
            self.tokens_per_forward,
        )
        of_document = iter(np.bincount(targets.documents, nats).tolist())
        return [-next(of_document) if text else 0.0 for text in texts]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy, to the first of the texts in `until`."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        n_new = min(options.get("max_gen_toks", NEW_TOKENS), self.seq_len - 1)
        prompt = (self.tokenizer.encode(context) or [self.eot_token_id])[-(self.seq_len - n_new) :]
        ids: list[int] = []
        for (token,) in generate(
            self.model, [prompt], n_new, Sampling(temperature=0), frozenset([self.eot_token_id])
        ):
            ids += [token] if token is not None and token != self.eot_token_id else []
            text = self.tokenizer.decode(ids)
            ends = [place for stop in options.get("until", []) if (place := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return self.tokenizer.decode(ids)


def shared(pairs: list[tuple[list[int], list[int]]]) -> tuple[list[int], list[Request]]:
    """The tokens that all contexts begin with, short of a whole one, and the requests for the continuations."""
    contexts = [context for context, _ in pairs]
    first, last = min(contexts), max(contexts)
    most = min(map(len, contexts)) - 1
    n = next((i for i in range(most) if first[i] != last[i]), most)
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, context in enumerate(contexts):
        numbers.setdefault(tuple(context), []).append(number)
    requests = [
        Request(list(alike[n:]), [pairs[place][1] for place in places], places)
        for alike, places in numbers.items()
    ]
    return contexts[0][:n], requests
