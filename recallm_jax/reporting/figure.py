"""The report's two main drawings as one picture file, for places that show no HTML."""

from pathlib import PurePath

from recallm_jax.reporting.charts import moving_mean
from recallm_jax.reporting.data import Run, colour, count, reward_curve, select, titles
from recallm_jax.runtime.errors import UserError
from storage.files import Path, as_path, make_folder, written_whole

# Those of the style sheet, in its order.
COLOURS = ("#7b8494", "#2166c9", "#d9670b", "#7b3fb5", "#14825a", "#b5255e", "#8a6d00", "#0b7f93")


def check_figure(path: str | Path) -> None:
    """Refuse a picture that can't be drawn, before the work that it shows.

    Raises:
      UserError: matplotlib is missing, or the file's ending is no kind of picture.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "--figure needs matplotlib; install it with pip install -e '.[report]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    kinds = sorted(Figure().canvas.get_supported_filetypes())
    if _kind(path) not in kinds:
        raise UserError(
            f"--figure={path} must end in a kind of picture: any of .{', .'.join(kinds)}"
        )


def save_figure(figure, path: str | Path) -> None:
    """Write a figure of matplotlib's to a file, whole; a missing folder is made."""
    target = as_path(path)
    make_folder(target.parent)
    with written_whole(target) as file:
        figure.savefig(file, dpi=150, format=_kind(path))


def _kind(path: str | Path) -> str:
    return PurePath(path).suffix.lower().removeprefix(".")


def write_figure(run: Run, path: str | Path) -> None:
    """Draw exact match by mode and policy, and GRPO's reward over its steps.

    A missing folder is made.

    Raises:
      UserError: see `check_figure`.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    bars, rewards = figure.subplots(1, 2)
    _draw_scores(run, bars)
    title, points = reward_curve(run)
    if points:
        means = moving_mean(points, max(1, len(points) // 10))
        rewards.plot(*zip(*points, strict=True), ".", color=COLOURS[1], alpha=0.4)
        rewards.plot(*zip(*means, strict=True), color=COLOURS[1], linewidth=1.5)
    rewards.set(title=f"{title or 'GRPO'} reward, mean of a step", xlabel="step")
    for axes in (bars, rewards):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    save_figure(figure, path)


def _draw_scores(run: Run, axes) -> None:
    width = 0.8 / max(1, len(run.labels))
    for number, label in enumerate(run.labels):
        for place, mode in enumerate(run.modes):
            score = count(select(run.rows, label=label, mode=mode))
            if score is None:
                continue
            share = score.exact_match
            axes.bar(
                place + (number - (len(run.labels) - 1) / 2) * width,
                share,
                width,
                color=COLOURS[colour(run, label)],
                # Rounding may put the bound of the interval past the share by a hair.
                yerr=[[max(0.0, share - score.low)], [max(0.0, score.high - share)]],
                ecolor="#444444",
                capsize=2,
                label=f"{titles(run)[label]} (n = {score.n})" if place == 0 else None,
            )
    axes.set(title="exact match, 95 % interval", ylim=(0, 1))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xticks(range(len(run.modes)), run.modes, fontsize=8)
    if run.rows:
        axes.legend(fontsize=8, frameon=False)
