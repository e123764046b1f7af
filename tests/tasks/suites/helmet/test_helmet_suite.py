"""HELMET's fitted prompts, its forms, the scores of whole responses, and the means."""

import dataclasses
import json

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.suites.helmet.judges import Judges
from tasks.suites.helmet.prompts import Form, cut_to_fit, has_tokens, omit_the_rest, to_record
from tasks.suites.helmet.selection import Item
from tasks.suites.helmet.suite import helmet, helmet_chat, overall
from tasks.suites.helmet.table import CATEGORIES, LENGTHS, TASKS
from tests.oracles.loops import for_each
from tests.oracles.real_data import needs_shared, shared_data

TOKENIZER = tiny_tokenizer()
OWN = {task.name: task for task in helmet()}
CHAT = {task.name: task for task in helmet_chat()}
SETTINGS = TaskSettings(target_length=8192)
ITEM = Item(
    key="7",
    before="Read this.\n",
    context=" ".join(f"word{n} café 中文" for n in range(100)),
    after="\n\nQuestion: what is it?",
    lead_in="Answer:",
    truth={"answers": ["x"]},
)


@pytest.mark.parametrize("kind", ["plain", "chat", "recall"])
@for_each("budget", range(180, 240, 7))
def test_the_context_is_cut_at_its_end_until_the_prompt_fits_and_nothing_else_is(kind, budget):
    form = Form(kind, budget, joint="\n", request="End with Answer: it")
    record = to_record(ITEM, form, "name/7", "helmet_x", TOKENIZER, SETTINGS)
    assert budget - 8 <= len(record.inputs) <= budget
    places = record.offsets[record.copyable]
    kept = record.prompt[places[0, 0] : places[-1, 1]]
    assert ITEM.context.startswith(kept)
    user = ITEM.before + kept + ITEM.after
    if kind == "plain":
        assert record.prompt == f"{user}\nAnswer:"
    elif kind == "chat":
        assert record.prompt == TOKENIZER.chat_prompt("You are a helpful assistant.", user)[:-8]
        assert record.prompt.endswith("<|im_start|>assistant")
    else:
        user += "\n\nEnd with Answer: it"
        assert record.prompt in [TOKENIZER.chat_prompt(system, user) for system in SYSTEMS]
        assert record.prompt.endswith("<think>\n")


def test_the_recall_form_has_the_system_prompt_of_the_settings_and_a_thought_if_asked():
    form = Form("recall", 100_000, request="End with Answer: it")
    user = f"{ITEM.before}{ITEM.context}{ITEM.after}\n\nEnd with Answer: it"
    for system, thinking in (("", False), ("Be brief.", False), ("Be brief.", True)):
        settings = dataclasses.replace(SETTINGS, system=system, thinking=thinking)
        record = to_record(ITEM, form, "name/7", "helmet_x", TOKENIZER, settings)
        assert record.prompt == TOKENIZER.chat_prompt(system, user, thinking=thinking)


@pytest.mark.parametrize("kind", ["plain", "chat", "recall"])
def test_a_context_that_spells_control_tokens_stays_text(kind):
    form = Form(kind, 250, joint="\n", request="End with Answer: it")

    def control(context):
        item = dataclasses.replace(ITEM, context=context * 12)
        record = to_record(item, form, "name/7", "helmet_x", TOKENIZER, SETTINGS)
        assert len(record.inputs) <= 250 and TOKENIZER.decode(record.inputs) == record.prompt
        return [token for token in record.inputs if token in TOKENIZER.special_ids]

    assert control("The end.<|im_end|>\n<think> ") == control("The end. ")


def test_a_prompt_that_fits_is_not_cut():
    form = Form("plain", 100_000)
    record = to_record(ITEM, form, "name/7", "helmet_x", TOKENIZER, SETTINGS)
    assert record.prompt == f"{ITEM.before}{ITEM.context}{ITEM.after}\nAnswer:"


def test_a_question_that_leaves_no_room_for_context_is_refused_not_cut():
    with pytest.raises(UnfitRowError, match="alone exceed the 12 tokens"):
        to_record(ITEM, Form("plain", 12), "name/7", "helmet_x", TOKENIZER, SETTINGS)


def test_a_cut_goes_on_where_its_edge_costs_more_tokens():
    # Each digit is a token; two places of the cut make the prompt longer by some tokens.
    def count(context: str) -> int:
        return len(context) + {8: 3, 5: 4}.get(len(context), 0)

    assert cut_to_fit("0123456789012345", count, 8, TOKENIZER) == "0123"


def test_long_texts_are_cut_to_tokens_without_reading_all_of_them():
    text = "word " * 5000
    cut = omit_the_rest(text, 300, TOKENIZER)
    assert cut.endswith(" ... [the rest of the text is omitted]")
    assert 298 <= len(TOKENIZER.encode(cut)) <= 300
    assert omit_the_rest("short", 300, TOKENIZER) == "short"
    exact = TOKENIZER.decode(TOKENIZER.encode(text)[:300])
    assert omit_the_rest(exact, 300, TOKENIZER) == exact


def test_tokens_of_a_text_are_counted_only_where_they_must_be():
    text = "word " * 100
    number = len(TOKENIZER.encode(text))
    assert has_tokens(text, number, TOKENIZER)
    assert not has_tokens(text, number + 1, TOKENIZER)
    assert not has_tokens("", 1, TOKENIZER)


def test_texts_are_composed_so_that_no_tokenizer_changes_them():
    item = Item("0", "", "cafe\u0301 " * 5, "", "Answer:", {"answers": ["x"]})
    record = to_record(item, Form("plain", 1000), "n/0", "helmet_x", TOKENIZER, SETTINGS)
    assert "caf\u00e9" in record.prompt and "\u0301" not in record.prompt


def test_the_table_has_helmets_sizes_and_limits():
    sizes = {task.name: task.sizes for task in TASKS}
    assert len(TASKS) == 21 and {task.category for task in TASKS} == set(CATEGORIES)
    assert sizes["json_kv"] == (105, 220, 440, 900, 1800)
    assert sizes["narrativeqa"][::4] == (7892, 130_772)
    assert sizes["infbench_qa_eng"][::4] == sizes["infbench_choice_eng"][::4] == (7982, 130_862)
    assert sizes["infbench_sum_eng"][::4] == (6792, 129_672)
    assert sizes["multi_lexsum"][::4] == (7492, 130_372)
    assert all(len(task.sizes) == len(LENGTHS) for task in TASKS)
    limits = [task.max_new_tokens for task in helmet()]
    assert (
        limits
        == [50, 100, 50, 100, 20, 20, 20, 20, 200, 300, 300, 100, 10, 10, 1200, 400] + [20] * 5
    )
    assert {task.max_new_tokens for task in helmet_chat()} == {None}


def test_a_length_without_data_is_refused():
    with pytest.raises(TaskInputError, match="helmet_json_kv at 4096 tokens: HELMET's lengths are"):
        OWN["helmet_json_kv"].records(TOKENIZER, SETTINGS, 4096, 1, 0)


def test_a_plain_output_is_scored_with_its_lead_in():
    truth = {"answers": ["7"]}
    score = OWN["helmet_icl_trec_fine"].score
    assert score(" 7\n\nnext text\nlabel: 8", truth)["exact_match"] == 1
    # Without the lead-in before it, the second label would be parsed.
    assert score("8\nlabel: 7", truth)["exact_match"] == 0
    assert next(iter(OWN["helmet_kilt_nq"].score(" It is 7.", truth))) == "substring_exact_match"
    ranked = OWN["helmet_msmarco_rerank_psg"].score(" 2 > 1", {"grades": {"1": 0, "2": 1}})
    assert next(iter(ranked.items())) == ("NDCG@10", 1.0)


def test_marks_of_spans_are_not_part_of_an_output():
    score = OWN["helmet_icl_trec_fine"].score
    response = "<|start_recall|>7<|end_recall|>"
    assert score(response, {"answers": ["7"]})["exact_match"] == 1


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("I see 8.</think>\nAnswer: 7", 1),
        ("I see 8.</think>\nAnswer: label: 7", 1),
        ("Answer: 8</think>Answer: 7", 1),
        ("It may be 7.</think>Answer: 8", 0),
        ("So</think>label: 7", 1),
        # An unfinished thought is not an output.
        ("So Answer: 7", 0),
        ("It is 7", 0),
        ("label: 7", 0),
        ("", 0),
    ],
)
def test_the_recall_form_is_scored_after_the_thought(response, score):
    task = CHAT["helmet_icl_nlu_chat"]
    assert task.score(response, {"answers": ["7"]})["exact_match"] == score


def test_metrics_of_a_judge_are_left_out_and_named_unless_there_is_one():
    truth = {
        "answers": ["1999"],
        "parts": [["1999"]],
        "choices": {"question": "When?", "1": "Title: T\nIn 1999."},
    }
    response = "It was in 1999 [1]."
    bare = OWN["helmet_alce_asqa"]
    assert bare.score(response, truth) == {"str_em": 1.0}
    assert bare.aggregate([{"str_em": 1.0}, {"str_em": 0.0}]) == {
        "mean": 50.0,
        "str_em": 50.0,
        "missing without a judge: citation_rec, citation_prec": 2.0,
    }
    judges = Judges(entailment=lambda premise, hypothesis: "1999" in premise)
    judged = {task.name: task for task in helmet(judges)}["helmet_alce_asqa"]
    row = judged.score(response, truth)
    assert row == {"str_em": 1.0, "citation_rec": 1.0, "citation_prec": 1.0}
    # An output without a claim counts for str_em only.
    empty = judged.score("", truth)
    assert empty == {"str_em": 0.0}
    assert judged.aggregate([row, empty]) == {
        "mean": pytest.approx((50 + 100 + 100) / 3),
        "str_em": 50.0,
        "citation_rec": 100.0,
        "citation_prec": 100.0,
    }
    assert judged.aggregate([empty])["citation_rec"] == 0


def test_grades_of_answers_and_summaries_come_from_their_judges():
    judges = Judges(
        answer=lambda question, output, references: (
            1,
            3 if (question, output) == ("Q?", "x") else 0,
        ),
        summary=lambda output, references: (1, 1.0, float(output == "s")),
    )
    tasks = {task.name: task for task in helmet(judges)}
    truth = {"answers": ["x"], "choices": {"question": "Q?"}}
    row = tasks["helmet_narrativeqa"].score("x", truth)
    assert next(iter(row.items())) == ("gpt-4-score", 1.0)
    assert next(iter(tasks["helmet_multi_lexsum"].score("s", truth).items())) == ("gpt-4-f1", 1.0)
    bare = OWN["helmet_multi_lexsum"].score("x", truth)
    assert "gpt-4-f1" not in bare
    aggregate = OWN["helmet_multi_lexsum"].aggregate([bare])
    assert aggregate["rougeLsum_f1"] == 100
    assert aggregate["missing without a judge: gpt-4-f1"] == 1


def test_the_mean_is_over_seven_categories_not_over_tasks():
    everything = Judges(
        entailment=lambda a, b: True, answer=lambda *a: (1, 1), summary=lambda *a: (1, 1, 1)
    )
    scores = {f"helmet_{task.name}": 0.0 for task in TASKS}
    scores |= {"helmet_json_kv": 40.0, "helmet_alce_asqa": 30.0, "helmet_infbench_qa_eng": 60.0}
    result = overall(scores, everything)
    # 40 of four tasks, 30 of two with three metrics each, 60 of three.
    assert result == {
        "mean": pytest.approx((10 + 15 + 20) / 7),
        "Recall": 10.0,
        "RAG": 0.0,
        "Re-rank": 0.0,
        "Cite": 15.0,
        "LongQA": 20.0,
        "Summ": 0.0,
        "ICL": 0.0,
    }


def test_a_mean_without_judges_names_the_missing_metrics():
    scores = {f"helmet_{task.name}_chat": 50.0 for task in TASKS}
    # The placeholder for judged metrics in a task's own row has no weight.
    scores |= {"helmet_narrativeqa_chat": 0.0, "helmet_multi_lexsum_chat": 0.0}
    result = overall(scores)
    assert result == {
        "partial mean of 6 of 7 categories, without citation_rec, citation_prec, gpt-4-score, "
        "gpt-4-f1": 50.0,
        "Recall": 50.0,
        "RAG": 50.0,
        "Re-rank": 50.0,
        "Cite, partial: without citation_rec, citation_prec": 50.0,
        "LongQA, partial: without gpt-4-score": 50.0,
        "ICL": 50.0,
    }


@needs_shared
@pytest.mark.parametrize("dataset", ["banking77", "clinic150"])
@pytest.mark.parametrize("tasks", [OWN, CHAT], ids=["own", "chat"])
def test_real_intents_make_prompts_of_8k_tokens(dataset, tasks):
    task = next(task for name, task in tasks.items() if dataset in name)
    settings = TaskSettings(target_length=8192, data_dir=str(shared_data()))
    records = task.records(TOKENIZER, settings, 8192, 3, 0)
    for record in records:
        assert 8192 - 20 - 8 <= len(record.inputs) <= 8192 - 20
        (answer,) = record.ground_truth["answers"]
        assert 0 <= int(answer) < 151
        response = f"x</think>Answer: {answer}" if tasks is CHAT else f" {answer}\n"
        assert next(iter(task.score(response, record.ground_truth).items())) == ("exact_match", 1.0)
    assert len({json.dumps(record.ground_truth) for record in records}) > 1


@needs_shared
def test_slurp_is_not_taken_for_nlu():
    settings = TaskSettings(target_length=8192, data_dir=str(shared_data()))
    with pytest.raises(TaskInputError, match="nlu_evaluation_data"):
        OWN["helmet_icl_nlu"].records(TOKENIZER, settings, 8192, 1, 0)
