"""Export a trained model to Hugging Face's transformers, and check the export.

    momentum-gpt export run=runs/vanilla output=exports/vanilla
    momentum-gpt export run=runs/a/checkpoints/step_00000320 output=exports/a

A vanilla model of GPT-2's shape becomes a GPT-2. Every other model has its
modelling code in the folder and is loaded with trust_remote_code=True. Needs
transformers: pip install transformers
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import progress_bar

if TYPE_CHECKING:
    from momentum_gpt.data.tokenizer import Tokenizer
    from momentum_gpt.models import GPT
    from momentum_gpt.models.hf.check import Checked, TokenizedText

N_TEXTS = 500
"""Random texts that both tokenizers must split into the same tokens."""


@dataclass
class ExportConfig:
    run: str
    """A run folder, whose newest checkpoint is exported; a checkpoint folder; or a model folder."""
    output: str
    """The folder to write; it must not exist yet."""


def export(config: ExportConfig) -> None:
    """Write the folder, check it, and only then give it its name.

    Raises:
        UserError: the output exists, the model cannot be exported, or the check found a difference.
    """
    # Imported here, so that --help does not load torch.
    from momentum_gpt.models import load_model
    from momentum_gpt.models.hf.check import require_transformers
    from momentum_gpt.models.hf.write import is_gpt2
    from momentum_gpt.models.weights import model_folder

    output = Path(config.output)
    if output.exists():
        raise UserError(
            f"output={config.output!r} exists, and nothing is overwritten: "
            "choose another folder, or remove this one"
        )
    require_transformers()
    source = model_folder(Path(config.run))
    model = load_model(config.run)

    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        # A fresh process imports transformers and decodes with it, which takes many seconds.
        with progress_bar("writing, and checking in transformers", None):
            checked = write_and_check(staging, source, model)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)

    kind = "a GPT-2" if is_gpt2(model) else "load it with trust_remote_code=True"
    print(
        f"{output}: {kind}; checked in transformers {checked.transformers}: "
        f"logits up to {checked.largest_logit:.2g} differ by {checked.logit_difference:.1e} "
        f"at most, and {checked.n_greedy} greedy tokens are the same"
    )


def write_and_check(folder: Path, source: Path, model: GPT) -> Checked:
    """Write the export into an existing folder and compare it with the model.

    Args:
        folder: where to write.
        source: the model folder, which may hold a tokenizer.
        model: the model in it.

    Raises:
        UserError: see `write_tokenizer`, `write_model` and `check_export`.
    """
    from momentum_gpt.models.hf.check import check_export
    from momentum_gpt.models.hf.write import write_model

    eos_id = pad_id = model.document_end
    if model.document_end is not None:
        print("documents were kept apart in training; in transformers each row is one document")

    texts: dict[str, TokenizedText] = {}
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        print(f"{source} has no tokenizer, so the export has none either")
    else:
        eos_id = tokenizer.eos_id
        pad_id = tokenizer.pad_id
        export_tokenizer(folder, tokenizer, source, model.config.seq_len)
        texts = tokenized_texts(tokenizer)
    write_model(folder, model, eos_id, pad_id)
    return check_export(folder, model, eos_id, texts)


def tokenizer_of(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a model folder, if it has one."""
    from momentum_gpt.data.tokenizer import ByteLevelTokenizer, Tokenizer, load_tokenizer

    for kind in (Tokenizer, ByteLevelTokenizer):
        if (folder / kind.file_name).is_file():
            return load_tokenizer(folder)
    return None


def export_tokenizer(folder: Path, tokenizer: Tokenizer, source: Path, seq_len: int) -> None:
    """Write the tokenizer as `transformers` loads it."""
    from momentum_gpt.data.hf_tokenizer import write_tokenizer
    from momentum_gpt.data.tokenizer import ByteLevelTokenizer, tokenizer_file

    file = tokenizer_file(source)
    write_tokenizer(folder, tokenizer, file, seq_len)
    if not isinstance(tokenizer, ByteLevelTokenizer):
        # So that our own load_tokenizer reads the same tokenizer from the export.
        shutil.copy(file, folder)


def tokenized_texts(tokenizer: Tokenizer) -> dict[str, TokenizedText]:
    """Return random texts with what the tokenizer makes of them."""
    from momentum_gpt.data.hf_tokenizer import fuzzed_texts
    from momentum_gpt.models.hf.check import TokenizedText

    texts = {}
    for text in fuzzed_texts(tokenizer.pieces, N_TEXTS):
        ids = tokenizer.encode(text)
        texts[text] = TokenizedText(ids, tokenizer.decode(ids))
    return texts


main = Command(export, ExportConfig, "export")


if __name__ == "__main__":
    main()
