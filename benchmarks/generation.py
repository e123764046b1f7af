"""Generation end to end, prefill included, against Hugging Face transformers.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0 transformers
    python -m benchmarks.generation --peer=/tmp/peer/bin/python --out=runs/generation.json

SmolLM2-135M's sizes with random weights, float32, temperature 1; both use as many threads as there
are cores. We decode under the span constraint, with a span open in every row from the second token
on, and compute the prompt once for all its continuations. transformers has neither, and gets the
prompt once a row. Medians of one run, one library after the other; compilation and warm-up are left
out.
"""

import functools
import os
from pathlib import Path

import jax
import numpy as np

from benchmarks.decode_loop import CONFIG, RULES, wish
from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.run_peer import run_peer
from benchmarks.span_copy import prompts_of
from decoding.decode_loop import Limits, decode
from decoding.sampling import Sampling, row_keys
from recallm_jax.models.transformer import Transformer, random_transformer
from recallm_jax.weights.hugging_face_config import write_config

# Rows of one prompt, its tokens, new tokens. The second case measures the prompt alone.
CASES = ((1, 256, 64), (1, 1024, 1), (16, 256, 64), (16, 1024, 64))
# No token ends a response early.
SIZES = write_config(CONFIG, param_dtype="float32", eos_id=0) | {"eos_token_id": None}


def our_seconds(model: Transformer, rows: int, prompt: int, new: int, repeats: int) -> float:
    """Return the median time of a prefill and `new` tokens in each row."""
    prompts = prompts_of(1, prompt, CONFIG.vocab_rows)
    run = functools.partial(
        decode,
        model,
        prompts,
        row_keys(0, 0, np.arange(1), rows),
        sampling=Sampling(temperature=1.0),
        limits=Limits(RULES, new, stop_tokens=(0,), processor=wish),
    )
    lengths = np.asarray(run().lengths)
    if (lengths != new).any():
        raise RuntimeError(f"responses of {lengths} tokens instead of {new}")
    return median_seconds(run, repeats)


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model = random_transformer(CONFIG, jax.random.key(0))
    ours = [our_seconds(model, *case, arguments.repeats) for case in CASES]
    peer = {"seconds": [None] * len(CASES)}
    if arguments.peer is not None:
        peer = run_peer(
            arguments.peer,
            "transformers_peer.py",
            sizes=SIZES,
            cases=CASES,
            threads=os.cpu_count(),
            repeats=arguments.repeats,
        )
    print("rows  prompt  new  ours s  tokens/s  transformers s  tokens/s  ratio")
    rows = []
    for (count, prompt, new), seconds, other in zip(CASES, ours, peer["seconds"], strict=True):
        row = {
            "rows": count,
            "prompt_tokens": prompt,
            "new_tokens": new,
            "seconds": seconds,
            "transformers_seconds": other,
        }
        rows.append(row)
        made = count * new
        line = f"{count:4d}  {prompt:6d}  {new:3d}  {seconds:6.2f}  {made / seconds:8.1f}"
        if other is not None:
            line += f"  {other:14.2f}  {made / other:8.1f}  {other / seconds:5.2f}"
        print(line)
    versions = {name: peer[name] for name in ("torch", "transformers") if name in peer}
    write_report(arguments.out, rows, **versions)


if __name__ == "__main__":
    main()
