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


def main() -> None:
    """Time each case several times, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=json.loads, required=True, help="fields of LlamaConfig")
    parser.add_argument("--cases", type=json.loads, required=True, help="[[rows, prompt, new]]")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**arguments.sizes)).eval()
    vocab_size = arguments.sizes["vocab_size"]
    seconds = []
    with torch.inference_mode():
        for rows, prompt, new in arguments.cases:
            tokens = torch.randint(3, vocab_size, (1, prompt)).repeat(rows, 1)
            times = []
            for _ in range(1 + arguments.repeats):
                start = time.perf_counter()
                made = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=new,
                    min_new_tokens=new,
                    pad_token_id=0,
                )
                times.append(time.perf_counter() - start)
                if made.shape[1] != prompt + new:
                    raise RuntimeError(f"{made.shape[1] - prompt} tokens instead of {new}")
            seconds.append(statistics.median(times[1:]))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"seconds": seconds, **versions}))


if __name__ == "__main__":
    main()
