"""What a run has still to do, by its config."""

import datetime

from recallm_jax.reporting.data import POLICY_STAGES, Run


def left_to_do(run: Run) -> list[str]:
    """Return a line for each stage and evaluation that is not whole; none if all are.

    A folder without the config of a run has nothing to do.
    """
    stages = run.config.get("stages", [])
    lines = []
    for stage in stages:
        rows, steps = run.metrics.get(stage, []), run.config[stage]["steps"]
        done = rows[-1]["step"] + 1 if rows else 0
        if not done and steps:
            lines.append(f"{stage} has not begun")
        elif done < steps:
            last = datetime.datetime.fromtimestamp(rows[-1]["time"]).strftime("%Y-%m-%d %H:%M")
            lines.append(f"{stage} has made {done} of {steps} steps, the last at {last}")
    evaluation = run.config.get("evaluation", {})
    made = {"start", *(stage if stage in POLICY_STAGES else "cold_start" for stage in stages)}
    lines += [
        f"{label} has no whole evaluation"
        for label in evaluation.get("policies", [])
        if evaluation.get("num_examples") and label in made and label not in run.evaluated
    ]
    return lines
