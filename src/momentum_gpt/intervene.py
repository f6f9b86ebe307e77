"""Find out which parts of attention the answers of a recall model depend on.

    momentum-gpt intervene 'runs=[runs/recall/momentum_0.5-rotary-seed0]'
    momentum-gpt intervene 'runs=[runs/a,runs/b,runs/c]'
    momentum-gpt intervene 'runs=[runs/a]' checkpoints=all output=over-training

One part at a time, the softmax part of a head or what the variant adds to it,
is taken out, or exchanged for the same part of another sequence: a twin, with
the same keys but each other's values, whose answers show what went through the
part; or, as the control, an unrelated one. With several runs, such as the seeds
of a variant, means are shown with 95% intervals over runs; with one, over
sequences.

The output folder gets the table as table.csv and a page, interventions.html,
with a heat map by layer and head for each part and, with checkpoints=all,
figures over training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import TrainConfig, read_config, require
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from momentum_gpt.analysis.intervention import Place
    from momentum_gpt.analysis.intervention_results import Row


@dataclass
class InterveneConfig:
    runs: list[str] = field(default_factory=list)
    """Folders of runs on the task `recall`, of one shape and variant: its seeds, for example."""
    checkpoints: str = "latest"
    """latest | all (those that are still on disk)."""
    sequences: int = 256
    """Held-out sequences."""
    output: str = "interventions"
    """Folder of the results."""

    def __post_init__(self) -> None:
        require(bool(self.runs), "runs", self.runs, "at least one run")
        known = self.checkpoints in ("latest", "all")
        require(known, "checkpoints", self.checkpoints, "latest or all")
        require(self.sequences >= 2, "sequences", self.sequences, "at least 2")


def intervene(config: InterveneConfig) -> None:
    """Measure, print the table, and write the files."""
    from momentum_gpt.core.terminal import progress_bar

    by_step = folders_by_step(config)
    trained = config_of(by_step)
    rows: list[Row] = []
    with progress_bar("models", sum(map(len, by_step.values()))) as advance:
        for step, folders in by_step.items():
            rows += measured_rows(step, folders, config.sequences, advance)
    write_results(config, trained.variant, rows)


def folders_by_step(config: InterveneConfig) -> dict[int, list[Path]]:
    """Return the model folders of all runs at each step, the first step first.

    Raises:
        UserError: there is no step of which all runs have a checkpoint.
    """
    from momentum_gpt.core.manifest import read_checkpoint_manifest
    from momentum_gpt.evaluation.checkpoints import model_folders

    by_step: dict[int, list[Path]] = {}
    for run in config.runs:
        for folder in model_folders(Path(run), config.checkpoints):
            step = read_checkpoint_manifest(folder.parent).step
            by_step.setdefault(step, []).append(folder)

    # Intervals are over runs: a step of which only some have a checkpoint has none to compare with.
    common = {step: of for step, of in sorted(by_step.items()) if len(of) == len(config.runs)}
    left_out = ", ".join(f"{step:,}" for step in sorted(by_step.keys() - common.keys()))
    if not common:
        raise UserError(
            f"runs: their checkpoints are of different steps ({left_out}): give runs of the same "
            "length, one run alone, or checkpoints=all"
        )
    if left_out:
        print(f"left out, not all runs have a checkpoint: step {left_out}", flush=True)
    return common


def config_of(by_step: dict[int, list[Path]]) -> TrainConfig:
    """Return the config of the first run; the others must be its seeds.

    Raises:
        UserError: a run has another task, shape or variant.
    """
    runs = dict.fromkeys(folder.parents[2] for of_step in by_step.values() for folder in of_step)
    configs = {run: read_config(run / "config.yaml") for run in runs}
    first, *others = configs.items()
    for run, trained in configs.items():
        if trained.task.kind != "recall":
            raise UserError(
                f"run={str(run)!r} was not trained on the task recall: train one with "
                "experiment=recall, or use momentum-gpt recall"
            )
    for run, trained in others:
        if identity(trained) != identity(first[1]):
            raise UserError(
                f"runs: {run} ({trained.variant}) and {first[0]} ({first[1].variant}) differ in "
                "task, shape or variant: give the seeds of one variant, and others in a "
                "command of their own"
            )
    return first[1]


def identity(trained: TrainConfig) -> tuple[object, ...]:
    """Return what the runs of one table share."""
    return trained.task, trained.model, trained.attention


def measured_rows(
    step: int, folders: list[Path], n: int, advance: Callable[[float], None]
) -> list[Row]:
    """Return the rows of a step.

    Args:
        step: of the checkpoints.
        folders: the model of each run.
        n: sequences.
        advance: called after each model.
    """
    from momentum_gpt.analysis.intervention_results import rows_of

    of_runs = []
    for folder in folders:
        of_runs.append(measure(folder, n))
        advance(1)
    return rows_of(step, of_runs)


def measure(folder: Path, n: int) -> dict[Place | None, dict[str, np.ndarray]]:
    """Return what is measured of a model, over sequences, by part and measure.

    The heads of a layer are numbered by their attention to the token before, the most first: which
    head of a model it is that looks there is chance. None stands for the model as it is.
    """
    from momentum_gpt.analysis import intervention
    from momentum_gpt.data.synthetic_tasks import SyntheticTask
    from momentum_gpt.models import load_model

    trained = read_config(folder.parents[2] / "config.yaml")
    model = load_model(folder).eval()
    sequences = intervention.draw(SyntheticTask(trained.task, trained.model.seq_len), n)
    previous = intervention.attention_to_previous(model, sequences)  # (layers, n, H)
    rank = previous.mean(1).argsort(descending=True).argsort()  # (layers, H)

    right = intervention.accuracy(model, sequences).numpy()
    found: dict[Place | None, dict[str, np.ndarray]] = {None: {"without": right, "own": right}}
    for effect in intervention.effects_on(model, sequences):
        measured = {
            "without": effect.out,
            "twin's": effect.followed,
            "own": effect.exchanged,
            "unrelated": effect.unrelated,
        }
        layer, head, part = effect.place
        place = effect.place
        if layer is not None and head is not None:
            place = place._replace(head=int(rank[layer, head]))
            if part == "softmax":
                measured["previous"] = previous[layer, :, head]
        found[place] = {name: values.numpy() for name, values in measured.items()}
    return found


def write_results(config: InterveneConfig, variant: str, rows: list[Row]) -> None:
    """Print the table and write the files."""
    from momentum_gpt.analysis.intervention_page import interventions_page
    from momentum_gpt.analysis.intervention_results import LEGEND, results_csv, results_table
    from momentum_gpt.core.files import write_text

    n_runs = len(config.runs)
    title = f"{variant}, {n_runs} run(s), {config.sequences} sequences"
    print(results_table(rows, title).as_text(), "", *LEGEND, sep="\n")

    units = f"{n_runs} runs" if n_runs > 1 else f"{config.sequences} sequences"
    page = interventions_page(variant, rows, units)
    for name, content in {"table.csv": results_csv(rows), "interventions.html": page}.items():
        path = Path(config.output) / name
        write_text(path, content)
        print(f"written: {path}")


main = Command(intervene, InterveneConfig, "intervene")


if __name__ == "__main__":
    main()
