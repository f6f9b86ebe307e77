"""The pages of the documentation fit together, and name things that exist."""

from __future__ import annotations

import csv
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import yaml
from scipy import stats

from data_prep.prepare import PrepareConfig
from momentum_gpt.analysis.published import TASKS
from momentum_gpt.core.files import conf_folder
from momentum_gpt.evaluate import EvaluateConfig
from momentum_gpt.generate import GenerateConfig
from momentum_gpt.plan import PlanConfig
from tests.docs.pages import ELSEWHERE, PAGES, ROOT, anchors, links, text_of

COMMANDS = (PlanConfig, PrepareConfig, EvaluateConfig, GenerateConfig)
"""The configurations with options that contain a dot; PlanConfig has those of TrainConfig."""

OPTION = re.compile(r"(?<![\w./$-])([a-z]\w*(?:\.\w+)+)=")
"""An option with a dot and a value, as in `optim.lr=1e-3`."""

SCANNED = [*PAGES, *ELSEWHERE]


def option_names(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield every option of a dataclass and of the dataclasses inside it."""
    for name, kind in get_type_hints(schema).items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from option_names(kind, f"{prefix}{name}.")


def options_of_groups() -> Iterator[str]:
    """Yield the options that only the YAML files of `conf/` know, such as `attention.weight`."""
    for group in ("attention", "corpus"):
        for path in (conf_folder() / group).glob("*.yaml"):
            content: dict[str, Any] = yaml.safe_load(path.read_text())
            yield from (f"{group}.{key}" for key in content)


def relative(file: Path) -> str:
    return str(file.resolve().relative_to(ROOT))


def known_options() -> set[str]:
    found = set(options_of_groups())
    for schema in COMMANDS:
        assert fields(schema)
        found |= set(option_names(schema))
    return found


@pytest.mark.parametrize("page", SCANNED)
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        # A target that is an anchor alone is on the page itself.
        file = (ROOT / page).parent / path if path else ROOT / page
        found = file.exists()
        if found and anchor:
            found = anchor in anchors(relative(file))
        if not found:
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", SCANNED)
def test_every_option_that_is_named_exists(page: str) -> None:
    known = known_options()
    named = set(OPTION.findall(text_of(page)))

    # What belongs to DeepSpeed or Hydra is passed on as it is: nothing here lists it.
    unknown = {name for name in named - known if not name.startswith(("deepspeed.", "hydra."))}
    # The tutorial adds options of its own, which exist only in the copy that its test makes.
    if page == "docs/writing-a-variant.md":
        unknown -= {"attention.fast", "attention.slow"}
    assert not unknown


@pytest.mark.parametrize("page", SCANNED)
def test_brackets_are_quoted_for_zsh(page: str) -> None:
    """It looks for files that a bracket matches, and refuses the command if there is none."""
    for block in re.findall(r"^```bash\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE):
        commands = re.sub(r"(?m)^\s*#.*$", "", block)
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", commands)
        assert "[" not in unquoted


def test_every_page_can_be_reached_from_the_index() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    reached = {target.partition("#")[0] for target in links("docs/index.md")}
    assert pages - {"index.md"} <= reached


def test_every_page_is_checked() -> None:
    pages = {relative(path) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(SCANNED)


def rows(page: str, first: str) -> list[list[str]]:
    """Return the cells of the table rows whose first cell begins as the expression `first`."""
    found = []
    for line in text_of(page).splitlines():
        if re.match(rf"\| {first}", line):
            cells = line.strip("| ").split("|")
            found.append([cell.strip() for cell in cells])
    return found


@pytest.mark.parametrize("model", ["125m", "350m", "760m", "1_3b", "2_7b"])
def test_the_estimates_follow_from_their_formulas(model: str) -> None:
    """Compare the tables of hours and of memory with formulas written out here."""
    path = conf_folder() / "model" / f"gpt_{model}.yaml"
    shape = yaml.safe_load(path.read_text())
    L = shape["n_layers"]
    C = shape["d_model"]
    T = shape["seq_len"]
    V = 50_304
    parameters = 12 * L * C**2 + V * C + T * C
    flops = 6 * parameters + 12 * L * T * C  # for one token

    peaks = (989e12, 312e12)  # FLOP/s of an H100 and an A100
    hours_of_1g = [flops * 1e9 / (0.4 * peak) / 3600 for peak in peaks]
    paper_tokens = 500_000 * 524_288
    hours_of_paper = [hours * paper_tokens / 1e9 for hours in hours_of_1g]

    compute, memory = rows("docs/reproducing-the-paper.md", f"`gpt_{model}`")
    assert float(compute[2]) == pytest.approx(flops, rel=0.02)
    for cell, expected in ((compute[3], hours_of_1g), (compute[4], hours_of_paper)):
        shown = [float(number.replace(",", "")) for number in cell.split(", ")]
        assert shown == pytest.approx(expected, rel=0.04)

    # Bytes for each parameter: on one GPU, and on 8 with ZeRO-1 and with ZeRO-3.
    for cell, n_bytes in zip(memory[1:], (18, 6 + 12 / 8, 18 / 8), strict=True):
        shown_gib = float(cell.removesuffix(" GiB"))
        assert shown_gib == pytest.approx(n_bytes * parameters / 2**30, abs=0.1)


@pytest.mark.parametrize(
    "module", ["figures", "dual_form_figures", "intervention_figures", "icl_figures"]
)
def test_the_figures_are_current(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    figures = importlib.import_module(module)

    for path, content in figures.files():
        assert path.read_text(encoding="utf-8") == content, f"run python docs/{module}.py: {path}"


def test_the_figures_are_used() -> None:
    used = set()
    for page in PAGES:
        used |= {Path(target).name for target in links(page)}
    figures = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    assert figures <= used


def test_the_figures_show_the_numbers_of_the_log() -> None:
    import figures

    log = text_of("LOG.md")
    # A row of the study's table: momentum DECAY, learned positions, rotary positions, ...
    learned, rotary = figures.LOSS_DIFFERENCES.values()
    for decay in learned:
        row = f"| momentum {decay} |"
        for value, low, high in (learned[decay], rotary[decay]):
            row += f" {value:+.4f} [{low:.4f}, {high:.4f}] |"
        assert row in log, decay

    # A row of the recall table: positions, attention, step 250, step 500, ...
    for positions, accuracy in figures.RECALL.items():
        for decay, value in accuracy.items():
            row = rf"\| {positions} \| momentum {decay} \| [^|]* \| {value:.3f} "
            assert re.search(row, log), (positions, decay)
        row = rf"\| {positions} \| vanilla \| [^|]* \| {figures.RECALL_VANILLA[positions]:.3f} "
        assert re.search(row, log), positions


def test_the_table_of_interventions_has_the_numbers_of_its_file() -> None:
    with (ROOT / "docs" / "figures" / "interventions.csv").open() as file:
        lines = list(csv.DictReader(file))
    keys = ("step", "layer", "head", "part")
    found = {tuple(line[key] for key in keys): line for line in lines}
    columns = {
        "as it is": ("-", "-", "nothing", "without"),
        "without momentum": ("all", "all", "added", "without"),
        "follow the twin through momentum": ("all", "all", "added", "twin"),
        "follow the twin through softmax, layer 0": ("0", "all", "softmax", "twin"),
        "largest weight of the token before, layer 0": ("0", "0", "softmax", "previous"),
    }
    assert rows("docs/icl-results.md", "step") == [["step", *columns]]
    shown = rows("docs/icl-results.md", r"[\d,]+ ")
    assert len(shown) >= 4
    for step, *cells in shown:
        for cell, (*place, measure) in zip(cells, columns.values(), strict=True):
            numbers = found[step.replace(",", ""), *place]
            value, margin = (float(numbers[name]) for name in (measure, f"{measure}_margin"))
            assert cell == f"{value:.3f} ± {margin:.3f}", (step, measure)


def test_the_tables_of_likeness_have_the_numbers_of_their_file() -> None:
    with (ROOT / "docs" / "reports" / "icl-results.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["task"] == "all tasks"]
    found = {}
    for line in lines:
        key = f"{line['measure']}, {line['variant']}", line["null"], int(line["tokens"])
        found[key] = line
    checkpoints = sorted({tokens for _, _, tokens in found})
    nulls = ("mismatched queries", "shuffled labels", "untrained model")

    models = r"(vanilla|momentum 0.5) \|"
    shown = rows("docs/icl-results.md", rf"(SimAOU|SimAM|Kendall|top-10)[^|]*, {models}")
    assert len(shown) == 28
    for name, *cells in shown:
        if len(cells) == len(checkpoints):
            for tokens, cell in zip(checkpoints, cells, strict=True):
                line = found[name, "shuffled labels", tokens]
                assert cell == f"{number(line['value'])}, {number(line['null_value'])}", name
            continue
        line = found[name, "shuffled labels", checkpoints[-1]]
        interval = f"[{number(line['low'])}, {number(line['high'])}]"
        assert cells[0] == f"{number(line['value'])} {interval}", name
        for null, cell in zip(nulls, cells[1:], strict=True):
            if cell:
                line = found[name, null, checkpoints[-1]]
                assert cell == f"{number(line['null_value'])}, {line['verdict']}", name


def test_the_tables_of_orders_and_of_the_papers_protocol_have_the_numbers_of_their_files() -> None:
    reports = ROOT / "docs" / "reports"
    with (reports / "icl-orders.csv").open() as file:
        lines = list(csv.DictReader(file))
    orders = {(line["measure"], line["variant"], line["task"]): line for line in lines}
    shown = rows("docs/icl-results.md", r"(ICL|finetuned), ")
    assert len(shown) == 4
    for name, *cells in shown:
        setting, variant = name.split(", ")
        for task, cell in zip(TASKS, cells, strict=True):
            line = orders[f"order sensitivity, {setting}", variant, task]
            assert cell == f"{100 * float(line['value']):.1f}", (name, task)

    with (reports / "icl-dai2022.csv").open() as file:
        means = [line for line in csv.DictReader(file) if line["task"] == "all tasks"]
    found = {}
    for line in means:
        name = f"{line['variant']}, {line['measure']}"
        found[line["protocol_variant"], name, line["null"]] = line
    shown = rows("docs/icl-results.md", r"(vanilla|momentum 0.5), (SimAOU|SimAM|Kendall)")
    assert len(shown) == 6
    for name, *cells in shown:
        expected = []
        for variant in ("code", "paper"):
            line = found[variant, name, "shuffled labels"]
            expected += [number(line["value"]), number(line["null_value"])]
        assert cells == expected, name


def test_the_tables_of_models_that_learn_in_context_have_the_numbers_of_their_files() -> None:
    reports = ROOT / "docs" / "reports"
    with (reports / "icl-control.csv").open() as file:
        of_models = {}
        for line in csv.DictReader(file):
            model = f"seed {line['seed']}, {line['variant']}"
            of_models[model, line["measure"], line["null"]] = line
    measures = ("SimAOU", "SimAOU, without scaling", "SimAM of changes", "total variation")
    shown = rows("docs/icl-results.md", "seed ")
    assert len(shown) == 10
    for model, *cells in shown:
        accuracies = []
        for setting, null in (("zero-shot", ""), ("ICL", "zero-shot"), ("finetuned", "zero-shot")):
            line = of_models[model, f"accuracy, {setting}", null]
            accuracies.append(f"{float(line['value']):.1f}")
        expected = [", ".join(accuracies)]
        for measure in measures:
            line = of_models[model, measure, "shuffled labels"]
            expected.append(f"{beside(line)}, {line['verdict']}")
        assert cells == expected, model


def test_the_table_over_training_has_means_over_seeds_of_its_file() -> None:
    values: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (ROOT / "docs" / "reports" / "icl-control-training.csv").open() as file:
        for line in csv.DictReader(file):
            if line["null"] in ("zero-shot", "shuffled labels"):
                is_accuracy = line["null"] == "zero-shot"
                null = 0 if is_accuracy else float(line["null_value"])
                of_measure = values[line["measure"], line["variant"]]
                of_measure[int(line["tokens"])].append(float(line["value"]) - null)
    names = {
        "accuracy of ICL": ("accuracy, ICL", 1),
        "distance of answers": ("total variation", 3),
        "likeness of outputs": ("SimAOU, without scaling", 3),
    }
    shown = rows("docs/icl-results.md", f"({'|'.join(names)}), ")
    assert len(shown) == 6
    for name, *cells in shown:
        what, variant = name.split(", ")
        measure, digits = names[what]
        expected = []
        for _, of_seeds in sorted(values[measure, variant].items()):
            if len(of_seeds) == 5:  # of seed 0 there are other checkpoints, too
                half = stats.t.ppf(0.975, 4) * stats.sem(of_seeds)
                expected.append(f"{np.mean(of_seeds):.{digits}f} ± {half:.{digits}f}")
        assert cells == expected, name


def test_the_table_of_both_controls_has_means_over_seeds_of_its_file() -> None:
    values = defaultdict(list)
    with (ROOT / "docs" / "reports" / "icl-control.csv").open() as file:
        for line in csv.DictReader(file):
            if line["null"].endswith("labels"):
                beyond = float(line["value"]) - float(line["null_value"])
                values[line["measure"], line["variant"], line["null"]].append(beyond)
    measures = "SimAOU|SimAOU, centred|SimAOU, without scaling|SimAM of changes|total variation"
    shown = rows("docs/icl-results.md", rf"({measures}|KL divergence) \| -?\d")
    assert len(shown) == 6
    for measure, *cells in shown:
        expected = []
        for variant in ("vanilla", "momentum 0.5"):
            for null in ("shuffled labels", "wrong labels"):
                of_seeds = values[measure, variant, null]
                half = stats.t.ppf(0.975, 4) * stats.sem(of_seeds)
                expected.append(f"{np.mean(of_seeds):.3f} ± {half:.3f}")
        assert cells == expected, measure


def test_the_table_of_gains_has_the_numbers_of_its_file() -> None:
    gains: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with (ROOT / "docs" / "reports" / "icl-control-gains.csv").open() as file:
        for line in csv.DictReader(file):
            gains[line["measure"], line["variant"]][line["seed"]] = float(line["gain"])
    shown = rows("docs/icl-results.md", ".*, gain ")
    assert len(shown) == 5
    for name, *cells in shown:
        of_variants = [
            gains[name.removesuffix(", gain"), one] for one in ("vanilla", "momentum 0.5")
        ]
        assert cells == compared_by_seed(*of_variants, digits=3, sign="+"), name


def compared_by_seed(
    vanilla: dict[str, float], momentum: dict[str, float], digits: int, sign: str = ""
) -> list[str]:
    """Return what a table shows of two variants: means, their difference, and the p-value."""
    pairs = np.array([[vanilla[seed], momentum[seed]] for seed in vanilla])
    tested = stats.ttest_rel(pairs[:, 1], pairs[:, 0])
    low, high = tested.confidence_interval(0.95)
    first, other = pairs.mean(axis=0)
    interval = f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    means = [f"{first:{sign}.{digits}f}", f"{other:{sign}.{digits}f}"]
    return [*means, f"{other - first:+.{digits}f} {interval}", f"{tested.pvalue:.3f}"]


def test_the_table_of_rates_and_new_seeds_has_means_of_its_file() -> None:
    values: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (ROOT / "docs" / "reports" / "icl-control-accuracy.csv").open() as file:
        for line in csv.DictReader(file):
            of_model = values[line["variant"], line["lr"]]
            of_model[int(line["tokens"])].append(float(line["accuracy"]))
    shown = rows("docs/icl-results.md", "rate ")
    assert len(shown) == 6
    for name, *cells in shown:
        rate, _, variant = name.removeprefix("rate ").split(", ")
        expected = []
        for _, of_seeds in sorted(values[variant, rate].items()):
            assert len(of_seeds) == 4
            half = stats.t.ppf(0.975, 3) * stats.sem(of_seeds)
            expected.append(f"{np.mean(of_seeds):.1f} ± {half:.1f}")
        assert [cell for cell in cells if cell] == expected, name


def test_the_differences_of_models_that_learn_in_context_are_paired_by_seed() -> None:
    of_seeds: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with (ROOT / "docs" / "reports" / "icl-control.csv").open() as file:
        for line in csv.DictReader(file):
            value = float(line["value"])
            if line["null"] == "shuffled labels":
                beyond = value - float(line["null_value"])
                of_seeds[f"{line['measure']}, beyond", line["variant"]][line["seed"]] = beyond
            of_seeds[line["measure"], line["variant"]][line["seed"]] = value
    names = {"ICL accuracy, %": "accuracy, ICL"}
    shown = rows("docs/icl-results.md", r"(ICL accuracy, %|.*, beyond shuffled labels) \|")
    assert len(shown) == 6
    for name, *cells in shown:
        measure = names.get(name, name.removesuffix(" shuffled labels"))
        of_variants = [of_seeds[measure, one] for one in ("vanilla", "momentum 0.5")]
        digits = 1 if name.endswith("%") else 3
        assert cells == compared_by_seed(*of_variants, digits=digits), name


def beside(line: dict[str, str]) -> str:
    """Return a value and its null as the tables show them."""
    return f"{number(line['value'])}, {number(line['null_value'])}"


def number(text: str) -> str:
    return f"{float(text):.3f}"
