"""Generation end to end, prefill included, against Hugging Face transformers.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0 transformers
    python -m benchmarks.generation --peer=/tmp/peer/bin/python --out=runs/generation.json

SmolLM2-135M's sizes with random weights, float32, temperature 1; both use as many threads as there
are cores. We decode under the span constraint, with a span open in every row from the second token
on, and compute the prompt once for all its continuations. transformers has neither, and gets the
prompt once a row. Rows run to the limit, or stop at log-normal lengths with a mean of a fifth of
it, which both are told. Medians of one run, one library after the other; compilation and warm-up
are left out.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from benchmarks.decode_loop import CONFIG, RULES, wish
from benchmarks.lengths import ending_at, log_normal_lengths
from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.run_peer import run_peer
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.sampling import Sampling, row_keys
from recallm_jax.models.transformer import Transformer, random_transformer
from recallm_jax.weights.hugging_face_config import write_config


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of one prompt, its tokens, the limit of new tokens, and whether all rows reach it."""

    rows: int
    prompt: int
    limit: int
    full: bool = True

    @property
    def lengths(self) -> Int[np.ndarray, "1 G"]:
        """The number of new tokens of each row."""
        if self.full:
            return np.full((1, self.rows), self.limit, np.int32)
        return log_normal_lengths(self.limit, 1, self.rows)


# The second case measures the prompt alone.
CASES = (
    Case(1, 256, 64),
    Case(1, 1024, 1),
    Case(16, 256, 64),
    Case(16, 1024, 64),
    Case(16, 1024, 1024, full=False),
)
# No token ends a response early.
SIZES = write_config(CONFIG, param_dtype="float32") | {"eos_token_id": None}


def our_seconds(model: Transformer, case: Case, repeats: int) -> float:
    """Return the median time of a prefill and of all tokens of each row."""
    stop = RULES.barriers[0]
    run = functools.partial(
        decode,
        model,
        prompts_of(1, case.prompt, CONFIG.vocab_rows),
        row_keys(0, 0, np.arange(1), case.rows),
        sampling=Sampling(temperature=1.0),
        limits=Limits(RULES, case.limit, stop_tokens=(stop,), processor=wish),
        prefix=None if case.full else ending_at(case.lengths, RULES.end_token, stop),
    )
    lengths = np.asarray(run().lengths)
    if (lengths != case.lengths).any():
        raise RuntimeError(f"responses of {lengths} tokens instead of {case.lengths}")
    return median_seconds(run, repeats)


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model = random_transformer(CONFIG, jax.random.key(0))
    ours = [our_seconds(model, case, arguments.repeats) for case in CASES]
    peer = {"seconds": [None] * len(CASES)}
    if arguments.peer is not None:
        peer = run_peer(
            arguments.peer,
            "transformers_peer.py",
            sizes=SIZES,
            cases=[(case.rows, case.prompt, case.lengths[0].tolist()) for case in CASES],
            threads=os.cpu_count(),
            repeats=arguments.repeats,
        )
    print("rows  prompt  limit  mean  ours s  tokens/s  transformers s  tokens/s  ratio")
    rows = []
    for case, seconds, other in zip(CASES, ours, peer["seconds"], strict=True):
        made = int(case.lengths.sum())
        row = {
            "rows": case.rows,
            "prompt_tokens": case.prompt,
            "limit": case.limit,
            "new_tokens": made,
            "longest": int(case.lengths.max()),
            "seconds": seconds,
            "transformers_seconds": other,
        }
        rows.append(row)
        line = f"{case.rows:4d}  {case.prompt:6d}  {case.limit:5d}  {made / case.rows:4.0f}"
        line += f"  {seconds:6.2f}  {made / seconds:8.1f}"
        if other is not None:
            line += f"  {other:14.2f}  {made / other:8.1f}  {other / seconds:5.2f}"
        print(line)
    versions = {name: peer[name] for name in ("torch", "transformers") if name in peer}
    write_report(arguments.out, rows, **versions)


if __name__ == "__main__":
    main()
