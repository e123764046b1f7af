"""The lost-in-thought curve: accuracy against tokens of reasoning."""

from collections.abc import Mapping, Sequence

from recallm_jax.evaluation.summaries import Row
from recallm_jax.reporting.chart import Chart, Series
from recallm_jax.reporting.data import NUM_COLOURS
from recallm_jax.reporting.figure import write_charts
from storage.files import Path
from tasks.suites.lost_in_thought import CUED, DIRECT, RECALL, THOUGHT, UNAIDED

# The name of each variant, and the number of its colour.
_LOOKS = {
    DIRECT: ("asked directly", 0),
    THOUGHT: ("after a thought", 2),
    RECALL: ("in a recall span, key copied", 1),
    CUED: ("key copied, no span", 3),
    UNAIDED: ("in a recall span, unaided", 4),
}
# Controls: they separate the effect of the span from that of its beginning.
_CONTROLS = (CUED, UNAIDED)


def probe_chart(summaries: Sequence[Row], title: str) -> Chart:
    """Return the curve of each variant that occurs.

    Lengths are evenly spaced on x, as they mostly double.
    """
    lengths = sorted({row["reasoning_tokens"] for row in summaries})
    series = []
    for variant, (name, colour) in _LOOKS.items():
        rows = sorted(
            (row for row in summaries if row["variant"] == variant),
            key=lambda row: row["reasoning_tokens"],
        )
        if rows:
            series.append(
                Series(
                    name,
                    [(lengths.index(row["reasoning_tokens"]), row["accuracy"]) for row in rows],
                    colour,
                    [(row["low"], row["high"]) for row in rows],
                    thin=variant in _CONTROLS,
                    # Asked at one length only; the others are compared with it at every length.
                    level=variant == DIRECT,
                )
            )
    return _chart(title, series, lengths)


def policies_chart(probes: Mapping[str, Sequence[Row]], title: str) -> Chart:
    """Return the curves of several policies: values after a thought (dashed) and in a recall span.

    Args:
      probes: the summaries of each policy's probe, by its name.
    """
    lengths = sorted({row["reasoning_tokens"] for rows in probes.values() for row in rows})
    series = []
    for number, (policy, rows) in enumerate(probes.items()):
        for variant, thin in ((THOUGHT, True), (RECALL, False)):
            points = sorted(
                (lengths.index(row["reasoning_tokens"]), row["accuracy"], row["low"], row["high"])
                for row in rows
                if row["variant"] == variant
            )
            if points:
                series.append(
                    Series(
                        f"{policy}: {_LOOKS[variant][0]}",
                        [(place, accuracy) for place, accuracy, _, _ in points],
                        number % NUM_COLOURS,
                        [(low, high) for _, _, low, high in points],
                        thin=thin,
                    )
                )
    return _chart(title, series, lengths)


def _chart(title: str, series: Sequence[Series], lengths: Sequence[int]) -> Chart:
    return Chart(
        title,
        series,
        x_label="tokens of reasoning before the value (0: none)",
        bounds=(0.0, 1.0),
        percent=True,
        x_ticks={place: str(length) for place, length in enumerate(lengths)},
    )


def write_probe_figure(summaries: Sequence[Row], path: str | Path) -> None:
    """Draw the curve as a picture. A missing folder is made.

    Raises:
      UserError: see `check_figure`.
    """
    first = summaries[0]
    counts = sorted({row["n"] for row in summaries})
    examples = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    title = (
        f"{first['label']}: right values, prompts of {first['target_length']} tokens "
        f"(n = {examples} a point, 95 % intervals)"
    )
    write_charts([probe_chart(summaries, title)], path)
