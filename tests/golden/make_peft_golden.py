"""Make the adapters of tests/golden/peft and what peft computes with them.

    pip install -r tests/golden/requirements.txt peft==0.21.2
    python tests/golden/make_peft_golden.py

Each folder has an adapter for a tiny model of tests/golden/tiny, as peft writes it, and
expected.npz: tokens [X], and the float32 logits [X, V] of the model with the adapter.
"""

import pathlib
import shutil

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
ROWS = [5, 2, 37, 11]


def make(name: str, modules: list[str], rows: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(HERE / "tiny" / name, dtype=torch.float32)
    settings = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=modules,
        trainable_token_indices=rows,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, settings).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    out = HERE / "peft" / name
    shutil.rmtree(out, ignore_errors=True)
    adapted.save_pretrained(out)
    (out / "README.md").unlink()
    tokens = torch.randint(0, 40, (12,))
    tokens[:4] = torch.tensor(ROWS)
    with torch.no_grad():
        logits = adapted(tokens[None]).logits[0]
    np.savez(out / "expected.npz", tokens=tokens.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    # Untied, with every matrix; tied, with some of them.
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    make("qwen2_plain", every, {"embed_tokens": ROWS, "lm_head": ROWS})
    make("smollm2_plain", ["q_proj", "down_proj"], {"embed_tokens": ROWS})
