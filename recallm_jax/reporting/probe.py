"""The lost-in-thought curve, accuracy against tokens of reasoning: on the page, as a picture."""

from collections.abc import Sequence

from markupsafe import Markup

from recallm_jax.evaluation.summaries import Row
from recallm_jax.reporting.charts import Series, line_chart
from recallm_jax.reporting.figure import COLOURS, check_figure, save_figure
from storage.files import Path
from tasks.suites.lost_in_thought import CUED, DIRECT, RECALL, THOUGHT, UNAIDED

# What the variants are called, and the number of their colours.
TITLES = {
    DIRECT: "asked directly",
    THOUGHT: "after a thought",
    RECALL: "in a recall span, key copied",
    CUED: "key copied, no span",
    UNAIDED: "in a recall span, unaided",
}
_COLOUR = {DIRECT: 0, THOUGHT: 2, RECALL: 1, CUED: 3, UNAIDED: 4}
# Drawn thinner: they tell apart what the span does and what its beginning does.
_CONTROLS = (CUED, UNAIDED)


def by_variant(summaries: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each variant that occurs, in order of length."""
    return {
        variant: sorted(rows, key=lambda row: row["reasoning_tokens"])
        for variant in TITLES
        if (rows := [row for row in summaries if row["variant"] == variant])
    }


def probe_chart(summaries: Sequence[Row]) -> tuple[Markup, list[tuple[str, str]]]:
    """Return the curve as SVG, and its legend (name, style)."""
    lengths = _lengths(summaries)
    series = [
        Series(
            TITLES[variant],
            [(lengths.index(row["reasoning_tokens"]), row["accuracy"]) for row in rows],
            f"s{_COLOUR[variant]}",
            [(row["low"], row["high"]) for row in rows],
        )
        for variant, rows in by_variant(summaries).items()
    ]
    svg = line_chart(
        series,
        x_label="tokens of reasoning",
        bounds=(0.0, 1.0),
        percent=True,
        x_ticks=range(len(lengths)),
        x_names={place: str(length) for place, length in enumerate(lengths)},
    )
    return svg, [(line.name, line.style) for line in series]


def _lengths(summaries: Sequence[Row]) -> list[int]:
    """Return the lengths that occur: they stand evenly on x, as they mostly double."""
    return sorted({row["reasoning_tokens"] for row in summaries})


def write_probe_figure(summaries: Sequence[Row], path: str | Path) -> None:
    """Draw the curve. A missing folder is made.

    Raises:
      UserError: see `check_figure`.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    lengths = _lengths(summaries)
    groups = by_variant(summaries)
    for number, (variant, rows) in enumerate(groups.items()):
        # Whiskers of several lines stand side by side.
        shift = 0.07 * (number - (len(groups) - 1) / 2)
        shares = [row["accuracy"] for row in rows]
        thin = variant in _CONTROLS
        axes.errorbar(
            [lengths.index(row["reasoning_tokens"]) + shift for row in rows],
            shares,
            # Rounding may put the bound of the interval past the share by a hair.
            yerr=[
                [max(0.0, row["accuracy"] - row["low"]) for row in rows],
                [max(0.0, row["high"] - row["accuracy"]) for row in rows],
            ],
            color=COLOURS[_COLOUR[variant]],
            linestyle="--" if thin else "-",
            linewidth=1 if thin else 2,
            elinewidth=0.8,
            marker="o",
            markersize=3.5 if thin else 5,
            capsize=2,
            label=TITLES[variant],
        )
    if DIRECT in groups:
        level = groups[DIRECT][0]["accuracy"]
        axes.axhline(level, color=COLOURS[_COLOUR[DIRECT]], linewidth=0.8, linestyle=":")
    first = summaries[0]
    counts = sorted({row["n"] for row in summaries})
    examples = " to ".join(str(count) for count in {counts[0]: None, counts[-1]: None})
    axes.set(
        title=f"{first['label']}: right values, prompts of {first['target_length']} tokens "
        f"(n = {examples} a point, 95 % intervals)",
        xlabel="tokens of reasoning before the value (0: none)",
        ylim=(-0.02, 1.02),
    )
    axes.title.set_fontsize(9)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
