"""Find out which parts of attention the answers of a recall model depend on.

    momentum-gpt intervene runs=[runs/recall/momentum_0.5-rotary-seed0]
    momentum-gpt intervene runs=[runs/a,runs/b,runs/c] output=parts.csv
    momentum-gpt intervene runs=[runs/a] checkpoints=all

One part at a time, the softmax part of a head or what the variant adds to it,
is taken out, or exchanged for the same part of another sequence: a twin, with
the same keys but each other's values, whose answers show what went through the
part; or, as the control, an unrelated one. With several runs, such as the seeds
of a variant, means are shown with 95% intervals over runs; with one, over
sequences.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momentum_gpt.cli import Command
from momentum_gpt.core.config import read_config, require
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from momentum_gpt.analysis.intervention import Place

HEAD = ["step", "layer", "head", "part", "previous", "without", "twin's", "own", "unrelated"]
"""The columns of the table."""

LEGEND = """\
head: by attention to the token before, the most first
previous: mean softmax weight of the token before
without: accuracy with the part taken out
twin's, own: with a twin's part, answers that are the twin's, and those that are right
unrelated: accuracy with the part of a sequence of other keys and values
"""


@dataclass
class InterveneConfig:
    runs: list[str] = field(default_factory=list)
    """Folders of runs on the task `recall`, of one shape and variant: its seeds, for example."""
    checkpoints: str = "latest"
    """latest | all (those that are still on disk)."""
    sequences: int = 256
    """Held-out sequences."""
    output: str | None = None
    """A CSV file for the table. null: none."""

    def __post_init__(self) -> None:
        require(bool(self.runs), "runs", self.runs, "at least one run")
        known = self.checkpoints in ("latest", "all")
        require(known, "checkpoints", self.checkpoints, "latest or all")
        require(self.sequences >= 2, "sequences", self.sequences, "at least 2")


def intervene(config: InterveneConfig) -> None:
    """Measure and print."""
    from momentum_gpt.core.terminal import table_text
    from momentum_gpt.evaluation.checkpoints import model_folders

    by_step: dict[int, list[Path]] = {}
    for run in config.runs:
        for folder in model_folders(Path(run), config.checkpoints):
            by_step.setdefault(step_of(folder), []).append(folder)

    rows = []
    for step, folders in sorted(by_step.items()):
        rows += rows_of(step, folders, config.sequences)
    print(table_text(f"{len(config.runs)} run(s), {config.sequences} sequences:", HEAD, rows))
    print(f"\n{LEGEND}")
    if config.output:
        with Path(config.output).open("w", newline="") as file:
            csv.writer(file).writerows([HEAD, *rows])


def rows_of(step: int, folders: list[Path], n: int) -> list[list[str]]:
    """Return the rows of a step: one for each part, after one for the model as it is."""
    measured = [measure(folder, n) for folder in folders]
    rows = []
    for place in sorted(measured[0], key=order):
        cells = [of_run[place] for of_run in measured]
        rows.append([f"{step:,}", *words(place), *map(summary, zip(*cells, strict=True))])
    return rows


def measure(folder: Path, n: int) -> dict[Place | None, list[np.ndarray]]:
    """Return what is measured of a model, by part: an array over sequences for each column.

    The heads of a layer are numbered by their attention to the token before, the most first: which
    head of a model it is that looks there is chance. None stands for the model as it is.
    """
    import numpy as np

    from momentum_gpt.analysis import intervention
    from momentum_gpt.data.synthetic_tasks import SyntheticTask
    from momentum_gpt.models import load_model

    run_dir = folder.parents[2]
    trained = read_config(run_dir / "config.yaml")
    if trained.task.kind != "recall":
        raise UserError(
            f"run={str(run_dir)!r} was not trained on the task recall: train one with "
            "experiment=recall, or use momentum-gpt recall"
        )
    model = load_model(folder).eval()
    sequences = intervention.draw(SyntheticTask(trained.task, trained.model.seq_len), n)
    previous = intervention.attention_to_previous(model, sequences)  # (layers, H)
    rank = previous.argsort(descending=True).argsort()  # (layers, H)

    nothing = np.full(n, np.nan)
    right = intervention.accuracy(model, sequences).numpy()
    found: dict[Place | None, list[np.ndarray]] = {None: [nothing, right, nothing, right, nothing]}
    for effect in intervention.effects_on(model, sequences):
        place = effect.place
        weight = nothing
        if place.layer is not None and place.head is not None:
            if place.part == "softmax":
                weight = np.full(n, float(previous[place.layer, place.head]))
            place = place._replace(head=int(rank[place.layer, place.head]))
        effects = (effect.out, effect.followed, effect.exchanged, effect.unrelated)
        found[place] = [weight, *(tensor.numpy() for tensor in effects)]
    return found


def order(place: Place | None) -> list[Any]:
    """Return what rows are sorted by: the softmax part first, all heads after each."""
    if place is None:
        return [0]
    layer, head = (math.inf if number is None else number for number in place[:2])
    return [1, place.part == "added", layer, head]


def words(place: Place | None) -> list[str]:
    """Return layer, head and part."""
    if place is None:
        return ["-", "-", "nothing"]
    layer, head = (("all" if number is None else str(number)) for number in place[:2])
    return [layer, head, place.part]


def summary(of_runs: tuple[np.ndarray, ...]) -> str:
    """Return the mean and its margin, over runs, or over the sequences of one run."""
    import numpy as np

    from momentum_gpt.evaluation.statistics import over_seeds

    if np.isnan(of_runs[0]).all():
        return ""
    values = of_runs[0] if len(of_runs) == 1 else np.array([one.mean() for one in of_runs])
    estimate = over_seeds(values)
    return f"{estimate.value:.3f} ± {estimate.margin:.3f}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's model folder."""
    return int(folder.parent.name.removeprefix("step_"))


main = Command(intervene, InterveneConfig, "intervene")


if __name__ == "__main__":
    main()
