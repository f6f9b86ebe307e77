"""A W&B workspace that shows a comparison: saved by code, opened by one click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RUNS = 100
"""Most runs, or groups of them, in a chart."""


def comparison_workspace(entity: str, project: str, name: str, ids: Sequence[str]) -> Any:
    """Return a workspace with the report first, and then the curves by variant over tokens.

    Args:
        entity: the user or team that the project belongs to.
        project: the W&B project.
        name: of the workspace.
        ids: the W&B ids of the runs that are shown.

    Raises:
        ModuleNotFoundError: `wandb-workspaces` is not installed.
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2 import LinePlot, MediaBrowser, WeavePanelSummaryTable

    few_shot = LinePlot(title="few-shot accuracy", x="tokens", metric_regex="icl/.*/acc@.*")
    texts = ("tables/text_samples", "tables/few_shot_answers")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section("Verdict", [MediaBrowser(media_keys=["report"])], is_open=True),
            ws.Section("Loss", [over_tokens("val/loss"), over_tokens("train/loss")], is_open=True),
            ws.Section("In context", [over_tokens("icl/score"), few_shot], is_open=True),
            ws.Section("Speed", [over_tokens("train/tokens_per_s")]),
            ws.Section("Texts", [WeavePanelSummaryTable(table_name=key) for key in texts]),
        ],
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=RUNS),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("ID").isin(list(ids))],
            groupby=[ws.Metric("Group")],
        ),
    )


def over_tokens(metric: str) -> Any:
    """Return a chart of a metric: the mean of each group, and the band of its standard error."""
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(
        title=metric,
        x="tokens",
        y=[metric],
        title_x="tokens",
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )
