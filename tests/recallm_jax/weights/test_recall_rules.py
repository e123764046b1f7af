"""The rules that an exported folder holds are those that the policy was trained with."""

import json

import jax
import pytest

from recall_spans.rules import Rules, read_json, rules_of
from recallm_jax.config.load import load_config
from recallm_jax.models.transformer import random_transformer
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.tiny import CHAT_TEMPLATE, TINY, tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights import hugging_face
from recallm_jax.weights.hugging_face import TokenizerFiles
from recallm_jax.weights.recall_rules import recall_rules, stored_rules, usual_rules

TOKENIZER = tiny_tokenizer()


def test_a_run_exports_the_rules_of_its_config():
    config = load_config(
        [
            "--config=configs/quickstart.py:tiny",
            "--config.decoding.min_recall_length=3",
            "--config.decoding.max_recall_length=77",
            "--config.decoding.copy_source=prompt+response",
            "--config.decoding.span_alignment=word",
        ]
    )
    written = recall_rules(span_rules(config, TOKENIZER), config.decoding.span_alignment)
    assert rules_of(json.loads(json.dumps({"recall_spans": written})), "config.json") == Rules(
        start_token_id=TOKENIZER.start_recall_id,
        end_token_id=TOKENIZER.end_recall_id,
        vocab_size=TOKENIZER.size,
        barrier_token_ids=tuple(sorted(TOKENIZER.special_ids)),
        min_length=3,
        max_length=77,
        span_alignment="word",
        copy_source="prompt+response",
        paper_compatible=False,
    )


def test_other_weights_get_the_defaults_of_the_configs():
    config = load_config(["--config=configs/smollm2_135m.py"])
    written = recall_rules(span_rules(config, TOKENIZER), config.decoding.span_alignment)
    assert usual_rules(TOKENIZER.to_json()) == written


def test_a_saved_folder_holds_the_rules_and_passes_them_on(tmp_path):
    files = TokenizerFiles(TOKENIZER.to_json(), CHAT_TEMPLATE, "<|im_end|>", "")
    usual = usual_rules(files.tokenizer_json)
    rules = {**usual, "span_alignment": "word", "max_length": 77}
    model = random_transformer(TINY, jax.random.key(0))
    hugging_face.save(model, tmp_path / "out", files, recall_spans=rules)
    assert read_json(tmp_path / "out", "config.json")["recall_spans"] == rules
    assert stored_rules(str(tmp_path / "out"), usual) == rules
    hugging_face.save(model, tmp_path / "plain", files)
    for source in ("plain", "model.gguf"):
        assert stored_rules(str(tmp_path / source), usual) is None


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (True, "recall_spans does not have the fields start_token_id, end_token_id"),
        ({"start_token_id": 3}, "recall_spans does not have the fields start_token_id"),
        (
            {"vocab_size": 7},
            f"recall_spans.vocab_size = 7, but the tokenizer has {TOKENIZER.size};",
        ),
    ],
)
def test_rules_for_another_tokenizer_are_not_passed_on(tmp_path, stored, message):
    usual = usual_rules(TOKENIZER.to_json())
    if stored == {"vocab_size": 7}:
        stored = usual | stored
    (tmp_path / "config.json").write_text(json.dumps({"recall_spans": stored}))
    with pytest.raises(UserError) as error:
        stored_rules(str(tmp_path), usual)
    assert message in str(error.value) and "remove 'recall_spans' from the file" in str(error.value)
