"""A trained model as a folder of `transformers`.

A model that is a GPT-2 is written as one. Every other model gets a copy of the modelling code,
hf/modeling_momentum_gpt.py, and in config.json what that code shall compute in each layer, as the
attention variant describes it (`Variant.hf_form`).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_json
from momentum_gpt.models.attention import Variant
from momentum_gpt.models.gpt import GPT
from momentum_gpt.models.hf.form import HFForm
from momentum_gpt.models.hf.names import GPT2, OWN, gpt2_modules, is_transposed

CODE = "modeling_momentum_gpt"
"""The module that is copied into the folder."""


def variants_of(model: GPT) -> list[Variant]:
    """Return the modules of the attention variant, one for each layer."""
    return [module for module in model.modules() if isinstance(module, Variant)]


def hf_forms(model: GPT) -> list[HFForm]:
    """Return what the modelling code computes in each layer to be this model.

    Raises:
        UserError: the attention variant has no Hugging Face form.
    """
    forms = []
    for variant in variants_of(model):
        form = variant.hf_form()
        if form is None:
            raise UserError(
                f"attention {model.attention['name']!r} cannot be exported: it has no Hugging "
                f"Face form; define hf_form in {type(variant).__name__} (models/attention.py)"
            )
        forms.append(form)
    return forms


def is_gpt2(model: GPT) -> bool:
    """Return whether the GPT-2 of `transformers` computes the same function."""
    config = model.config
    shape = (config.positions, config.bias, config.activation, config.scale_embedding)
    if shape != ("learned", True, "gelu_tanh", False):
        return False

    plain = HFForm("softmax")
    return all(variant.hf_form() == plain for variant in variants_of(model))


def write_model(folder: Path, model: GPT, eos_id: int | None, pad_id: int | None) -> None:
    """Write config.json, generation_config.json, model.safetensors and the modelling code.

    A GPT-2 needs no modelling code and gets none.

    Args:
        folder: an existing folder.
        model: the model to write.
        eos_id: the token that ends a document, and so begins the next one.
        pad_id: the token for padding.

    Raises:
        UserError: the attention variant has no Hugging Face form.
    """
    if is_gpt2(model):
        config = gpt2_config(model)
        weights = gpt2_weights(model)
    else:
        config = own_config(model)
        weights = dict(model.named_parameters())
        source = Path(__file__).with_name(f"{CODE}.py")
        shutil.copyfile(source, folder / source.name)

    if model.document_end is not None:
        # Only `load_model` reads this: in `transformers` each row is one document.
        config["document_end"] = model.document_end

    special_tokens = {"bos_token_id": eos_id, "eos_token_id": eos_id}
    config |= special_tokens
    config["dtype"] = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    config["tie_word_embeddings"] = True
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", special_tokens | {"pad_token_id": pad_id})

    contiguous = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def gpt2_config(model: GPT) -> dict[str, Any]:
    """Return the content of a GPT-2's config.json."""
    config = model.config
    return {
        "model_type": GPT2,
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.seq_len,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "activation_function": "gelu_new",
        "initializer_range": config.init_std,
        # We train without dropout; the default of `transformers` is 0.1.
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def gpt2_weights(model: GPT) -> dict[str, Tensor]:
    """Return the parameters by GPT-2's names and in GPT-2's layout."""
    names = dict(gpt2_modules(model.config.n_layers))
    weights = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        gpt2_name = names[module]
        turned = kind == "weight" and is_transposed(gpt2_name)
        weights[f"transformer.{gpt2_name}.{kind}"] = parameter.T if turned else parameter
    return weights


def own_config(model: GPT) -> dict[str, Any]:
    """Return the content of config.json for the modelling code.

    `mixing` is what that code reads: the form of each layer. `attention`, the variant's name and
    options, is for `load_model` alone.
    """
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
        "attention": model.attention,
        "mixing": [asdict(form) for form in hf_forms(model)],
    }
