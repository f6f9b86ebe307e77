"""The door of every command: Hydra composes once, we check, and plain dataclasses come out. The only file with Hydra."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from typing import TypeVar, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import conf_folder

Config = TypeVar("Config")

QUIET = [
    "hydra.run.dir=.",
    "hydra.sweep.dir=multirun",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra/help=ours",
]
"""Hydra leaves no folders and no logs of its own, but for the list of a sweep; a run's folder holds its config."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""

HELP = """${hydra.help.header}
Groups of options (group=choice):

$APP_CONFIG_GROUPS
Options (option=value) and their values now:

$CONFIG
"""

SHORT = {"data": "data.path", "text": "text.source"}
"""What may be written for what, where a command has it."""


def run_command(
    act: Callable[[Config], int | None],
    schema: type[Config],
    name: str,
    literal: tuple[str, ...] = (),
) -> None:
    """Compose `conf/NAME.yaml` with the command line, check it against `schema`, run `act`, exit.

    A mistake of the user's becomes one line on stderr and exit code 2.

    Args:
        act: the command.
        schema: its dataclass of options.
        name: its YAML file.
        literal: options of type str whose values Hydra does not parse.
    """
    literals = take_literals(literal)
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=schema)
    manual = sys.modules[act.__module__].__doc__
    store.store(
        group="hydra/help",
        name="ours",
        node={"app_name": name, "header": manual, "footer": "", "template": HELP},
    )
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # exceptions come to us instead of being printed in several lines
    )
    overrides = [
        argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")
    ]
    flags = [
        argument for argument in sys.argv[1:] if argument not in overrides
    ]  # argparse wants them in one piece
    sys.argv[1:] = [*flags, *(lengthen(override, schema) for override in overrides), *QUIET]

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)
    def composed(raw: DictConfig) -> None:
        try:
            code = act(replace(typed(raw, schema), **literals))  # type: ignore[type-var]
        except (UserError, OmegaConfBaseException) as error:
            code = refuse(error, schema)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        if code:
            sys.exit(code)

    try:
        composed()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(refuse(error, schema))


def take_literals(options: tuple[str, ...]) -> dict[str, str]:
    """Remove `option=value` from the command line for these options, and return the values."""
    values = {}
    remaining = []
    for argument in sys.argv[1:]:
        option, equals, value = argument.partition("=")
        if equals and option in options:
            values[option] = value
        else:
            remaining.append(argument)
    sys.argv[1:] = remaining
    return values


def is_sweep() -> bool:
    """Whether this is one job of a `--multirun`, after which others follow in this process."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def refuse(error: Exception, schema: type) -> int:
    """Say what is wrong; returns the exit code of a mistake of the user's."""
    print(f"error: {one_line(error, schema)}", file=sys.stderr)
    return 2


def lengthen(argument: str, schema: type) -> str:
    key, equals, value = argument.partition("=")
    long = SHORT.get(key, key)
    return (long if long in option_names(schema) else key) + equals + value


def typed(raw: DictConfig, schema: type[Config]) -> Config:
    """The composed config as an object of `schema`, checked again: Hydra lets `+unknown=1` and unfilled `???` pass."""
    plain = OmegaConf.to_container(raw, resolve=True)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    assert isinstance(config, schema)
    return config


def one_line(error: Exception, schema: type) -> str:
    """The error with the value, the rule and the remedy, without line breaks and without Hydra's hints for its authors."""
    if isinstance(error, UserError):
        return str(error)
    if unknown := re.search(r"Could not override '([^']*)'", str(error)):
        return no_such_option(unknown[1], schema)
    text = str(error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error)
    key = re.search(r"full_key: (\S+)", text)
    if key and re.search(r"Key '[^']*' (is not in struct|not in '\w+')", text):
        return no_such_option(key[1], schema)
    if (
        missing := key
        if "missing mandatory value" in text
        else re.search(r"Missing mandatory value: (\S+)", text)
    ):
        return f"{missing[1]} is not set: add {missing[1]}=... to the command"
    if key:
        return f"{key[1]}: {text.splitlines()[0]}"
    return " ".join(
        line.strip()
        for line in text.splitlines()
        if line.strip() and "HYDRA_FULL_ERROR" not in line
    )


def no_such_option(key: str, schema: type) -> str:
    close = difflib.get_close_matches(key, list(option_names(schema)), n=1, cutoff=0.6)
    return f"there is no option {key!r}{f': did you mean {close[0]!r}?' if close else ';'} --help shows them all"


def option_names(schema: type, prefix: str = "") -> Iterator[str]:
    """Every option of a dataclass and of those inside it, as it is written on the command line."""
    for name, kind in get_type_hints(schema).items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from option_names(kind, f"{prefix}{name}.")
