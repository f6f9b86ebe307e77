"""The entry point of every command: Hydra composes the options once, and they are checked.

What a command gets is a plain dataclass. The only folder that imports Hydra is this one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.cli.help import help_text
from momentum_gpt.cli.launchers import GO_ON, is_submitit, wait_for_all
from momentum_gpt.cli.mistakes import (
    CommandLine,
    check_choices,
    check_flags,
    check_missing,
    one_line,
)
from momentum_gpt.cli.options import option_names
from momentum_gpt.core import stopping
from momentum_gpt.core.disk import WRITING_ONLY, cannot_write
from momentum_gpt.core.errors import JobsFailedError, MachineError, UserError
from momentum_gpt.core.files import conf_folder
from momentum_gpt.core.stopping import INTERRUPTED, STOPPED, StoppedError

Config = TypeVar("Config")

QUIET = [
    "hydra.run.dir=.",
    "hydra.sweep.dir=multirun",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
]
"""Hydra leaves no folders or logs of its own, except for the list of a sweep's jobs."""

SHORT = {"data": "data.path", "text": "text.source"}
"""Short names of options, in the commands that have the long one."""


FAILED_JOBS: list[str] = []
"""The jobs of this sweep that failed, with their options."""


class JobFailedError(Exception):
    """A job of a sweep failed; Hydra goes on with the others, and raises this after the last.

    Args:
        job: its options and what became of it.
    """

    def __init__(self, job: str) -> None:
        super().__init__(job)
        # Also when it comes as a result, pickled, from a job that ran in a process of its own.
        FAILED_JOBS.append(job)


@dataclass(frozen=True)
class Command:
    """A command: called without arguments, it reads the command line, runs, and exits.

    Args:
        act: what the command does with its options; returns the exit code, None for 0.
        schema: the dataclass of its options.
        name: its file in conf/, without .yaml.
        literal: options whose text is taken as it is typed, whatever characters it has.
        value: what a sweep may look for the smallest of, after `act` has returned 0.
    """

    act: Callable[[Any], int | None]
    schema: type
    name: str
    literal: tuple[str, ...] = ()
    value: Callable[[Any], float] | None = None

    def __call__(self) -> None:
        """Compose `conf/NAME.yaml` with the command line, check the options, act, and exit.

        A mistake of the user becomes one line on stderr and exit code 2, and what the machine
        cannot do, such as writing to a full disk, one line and exit code 1.
        """
        arguments = sys.argv[1:]
        # Before Hydra, whose own help shows the composed YAML without a word of explanation.
        if {"-h", "--help", "help"} & set(arguments):
            manual = sys.modules[self.act.__module__].__doc__ or ""
            print_help(help_text(self.name, self.schema, manual))
            return

        literals, arguments = take_literals(arguments, self.literal)
        typed_in = CommandLine(self.name, self.schema, tuple(arguments))
        name = f"hydra.job.name={self.name}"  # as SLURM shows the jobs of a sweep
        sys.argv[1:] = [*hydra_arguments(arguments, self.schema), name]
        # Exceptions come to us, instead of being printed in several lines.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        ConfigStore.instance().store(name=f"{self.name}_schema", node=self.schema)

        try:
            check_flags(typed_in)
            check_choices(typed_in)
            if is_submitit(arguments):
                wait_for_all(JobFailedError)
            self._compose_and_act(typed_in, literals)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            sys.exit(refuse(error, typed_in))
        except JobFailedError:  # the first one, after the last job
            sys.exit(refuse(JobsFailedError(FAILED_JOBS), typed_in))
        except KeyboardInterrupt:  # outside of `_run`
            if is_submitit(arguments):
                print(GO_ON, file=sys.stderr)
            sys.exit(INTERRUPTED)

    def _compose_and_act(self, typed_in: CommandLine, literals: dict[str, str]) -> None:
        """Let Hydra call us with the composed options: once, or once for each job of a sweep."""
        decorate = hydra.main(
            version_base="1.3",
            config_path=str(conf_folder()),
            config_name=self.name,
        )

        @decorate
        def composed(raw: DictConfig) -> float | None:
            code = self._run(raw, typed_in, literals)
            if code:
                end(code)
            return self.value(typed(raw, self.schema)) if self.value and is_sweep() else None

        composed()

    def _run(self, raw: DictConfig, typed_in: CommandLine, literals: dict[str, str]) -> int | None:
        try:
            config: Any = typed(raw, self.schema)
            return self.act(replace(config, **literals) if literals else config)
        except (UserError, MachineError, OmegaConfBaseException) as error:
            return refuse(error, typed_in)
        except StoppedError as error:
            print("stopped: the same command goes on with what is left", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # `| head` has seen enough
            close_stdout()
            return 0
        except OSError as error:
            if error.errno not in WRITING_ONLY:
                raise
            path = Path(error.filename2 or error.filename or "a file")
            return refuse(cannot_write(path, error.errno), typed_in)


def declared(module: ModuleType) -> Command | None:
    """Return the command that a module's `main` is, if it is one of ours."""
    main = getattr(module, "main", None)
    return main if isinstance(main, Command) else None


def is_sweep() -> bool:
    """Return whether this is one job of a `--multirun`, which others follow in this process."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def end(code: int) -> None:
    """End a command that did not succeed, or this job of a sweep.

    Raises:
        JobFailedError: the sweep goes on with its other jobs.
    """
    if not is_sweep() or (code in STOPPED and is_launched_here()):
        sys.exit(code)
    if code in STOPPED:
        with suppress(Exception):  # it is not started again
            stopping.pass_on()
    raise JobFailedError(f"{' '.join(typed_options())} (exit code {code})")


def is_launched_here() -> bool:
    """Return whether the jobs of this sweep run one after the other, in one process."""
    return str(HydraConfig.get().launcher._target_).endswith(".BasicLauncher")


def typed_options() -> list[str]:
    """Return the options of this command, or of this job of a sweep, as they were typed."""
    return list(HydraConfig.get().overrides.task)


def print_help(text: str) -> None:
    """Print, unless the reader, such as `head`, has seen enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        close_stdout()


def close_stdout() -> None:
    """Let Python's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def take_literals(arguments: list[str], names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Return the literal options' values by name, and the other arguments.

    Hydra never sees these values, so no character of them has a meaning.
    """
    literals: dict[str, str] = {}
    others: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name in names:
            literals[name] = value
        else:
            others.append(argument)
    return literals, others


def hydra_arguments(arguments: list[str], schema: type) -> list[str]:
    """Return the command line for Hydra: flags first, short names written out, and our settings."""
    flags: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        # Hydra's parser wants the overrides in one piece.
        is_flag = argument.startswith("-") or "=" not in argument
        (flags if is_flag else overrides).append(argument)
    written_out = [write_out(override, schema) for override in overrides]
    return [*flags, *written_out, *QUIET]


def write_out(override: str, schema: type) -> str:
    """Return the override with its option's whole name: `data=DIR` is short for `data.path=DIR`."""
    name, equals, value = override.partition("=")
    whole = SHORT.get(name, name)
    known = whole in option_names(schema)
    return (whole if known else name) + equals + value


def typed(raw: DictConfig, schema: type[Config]) -> Config:
    """Return the composed options as an object of `schema`.

    They are checked again: Hydra lets `+unknown=1` and missing values (`???`) pass.
    """
    check_missing(raw)
    plain = OmegaConf.to_container(raw, resolve=True)
    # Merging into the bare schema is what refuses an option that it does not have.
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    assert isinstance(config, schema)
    return config


def refuse(error: Exception, typed_in: CommandLine) -> int:
    """Print what is wrong; return the exit code: 2 for a mistake of the user, else 1."""
    print(f"error: {one_line(error, typed_in)}", file=sys.stderr)
    return 1 if isinstance(error, MachineError) else 2
