"""The door of every command: Hydra composes once, we check, and plain dataclasses come out. The only file with Hydra."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.errors import UserError

Config = TypeVar("Config")

CONF = Path(__file__).resolve().parents[2] / "conf"

QUIET = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]
"""Hydra leaves no folders and no logs of its own; a run's folder holds its config."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""

SHORT = {"data": "data.path", "deepspeed.stage": "deepspeed.zero_optimization.stage"}
"""What may be written for what."""


def run(act: Callable[[Config], int | None], schema: type[Config], name: str) -> None:
    """Compose `conf/NAME.yaml` with the command line, check it against the dataclass `schema`, run `act`, and exit.

    A mistake of the user's becomes one line on stderr and exit code 2.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed in several lines
    sys.argv[1:] = [*QUIET, *(lengthen(argument) for argument in sys.argv[1:])]

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def composed(raw: DictConfig) -> None:
        try:
            code = act(typed(raw, schema))
        except (UserError, OmegaConfBaseException) as error:
            code = refuse(error, schema)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code:
            sys.exit(code)

    try:
        composed()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(refuse(error, schema))


def refuse(error: Exception, schema: type) -> int:
    """Say what is wrong; returns the exit code of a mistake of the user's."""
    print(f"error: {one_line(error, schema)}", file=sys.stderr)
    return 2


def lengthen(argument: str) -> str:
    key, equals, value = argument.partition("=")
    return SHORT.get(key, key) + equals + value


def typed(raw: DictConfig, schema: type[Config]) -> Config:
    """The composed config as an object of `schema`, checked again: Hydra lets `+unknown=1` and unfilled `???` pass."""
    plain = OmegaConf.to_container(raw, resolve=True)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    assert isinstance(config, schema)
    return config


def one_line(error: Exception, schema: type) -> str:
    """The error with the value, the rule and the remedy, without line breaks and without Hydra's hints for its authors."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException | UserError) else error
    text = str(error)
    if isinstance(cause, UserError):
        return str(cause)
    if key := re.search(r"Key '([^']*)' (?:is not in struct|not in '\w+')", text):
        path = re.search(r"full_key: (\S+)", text)
        return f"there is no option {(path or key)[1]!r}{did_you_mean((path or key)[1], schema)}; --help shows them all"
    if missing := re.search(r"missing mandatory value: (\w+)\s+full_key: (\S+)", text) or re.search(r"()Missing mandatory value: (\S+)", text):
        return f"{missing[2]} is not set: add {missing[2]}=... to the command"
    if wrong := re.search(r"full_key: (\S+)", text):
        return f"{wrong[1]}: {str(cause).splitlines()[0]}"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return " ".join(lines)


def did_you_mean(key: str, schema: type) -> str:
    known = list(_keys(OmegaConf.structured(schema)))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else ""


def _keys(node: Any, prefix: str = "") -> Any:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        if isinstance(child := node._get_node(key), DictConfig):
            inner = child if not child._is_missing() else _structured(child)
            if inner is not None:
                yield from _keys(inner, f"{path}.")


def _structured(node: DictConfig) -> DictConfig | None:
    kind = node._metadata.ref_type
    return OmegaConf.structured(kind) if hasattr(kind, "__dataclass_fields__") else None
