"""A run as one picture: exact match by mode and policy, and the reward over the steps."""

from recallm_jax.reporting.curves import reward_chart
from recallm_jax.reporting.data import Run, colour, count, select, titles
from recallm_jax.reporting.figure import COLOURS, Axes, draw_chart, figure_file, show_percent
from storage.files import Path


def write_run_figure(run: Run, path: str | Path) -> None:
    """Draw the picture of a run. A missing folder is made.

    Raises:
      UserError: see `check_figure`.
    """
    with figure_file(path, 2) as (_, (bars, rewards)):
        _draw_scores(run, bars)
        draw_chart(rewards, reward_chart(run))


def _draw_scores(run: Run, axes: Axes) -> None:
    """Draw a bar with its interval for each mode and policy."""
    width = 0.8 / max(1, len(run.labels))
    for number, label in enumerate(run.labels):
        for place, mode in enumerate(run.modes):
            score = count(select(run.rows, label=label, mode=mode))
            if score is None:
                continue
            x = place + (number - (len(run.labels) - 1) / 2) * width
            title = (
                f"{titles(run)[label]} (n = {score.n}, {score.questions} questions)"
                if place == 0
                else None
            )
            axes.bar(x, score.exact_match, width, color=COLOURS[colour(run, label)], label=title)
            axes.vlines(x, score.low, score.high, color="#444444")
    axes.set_title("exact match, 95 % interval", fontsize=10)
    axes.set_ylim(0, 1)
    show_percent(axes)
    axes.set_xticks(range(len(run.modes)), run.modes, fontsize=8)
    if run.rows:
        axes.legend(fontsize=8, frameon=False)
