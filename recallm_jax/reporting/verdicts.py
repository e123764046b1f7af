"""The headline of the page: how far a run came, and whether its numbers can show that."""

import dataclasses

from recallm_jax.reporting.data import (
    Change,
    Run,
    Tally,
    change,
    count,
    main_labels,
    reward_curve,
    select,
    titles,
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One tile of the headline.

    Attributes:
      style: "good", "bad", or "" if the numbers do not decide.
    """

    title: str
    figure: str
    text: str
    style: str


def verdicts(run: Run) -> list[Verdict]:
    """Return the headline: exact match, verbatim spans and reward, as far as a run has them."""
    found = []
    if run.rows:
        found += _match_verdict(run, run.modes[0])
        for constrained in (True, False):
            rows = [row for row in run.rows if row["mode"].startswith("constrained") == constrained]
            score = count(rows)
            if score is not None and score.spans:
                found.append(_span_verdict(score, constrained))
    title, rewards = reward_curve(run)
    moved = change([value for _, value in rewards])
    if moved is not None:
        found.append(_reward_verdict(title, moved))
    return found


def _match_verdict(run: Run, mode: str) -> list[Verdict]:
    """Compare the first and the last main policy in one mode; empty if there is only one."""
    labels = main_labels(run)
    first, last = (
        count(select(run.rows, label=label, mode=mode)) for label in (labels[0], labels[-1])
    )
    if first is None or last is None or len(labels) < 2:
        return []
    if last.low > first.high:
        judgement, style = "clearly above: the 95 % intervals do not overlap", "good"
    elif last.high < first.low:
        judgement, style = "clearly below: the 95 % intervals do not overlap", "bad"
    else:
        judgement, style = "no clear difference: the 95 % intervals overlap", ""
    names = titles(run)
    ends = "; ".join(
        f"{names[label]} [{100 * score.low:.0f}, {100 * score.high:.0f}], n = {score.n}, "
        f"{score.questions} questions"
        for label, score in ((labels[0], first), (labels[-1], last))
    )
    return [
        Verdict(
            f"Exact match, {mode}, all lengths",
            f"{100 * first.exact_match:.0f} % → {100 * last.exact_match:.0f} %",
            f"{ends}; {judgement}",
            style,
        )
    ]


def _span_verdict(score: Tally, constrained: bool) -> Verdict:
    where = "with the constraint" if constrained else "without the constraint"
    whole = score.verbatim == score.spans
    share = "100 %" if whole else f"{100 * score.verbatim / score.spans:.1f} %"
    style = "" if not constrained else ("good" if whole else "bad")
    return Verdict(
        f"Verbatim recall spans, {where}",
        share,
        f"{score.verbatim} of {score.spans} closed spans, all policies, stand word for word in "
        "the context",
        style,
    )


def _reward_verdict(title: str, moved: Change) -> Verdict:
    interval = moved.interval
    if moved.within_noise:
        judgement, style = "within noise: the interval holds 0", ""
    else:
        judgement, style = "the interval excludes 0", "good" if moved.difference > 0 else "bad"
    return Verdict(
        f"{title} reward",
        f"{moved.first:.3f} → {moved.last:.3f}",
        f"{moved.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] (95 %, Welch's t), "
        f"first to last {moved.steps} steps; {judgement}",
        style,
    )


def reward_sentence(run: Run) -> str:
    """Say in words whether GRPO or PPO changed its reward."""
    title, values = reward_curve(run)
    if not title:
        return ""
    moved = change([value for _, value in values])
    if moved is None:
        return f"{title} ran {len(values)} steps: too few to tell whether its reward changed."
    interval = moved.interval
    thirds = (
        f"Mean reward of the first {moved.steps} steps {moved.first:.3f} ± "
        f"{moved.first_error:.3f}, of the last {moved.steps} {moved.last:.3f} ± "
        f"{moved.last_error:.3f} (standard errors); difference {moved.difference:+.3f}, 95 % "
        f"interval {interval.low:+.3f} to {interval.high:+.3f} (Welch's t, "
        f"{interval.freedom:.1f} degrees of freedom)."
    )
    if moved.within_noise:
        return (
            f"{thirds} The interval holds 0: within noise. These steps do not show that "
            f"{title} changed the reward."
        )
    direction = "rose" if moved.difference > 0 else "fell"
    return f"{thirds} The interval excludes 0: the reward {direction}."
