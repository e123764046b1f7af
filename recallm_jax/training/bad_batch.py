"""The batch of a step whose metrics are not finite, written to files for inspection.

WORKDIR/bad_batch/STAGE_STEP.json holds the metrics, and each prompt with its example id, responses
and rewards. STAGE_STEP.npz holds the arrays of the update, such as `advantages` [B, G, 1] and
`sampler_log_probs` [B, G, T], with `prompt_tokens` [B, S] and `response_tokens` [B, G, T]. A
response without a reward is empty in both files; its reward is null in JSON and NaN in the arrays.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from decoding.rollout import Rollout
from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import UserError
from rl.batch import Batch
from storage.files import Path, make_folder, write_whole, written_whole
from tasks.prompts.record import Record

FOLDER = "bad_batch"
# The fields of a batch beside its rollout; a stage has some of them.
_ARRAYS = (
    "advantages",
    "old_log_probs",
    "reference_log_probs",
    "old_values",
    "returns",
)


@dataclasses.dataclass(frozen=True)
class Inspected:
    """The records and arrays that a step learned from.

    Attributes:
      records: all records that the step drew; they include those of the B prompts.
      rollout: the demonstrations, or the sampled responses.
      batch: the batch of the update; None in a cold start.
      rewards: [B, G], NaN for a response without a reward; None in a cold start.
    """

    records: Sequence[Record]
    rollout: Rollout
    batch: Batch | None = None
    rewards: Any = None


class NotFinite(UserError):
    """A metric of a step is not finite: the run stops before it saves that step."""

    def __init__(self, stage: str, step: int, metrics: Mapping[str, float], seen: Inspected):
        name, value = next((n, v) for n, v in metrics.items() if not math.isfinite(v))
        super().__init__(f"{name} of {stage} at step {step} is {value}; {REMEDY}")
        self.stage, self.step, self.metrics, self.seen = stage, step, metrics, seen


REMEDY = "start again with a lower learning rate and another --workdir"


def write_bad_batch(
    error: NotFinite, workdir: Path, decode: Callable[[list[int]], str], mesh: Mesh | None = None
) -> Path:
    """Write the two files (see the module); return the path of the JSON file.

    All processes of the mesh call this. The leading process writes, and the others wait for it.
    """
    arrays, example_ids = _arrays(error.seen), _example_ids(error.seen.records, mesh)
    path = workdir / FOLDER / f"{error.stage}_{error.step}.json"
    if processes.leads(mesh):
        _write(path, error, arrays, example_ids, decode)
    processes.meet(mesh)
    return path


def _write(
    path: Path,
    error: NotFinite,
    arrays: Mapping[str, np.ndarray],
    example_ids: Mapping[tuple[int, ...], str],
    decode: Callable[[list[int]], str],
) -> None:
    prompts = [_real(arrays, "prompt", row) for row in range(len(arrays["prompt_tokens"]))]
    texts = {
        "stage": error.stage,
        "step": error.step,
        # JSON has no NaN or infinity: they become text.
        "metrics": {n: v if math.isfinite(v) else str(v) for n, v in error.metrics.items()},
        "prompts": [
            {
                "example_id": example_ids[tuple(prompt)],
                "prompt": decode(prompt),
                "responses": [
                    decode(_real(arrays, "response", (row, column)))
                    for column in range(arrays["response_tokens"].shape[1])
                ],
                "rewards": [
                    None if math.isnan(reward) else reward
                    for reward in (arrays["rewards"][row].tolist() if "rewards" in arrays else [])
                ],
            }
            for row, prompt in enumerate(prompts)
        ],
    }
    make_folder(path.parent)
    with written_whole(path.with_suffix(".npz")) as file, open(file, "wb") as out:
        # As `Any`: one keyword of `savez`, a switch, is not an array.
        named: Mapping[str, Any] = arrays
        np.savez(out, **named)
    write_whole(path, json.dumps(texts, indent=1, ensure_ascii=False) + "\n")


def _example_ids(records: Sequence[Record], mesh: Mesh | None) -> dict[tuple[int, ...], str]:
    """Return the example ids of all processes' records, by the tokens of their prompts."""
    drawn = [json.dumps([record.example_id, record.inputs.tolist()]) for record in records]
    found = map(json.loads, processes.texts_of_all(drawn, mesh))
    return {tuple(inputs): example_id for example_id, inputs in found}


def _arrays(seen: Inspected) -> dict[str, np.ndarray]:
    rollout, batch = seen.rollout, seen.batch
    found = {
        "prompt_tokens": rollout.prompts.tokens,
        "prompt_lengths": rollout.prompts.lengths,
        "response_tokens": rollout.tokens,
        "response_lengths": rollout.lengths,
        "sampler_log_probs": rollout.log_probs,
        "rewards": seen.rewards,
        **({} if batch is None else {name: getattr(batch, name) for name in _ARRAYS}),
    }
    there = {name: value for name, value in found.items() if value is not None}
    return {name: np.asarray(value) for name, value in processes.fetch(there).items()}


def _real(arrays: Mapping[str, np.ndarray], kind: str, place: Any) -> list[int]:
    """Return the tokens of a prompt or response without their padding."""
    return arrays[f"{kind}_tokens"][place][: arrays[f"{kind}_lengths"][place]].tolist()
