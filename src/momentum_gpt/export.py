"""Write a trained model as a folder of Hugging Face's transformers, and prove that it is the same model there.

    python -m momentum_gpt.export run=runs/vanilla output=exports/vanilla
    python -m momentum_gpt.export run=runs/momentum/checkpoints/step_00000320 output=exports/momentum

A vanilla model of GPT-2's shape becomes a GPT-2. Every other one has its modelling code in the folder and is loaded with
trust_remote_code=True. Needs transformers: pip install transformers
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.hf_tokenizer import fuzzed_texts, write_tokenizer
from momentum_gpt.data.tokenizer import (
    ByteLevelTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_file,
)
from momentum_gpt.models import GPT, load_model
from momentum_gpt.models.hf.write import (
    Checked,
    Text,
    check_export,
    is_gpt2,
    require_transformers,
    write_model,
)
from momentum_gpt.models.weights import model_folder

N_TEXTS = 500
"""Fuzzed texts that both tokenizers must split alike."""


@dataclass
class ExportConfig:
    run: str
    """A run, checkpoint or model folder."""
    output: str
    """The folder to write, which must not exist yet."""


def export(config: ExportConfig) -> None:
    output = Path(config.output)
    if output.exists():
        raise UserError(
            f"output={config.output!r} exists, and nothing is overwritten: take another, or remove it"
        )
    require_transformers()
    source, model = model_folder(Path(config.run)), load_model(config.run)
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        checked = write_and_check(staging, source, model)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    kind = "a GPT-2" if is_gpt2(model) else "load it with trust_remote_code=True"
    print(
        f"{output}: {kind}; checked in transformers {checked.transformers}: logits up to {checked.largest_logit:.2g} differ by "
        f"{checked.logit_difference:.1e} at most, {checked.n_greedy} greedy tokens are the same"
    )


def write_and_check(folder: Path, source: Path, model: GPT) -> Checked:
    tokenizer = tokenizer_of(source)
    texts: dict[str, Text] = {}
    eos_id = pad_id = model.document_end
    if model.document_end is not None:
        print("trained with documents kept apart; in transformers each row is one document")
    if tokenizer is None:
        print(f"{source} has no tokenizer: the export has none either")
    else:
        eos_id, pad_id = (
            tokenizer.eos_id,
            write_tokenizer(folder, tokenizer, tokenizer_file(source), model.config.seq_len),
        )
        if not isinstance(tokenizer, ByteLevelTokenizer):
            shutil.copy(
                tokenizer_file(source), folder
            )  # so that our own load_tokenizer reads it back
        ids = {text: tokenizer.encode(text) for text in fuzzed_texts(tokenizer.pieces, N_TEXTS)}
        texts = {text: Text(its, tokenizer.decode(its)) for text, its in ids.items()}
    write_model(folder, model, eos_id, pad_id)
    return check_export(folder, model, eos_id, texts)


def tokenizer_of(folder: Path) -> Tokenizer | None:
    has_one = any((folder / kind.file_name).is_file() for kind in (Tokenizer, ByteLevelTokenizer))
    return load_tokenizer(folder) if has_one else None


main = Command(export, ExportConfig, "export")


if __name__ == "__main__":
    main()
