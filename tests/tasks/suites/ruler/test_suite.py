"""RULER as a suite: its tasks, the length rule, records, and bad input."""

import json
import logging
import re

import pytest

from tasks.errors import TaskInputError
from tasks.prompts.settings import TaskSettings
from tasks.sources.essays import read_essays
from tasks.suites.registry import OVERALL, SUITES, find_task, suite_tasks
from tasks.suites.ruler import niah
from tasks.suites.ruler.suite import DRAFTS, NEW_TOKENS, QA, _text, make_prompt
from tests.oracles.real_data import shared_data
from tests.oracles.ruler_files import (
    ESSAY_TASKS,
    ESSAYS,
    SENTENCES,
    TOKENIZER,
    context_of,
    made,
    row_spec,
)
from tests.oracles.task_checks import check_record

SHARED = shared_data()
real_data = pytest.mark.skipif(SHARED is None, reason="no shared data here")


def test_the_suites_have_the_benchmarks_tasks_and_tokens():
    names = [f"niah_single_{n}" for n in (1, 2, 3)] + [f"niah_multikey_{n}" for n in (1, 2, 3)]
    names += ["niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"]
    limits = [128] * 8 + [30, 120, 50, 32, 32]
    found = {task.name: task.max_new_tokens for task in suite_tasks(["ruler"])}
    assert found == {f"ruler_{n}": limit for n, limit in zip(names, limits, strict=True)}
    chat = {task.name: task.max_new_tokens for task in suite_tasks(["ruler_chat"])}
    assert chat == {f"ruler_{n}_chat": None for n in names}
    assert find_task("ruler_vt").name == "ruler_vt" and find_task("retrieval") is None
    with pytest.raises(TaskInputError, match="suite 'rular' is unknown; use any of ruler"):
        suite_tasks(["rular"])
    assert set(OVERALL) <= set(SUITES)


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("task", DRAFTS)
def test_a_row_is_the_longest_that_fits_with_its_response(task, system, data_dir):
    spec = row_spec(task, data_dir, length=1500)

    def tokens(prompt):
        return len(TOKENIZER.encode(_text(spec, prompt, system)))

    room = 1500 - NEW_TOKENS[task]
    row = make_prompt(spec, system)
    assert tokens(row) <= room
    sized = DRAFTS[task](spec)
    low, high = 0, sized.most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(sized.prompt(middle)) <= room else (low, middle - 1)
    assert row == sized.prompt(low)
    assert low == sized.most or tokens(sized.prompt(low + 1)) > room


def test_rows_are_a_function_of_seed_and_index():
    assert made("vt", index=1) == made("vt", index=1)
    assert len({made("vt", index=i, seed=s).input for i in (0, 1) for s in (0, 1)}) == 4


@pytest.mark.parametrize("name", ["ruler_niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_qa_2"])
@pytest.mark.parametrize("form", ["", "_chat"])
def test_records_hold_exact_ranges_and_only_the_context_is_copyable(name, form, data_dir):
    settings = TaskSettings(target_length=1, data_dir=data_dir)
    task = find_task(name + form)
    first, second = task.records(TOKENIZER, settings, 1536, 2, 0)
    check_record(first, TOKENIZER, 1536)
    assert first.dataset == name + form
    assert first.example_id == f"{name}{form}_1536/0"
    assert first.prompt != second.prompt
    row = made(name.removeprefix("ruler_"), data_dir, length=1536) if not form else None
    if row:
        assert first.prompt == row.input + row.prefix
    else:
        assert first.prompt.startswith("<|im_start|>system") and "Answer:" in first.prompt
        assert first.prompt.endswith("assistant<think>\n")
    copied = "".join(
        first.prompt[low:high]
        for (low, high), flag in zip(first.offsets, first.copyable, strict=True)
        if flag
    )
    for phrase in ("Question", "memorize", "Memorize", "given documents", "quiz", "they are"):
        assert phrase not in copied
    if name == "ruler_vt":
        # The worked example is not part of the context.
        assert not re.search(r"VAR [A-Z]{3} ", copied)


def test_the_chat_form_has_the_system_prompt_of_the_settings_and_opens_a_thought_if_asked():
    task, room = find_task("ruler_vt_chat"), 1536 - 30
    for system, start in (("", "<|im_start|>user\n"), ("Be brief.", "<|im_start|>system\nBe b")):
        for thinking, end in ((True, "assistant<think>\n"), (False, "assistant")):
            settings = TaskSettings(target_length=1, system=system, thinking=thinking)
            (record,) = task.records(TOKENIZER, settings, 1536, 1, 0)
            assert record.prompt.startswith(start) and record.prompt.endswith(end)
            assert room - 150 < len(record.inputs) <= room
    # The benchmark's form has neither.
    plain = [
        find_task("ruler_vt").records(TOKENIZER, settings, 1536, 1, 0)[0].prompt
        for settings in (TaskSettings(1), TaskSettings(1, system="Be brief.", thinking=False))
    ]
    assert plain[0] == plain[1]


def test_missing_files_are_one_clear_error(tmp_path):
    for task in ESSAY_TASKS:
        with pytest.raises(TaskInputError, match=r"set config.data.dir .* haystack_essays"):
            made(task)
        with pytest.raises(TaskInputError, match=r"has no PaulGrahamEssays.json or haystack_ess"):
            made(task, str(tmp_path))
    for task, name in (("qa_1", "dev-v2.0.json"), ("qa_2", "hotpot")):
        with pytest.raises(TaskInputError, match=rf"has no {name}.*"):
            made(task, str(tmp_path))


def test_essays_may_be_the_json_of_the_benchmarks_script(tmp_path):
    path = tmp_path / "PaulGrahamEssays.json"
    path.write_text(json.dumps({"text": ESSAYS}))
    assert list(niah.essays(str(tmp_path)).sentences) == SENTENCES
    for cached in (niah.essays, read_essays):
        cached.cache_clear()
    path.write_text("[]")
    with pytest.raises(TaskInputError, match="can't be read as essays"):
        niah.essays(str(tmp_path))


@pytest.mark.parametrize("task", DRAFTS)
def test_a_length_too_short_is_refused(task, data_dir):
    with pytest.raises(TaskInputError, match=rf"ruler_{task} at length 150: .*too short"):
        made(task, data_dir, length=150)


def test_a_collection_that_is_too_small_is_said_so(data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        made("qa_1", data_dir, length=7777)
    assert "ruler_qa_1: all documents of the data set together are shorter than 7777" in caplog.text


@real_data
@pytest.mark.parametrize("task", [*ESSAY_TASKS[:2], *QA])
def test_real_files_make_rows(task):
    prompt = made(task, str(SHARED), length=4096)
    tokens = len(TOKENIZER.encode(prompt.input + prompt.prefix)) + NEW_TOKENS[task]
    assert 3000 < tokens <= 4096
    if task not in QA:
        assert prompt.outputs[0] in context_of(prompt)
    if task == "qa_1":
        assert any(output in prompt.input[slice(*prompt.gold[0])] for output in prompt.outputs)
