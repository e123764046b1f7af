"""Generate with Hugging Face transformers, and print the times as JSON.

`benchmarks.generation` runs this script under another Python, which has PyTorch and transformers,
so it imports nothing of this project. SmolLM2-135M's sizes with random weights, float32.
"""

import argparse
import json
import statistics
import time

import torch
import transformers


class EndingAt(transformers.StoppingCriteria):
    """Stops each row when it has a given number of new tokens."""

    def __init__(self, prompt: int, lengths: list[int]):
        self._ends = prompt + torch.tensor(lengths)

    def __call__(self, input_ids, scores, **_):
        """Return which rows stop."""
        return input_ids.shape[1] >= self._ends


def main() -> None:
    """Time each case several times, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=json.loads, required=True, help="fields of LlamaConfig")
    parser.add_argument("--cases", type=json.loads, required=True, help="[[rows, prompt, [new]]]")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**arguments.sizes)).eval()
    vocab_size = arguments.sizes["vocab_size"]
    seconds = []
    with torch.inference_mode():
        for rows, prompt, lengths in arguments.cases:
            tokens = torch.randint(3, vocab_size, (1, prompt)).repeat(rows, 1)
            times = []
            for _ in range(1 + arguments.repeats):
                start = time.perf_counter()
                made = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=max(lengths),
                    min_new_tokens=min(lengths),
                    pad_token_id=0,
                    stopping_criteria=transformers.StoppingCriteriaList(
                        [EndingAt(prompt, lengths)]
                    ),
                )
                times.append(time.perf_counter() - start)
                if made.shape[1] != prompt + max(lengths):
                    raise RuntimeError(f"{made.shape[1] - prompt} tokens instead of {lengths}")
            seconds.append(statistics.median(times[1:]))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"seconds": seconds, **versions}))


if __name__ == "__main__":
    main()
