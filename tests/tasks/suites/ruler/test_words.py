"""RULER's chains of variables and counted words: exact templates, and counts from the text."""

import collections
import dataclasses
import re

import pytest

from tasks.errors import TaskInputError
from tasks.suites.ruler import counting, words
from tasks.suites.ruler.prompts import NOISE, Prompt
from tests.oracles.loops import for_each
from tests.oracles.ruler_files import TOKENIZER, context_of, made


def vt_text(lines, value):
    context = "\n".join(lines)
    return (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        f"{context}\nQuestion: Find all variables that are assigned the value {value} in the text "
        "above."
    )


def vt_prefix(value):
    return (
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables "
        f"are assigned the value {value}, they are: "
    )


@for_each("index", range(3))
def test_a_chain_is_five_assignments_after_a_worked_example(index):
    prompt = made("vt", index=index, length=2000)
    lines = context_of(prompt).split("\n")
    names = prompt.outputs
    value = re.search(rf"VAR {names[0]} = (\d{{5}})\n", prompt.input)[1]
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {names[i + 1]} = VAR {names[i]} " for i in range(4)]
    assert [line for line in lines if line != NOISE] == chain
    assert all(re.fullmatch("[A-Z]{5}", name) for name in names) and len(set(names)) == 5
    asked = vt_text(lines, value)
    assert prompt.input.endswith(asked) and prompt.prefix == vt_prefix(value)
    assert [prompt.input[a:b] for a, b in prompt.gold] == [line.rstrip() for line in chain]

    example = prompt.input.removesuffix(asked)
    found = re.search(r"they are:  ((?:[A-Z]{3} ?){5})\n\n$", example)
    shown = found[1].split(" ")
    example_value = re.search(rf"VAR {shown[0]} = (\d{{5}})\n", example)[1]
    assert example_value != value
    example_lines = example.partition("text.\n\n")[2].partition("\nQuestion")[0].split("\n")
    assert example == (
        f"{vt_text(example_lines, example_value)}{vt_prefix(example_value)} {' '.join(shown)}\n\n"
    )
    assert len(TOKENIZER.encode(example)) <= 500 + 100  # no noise is left to leave out


CWE_TEXT = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{}\nQuestion: What are the 10 most common words in "
    "the above list?"
)
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"


@pytest.mark.parametrize(
    ("length", "common", "other", "example_counts"),
    [(2048, 6, 1, (3, 1, 20)), (6000, 30, 3, (10, 3, 40))],
)
def test_common_words_come_more_often_as_the_length_says(length, common, other, example_counts):
    prompt = made("cwe", length=length)
    context = context_of(prompt)
    example = prompt.input.removesuffix(CWE_TEXT.format(context))
    assert prompt.prefix == CWE_PREFIX
    listed = [item.split(". ") for item in re.split(r" (?=\d+\. )", context)]
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    counts = collections.Counter(word for _, word in listed)
    assert {word for word, count in counts.items() if count == common} == set(prompt.outputs)
    assert len(prompt.outputs) == 10
    assert set(counts.values()) == {common, other}
    others = set(counts) - set(prompt.outputs)
    assert not any(word in longer for word in prompt.outputs for longer in others)

    found = re.fullmatch(
        re.escape(CWE_TEXT).replace(r"\{\}", "(.*)") + f"{CWE_PREFIX}(.*)\n", example
    )
    times, rare, size = example_counts
    shown = collections.Counter(re.sub(r"\d+\. ", "", found[1]).split(" "))
    assert collections.Counter(shown.values()) == {times: 10, rare: size - 10}
    answer = re.findall(r"(\d+)\. (\S+)", found[2])
    assert found[2] == " ".join(f"{i}. {word}" for i, word in answer)
    assert {word for _, word in answer} == {w for w, count in shown.items() if count == times}


def test_there_are_words_enough_for_the_longest_list():
    assert len(words.plain()) > 700
    assert len(words.compounds()) > 40_000
    assert all(re.fullmatch("[a-z]+", word) for word in words.plain())


@pytest.mark.parametrize("length", [1000, 4096])
def test_coded_words_follow_the_zeta_law(length):
    prompt = made("fwe", length=length)
    context = context_of(prompt)
    assert prompt.input == (
        "Read the following coded text and track the frequency of each coded word. Find the three "
        f"most frequently appeared coded words. {context}\nQuestion: Do not provide any "
        "explanation. Please ignore the dots '....'. What are the three most frequently appeared "
        "words in the above coded text?"
    )
    assert prompt.prefix == (
        " Answer: According to the coded text above, the three most frequently appeared words are:"
    )
    counts = collections.Counter(context.split(" "))
    ranked = counts.most_common()
    assert ranked[0][0] == "..."
    assert [word for word, _ in ranked[1:4]] == list(prompt.outputs)
    assert ranked[3][1] > ranked[4][1]
    assert all(re.fullmatch("[a-z]{6}", word) for word in counts if word != "...")
    # The dots come n / zeta(2) times, the words of rank k a k-th of it squared.
    for rank, (_, count) in enumerate(ranked[:6], 1):
        assert abs(count - ranked[0][1] / rank**2) <= 1
    assert len(counts) <= (length - 50) // 50


def test_zeta_counts_by_hand():
    # 100 / 1.6449 = 60.79; a quarter 15.2; a ninth 6.75; a sixteenth 3.8.
    assert counting.zeta_counts(100, 4).tolist() == [60, 15, 6, 3]


def test_a_shared_third_place_is_refused():
    text = "... aa aa bb bb cc dd"
    prompt = Prompt(text, "", (0, len(text)), (), ("aa", "bb", "cc"))
    with pytest.raises(TaskInputError, match="length 99 is too short for ruler_fwe"):
        counting.check_frequent_words(prompt, 99)
    counting.check_frequent_words(dataclasses.replace(prompt, outputs=("aa", "cc", "bb")), 99)
