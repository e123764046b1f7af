"""Memory and time of log-probabilities under the span mask, value and gradient.

    python -m benchmarks.span_scores --out=runs/span_scores.json

One response of 5,120 tokens over a vocabulary of 152,064 (Qwen2.5), two fifths of it inside recall
spans, scored from its hidden states by an output matrix of Qwen2.5-0.5B's width: no model is timed.
`chunked` is `decoding/span_scores.py`. `whole` is the same without the short cut, with the logits
of the whole vocabulary at every position. `dense` is a masked softmax over all [T, V] logits, only
compiled, for its memory. Memory is XLA's temporary memory, without arguments and results.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import make_parser, median_seconds, write_report
from benchmarks.span_copy import EDGES, END, RULES, START, VOCAB, zipf_prompts
from decoding import span_scores
from decoding.rollout import Rollout
from decoding.span_copy import allowed_tokens, index_prompts, trace, whole_source
from decoding.span_scores import Scoring
from decoding.spans import span_trace
from decoding.token_bits import unpack
from recallm_jax.models.presets import PRESETS

WIDTH = PRESETS["qwen2.5-0.5b"].width
PROMPT = 8_192
SPAN, FREE = 24, 34


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """The output matrix of a policy."""

    matrix: jax.Array

    def gathered(self, num_prompts, parts):
        return self

    def unembed(self, hidden):
        """Return the logits of the vocabulary."""
        return jnp.einsum("...d,vd->...v", hidden, self.matrix)

    def unembed_at(self, hidden, tokens):
        """Return the logits of some tokens."""
        return jnp.einsum("...d,...kd->...k", hidden, self.matrix[tokens])


def make_response(text: np.ndarray, length: int) -> np.ndarray:
    """Return free text and recall spans in turn."""
    rng = np.random.default_rng(0)
    tokens: list[int] = []
    while len(tokens) < length:
        tokens += rng.integers(0, START, FREE - 2).tolist()
        place = int(rng.integers(0, len(text) - SPAN))
        tokens += [START, *text[place : place + SPAN].tolist(), END]
    return np.asarray(tokens[:length], np.int32)[None, None]


def loss_of(score, head, hidden, *arguments):
    """Return the value and gradients of the mean score."""

    def loss(head, hidden):
        return score(head, hidden, *arguments).mean()

    return jax.value_and_grad(loss, argnums=(0, 1))(head, hidden)


def chunked(scoring, head, hidden, rollout):
    """Return the scores, [B, G, T]."""
    return span_scores.score_tokens(head, hidden, rollout, scoring).log_probs


def dense(scoring, head, hidden, rollout):
    """Return the scores by a softmax over all logits at once."""
    rules, responses = scoring.rules, rollout.tokens
    source = whole_source(rollout.prompts, rollout.index, responses, rules)
    states = trace(responses, source, rules, scoring.budget)
    rows = jax.tree.map(lambda x: x.reshape(1, -1), states)
    logits = head.unembed(hidden).reshape(1, -1, VOCAB)
    allowed = unpack(allowed_tokens(rows, source, rules, VOCAB), VOCAB)
    scores = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf), axis=-1)
    return jnp.take_along_axis(scores, responses.reshape(1, -1, 1), axis=-1)


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--length", type=int, default=5_120)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=2, help="0 compiles for the memory alone")
    parser.add_argument("--copy-source", default="prompt", choices=list(EDGES))
    arguments = parser.parse_args()
    rules = dataclasses.replace(
        RULES, copy_source=arguments.copy_source, edges=EDGES[arguments.copy_source]
    )
    prompts = jax.tree.map(jnp.asarray, zipf_prompts(PROMPT))
    responses = jnp.asarray(make_response(np.asarray(prompts.tokens[0]), arguments.length))
    lengths = jnp.full((1, 1), arguments.length, jnp.int32)
    index = jax.jit(index_prompts, static_argnums=(1, 2))(prompts, rules, VOCAB)
    rollout = Rollout(prompts, index, responses, lengths)
    budget = arguments.length + 1
    seen = jax.jit(span_trace, static_argnums=(1, 2))(rollout, rules, budget)
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.standard_normal((1, 1, arguments.length, WIDTH), np.float32))
    head = Head(jnp.asarray(0.02 * rng.standard_normal((VOCAB, WIDTH), np.float32)))

    programs = [("chunked", chunk, span_scores.FEW) for chunk in arguments.chunks]
    # `whole` and `dense` can copy from the prompt only.
    if arguments.copy_source == "prompt":
        programs += [("whole", chunk, 0) for chunk in arguments.chunks] + [("dense", None, 0)]
    rows = []
    inside = float(seen.inside.mean())
    print(
        f"T = {arguments.length}, V = {VOCAB}, D = {WIDTH}, {inside:.0%} inside spans, "
        f"copied from {arguments.copy_source}"
    )
    print("program  chunk  temporary MB  seconds")
    few = span_scores.FEW
    for name, chunk, short_cut in programs:
        span_scores.FEW = short_cut
        scoring = Scoring(rules, budget, temperature=1.0, chunk=chunk or arguments.length)
        score = functools.partial(dense if chunk is None else chunked, scoring)
        program = jax.jit(functools.partial(loss_of, score)).lower(head, hidden, rollout).compile()
        memory = program.memory_analysis()
        assert memory is not None, "this backend does not report memory"
        megabytes = memory.temp_size_in_bytes / 1e6
        seconds = None
        if chunk is not None and arguments.repeats:
            call = functools.partial(program, head, hidden, rollout)
            seconds = median_seconds(call, arguments.repeats)
        rows.append({"program": name, "chunk": chunk, "temporary_mb": megabytes, "s": seconds})
        print(
            f"{name:7s}  {chunk or '':>5}  {megabytes:12.0f}  "
            f"{'' if seconds is None else f'{seconds:7.1f}'}",
            flush=True,
        )
    span_scores.FEW = few
    write_report(arguments.out, rows, inside=inside, copy_source=arguments.copy_source)


if __name__ == "__main__":
    main()
