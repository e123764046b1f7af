"""Problems without a context: read from the original layouts, options with one right number."""

import json
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.registry import find
from tasks.datasets.short_context_math import last_boxed, parse_dapo, parse_gsm8k, parse_math
from tasks.datasets.wrong_numbers import groups, parse_number, wrong_numbers
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import read_table
from tests.oracles.loops import for_each
from tests.oracles.real_data import shared_data, shared_file
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
SHARED = shared_data()
DATASETS = ("dapo_math", "mcqa_math")
GSM8K = [
    {
        "question": f"Ann has {n} boxes of {m} pears. How many pears are there?",
        "answer": f"She has {n} * {m} = <<{n}*{m}={n * m}>>{n * m} pears.\n#### {n * m:,}",
    }
    for n in range(2, 12)
    for m in (3, 7, 150)
]
DAPO = [
    {
        "prompt": [
            {
                "role": "user",
                "content": "Solve the following math problem step by step. The last line of your "
                "response should be of the form Answer: $Answer (without quotes) where $Answer is "
                f"the answer to the problem.\n\nWhat is ${n}$ squared?\n\nRemember to put your "
                'answer on its own line after "Answer:".',
            }
        ],
        "reward_model": {"ground_truth": str(n * n), "style": "rule"},
        "ability": "MATH",
    }
    for n in range(20)
]
MATH = [
    {
        "problem": f"What is $\\frac{{{n}}}{{7}}$ doubled?",
        "level": f"Level {1 + n % 5}",
        "type": "Prealgebra",
        "solution": f"We get $2 \\cdot \\frac{{{n}}}{{7}} = \\boxed{{\\frac{{{2 * n}}}{{7}}}}$.",
    }
    for n in range(1, 60)
    if n % 7
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gsm8k")
    write_jsonl(folder / "gsm8k_train.jsonl", GSM8K)
    return str(folder)


def settings(data_dir, target_length=1000):
    return TaskSettings(target_length=target_length, data_dir=data_dir)


def example(dataset, data_dir, index, split="train"):
    return find(dataset).draft(settings(data_dir), split, 0, index, 0).example(0)


@pytest.mark.parametrize("dataset", DATASETS)
@for_each("index", range(8))
def test_a_demonstration_works_the_problem_out_and_recalls_nothing(dataset, index, data_dir):
    made = record(dataset, TOKENIZER, settings(data_dir), "train", 0, index)
    text = TOKENIZER.decode(made.targets)
    n, m = map(int, re.search(r"has (\d+) boxes of (\d+) pears", made.prompt).groups())
    assert f"She has {n} * {m} = {n * m} pears." in text
    assert "<<" not in text and "recall" not in text
    answer = made.ground_truth["answers"][0]
    assert text.endswith(f"\nAnswer: \\boxed{{{answer}}}<|im_end|>")
    if dataset == "dapo_math":
        assert answer == str(n * m)
    else:
        assert re.search(rf"option {answer}\b", text, re.IGNORECASE)
        assert made.ground_truth["choices"][answer].replace(",", "") == str(n * m)


@for_each("index", range(30))
def test_the_options_stand_in_the_prompt_and_only_one_is_right(index, data_dir):
    made = example("mcqa_math", data_dir, index)
    n, m = map(int, re.search(r"has (\d+) boxes of (\d+) pears", made.user).groups())
    shown = dict(re.findall(r"^\(?([A-D])[).:] (.+)$", made.user, re.MULTILINE))
    assert shown == made.truth["choices"]
    values = {letter: int(text.replace(",", "")) for letter, text in shown.items()}
    assert len(set(values.values())) == 4
    assert [letter for letter, value in values.items() if value == n * m] == made.truth["answers"]


def test_the_right_option_has_any_letter_and_any_rank(data_dir):
    letters, ranks, styles = Counter(), Counter(), Counter()
    for index in range(300):
        made = example("mcqa_math", data_dir, index)
        choices = {x: int(y.replace(",", "")) for x, y in made.truth["choices"].items()}
        (right,) = made.truth["answers"]
        letters[right] += 1
        ranks[sorted(choices.values()).index(choices[right])] += 1
        styles[re.search(r"^(\(?)A([).:]) ", made.user, re.MULTILINE).groups()] += 1
    for counts in (letters, ranks, styles):
        assert len(counts) == 4
        # Five standard deviations of 300 draws of a quarter.
        assert min(counts.values()) > 38 and max(counts.values()) < 113


@pytest.mark.parametrize("dataset", DATASETS)
def test_splits_share_no_problem(dataset, data_dir):
    texts = {
        split: {
            re.search("Ann has .*?pears", example(dataset, data_dir, index, split).user)[0]
            for index in range(60)
        }
        for split in ("train", "validation")
    }
    # Three of thirty for each data set, as both read the same file.
    assert len(texts["train"]) == 24 and len(texts["validation"]) == 3
    (other,) = set(DATASETS) - {dataset}
    others = {
        re.search("Ann has .*?pears", example(other, data_dir, index, "validation").user)[0]
        for index in range(60)
    }
    assert len(texts["train"] | texts["validation"] | others) == 30


def test_dapo_is_read_as_published_without_its_wording_duplicates_and_chinese(tmp_path, caplog):
    import pyarrow
    import pyarrow.parquet

    chinese = json.loads(json.dumps(DAPO[0]))
    chinese["prompt"][0]["content"] = "求 $x$ 的值。"
    rows = [*DAPO, DAPO[3], chinese, {**DAPO[4], "reward_model": {"style": "rule"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "dapo-math-17k.parquet")
    write_jsonl(tmp_path / "train.jsonl", GSM8K)
    made = [example("dapo_math", str(tmp_path), index) for index in range(18)]
    for one in made:
        (n,) = re.findall(r"What is \$(\d+)\$ squared\?", one.user)
        assert one.truth == {"answers": [str(int(n) ** 2)]}
        assert "step by step. The last" not in one.user and "Remember to put" not in one.user
        assert one.demonstrate is None
    assert len({one.user for one in made}) == 18
    for reason in ("a duplicate of another row (1)", "in Chinese (1)", "no ground_truth (1)"):
        assert reason in caplog.text


def test_math_is_read_from_its_folders_levels_2_to_4_as_far_as_answers_are_numbers(tmp_path):
    folder = tmp_path / "MATH" / "train" / "prealgebra"
    folder.mkdir(parents=True)
    words = {**MATH[1], "problem": "Which?", "solution": "It is $\\boxed{x+1}$."}
    for number, row in enumerate([*MATH, words]):
        (folder / f"{number}.json").write_text(json.dumps(row), encoding="utf-8")
    levels = set()
    for index in range(40):
        made = example("mcqa_math", str(tmp_path), index)
        (n,) = map(int, re.findall(r"frac\{(\d+)\}\{7\}\$ doubled", made.user))
        levels.add(1 + n % 5)
        right = made.truth["choices"][made.truth["answers"][0]]
        assert right == f"\\frac{{{2 * n}}}{{7}}"
        assert f" ${right}$" in made.user
        (thought,) = made.demonstrate(generator("test", 0, index)).thought
        assert "boxed" not in thought and f"= {right}$." in thought
    assert levels == {2, 3, 4}
    from tasks.datasets.short_context_math import MATH as SOURCE

    skipped = read_table(SOURCE, str(tmp_path), "train").skipped
    wrong_level = sum(row["level"] in ("Level 1", "Level 5") for row in MATH)
    assert skipped == {
        "an answer that is not a number": 1,
        "not of the levels Level 2, Level 3, Level 4": wrong_level,
    }


@pytest.mark.parametrize(
    ("parse", "row", "reason"),
    [
        (parse_gsm8k, {"question": "q", "answer": "It is 3."}, "no number after ####"),
        (parse_gsm8k, {"question": "q", "answer": "#### three"}, "no number after ####"),
        (parse_gsm8k, {"answer": "#### 3"}, "no question"),
        (parse_dapo, {"prompt": [], "reward_model": {"ground_truth": "1"}}, "no content"),
        (parse_dapo, {"prompt": ["x"], "reward_model": {"ground_truth": "1"}}, "no content"),
        (parse_dapo, {"prompt": "p", "reward_model": None}, "no ground_truth"),
        (parse_math, {**MATH[1], "solution": "It is 4."}, "no .*boxed"),
        (parse_math, {**MATH[1], "solution": "It is \\boxed{4."}, "not closed"),
        (parse_math, {**MATH[1], "problem": "[asy]draw(x);[/asy]"}, "a drawing"),
        (parse_math, {**MATH[1], "level": None}, "not of the levels"),
    ],
)
def test_malformed_rows_are_left_out_by_name(parse, row, reason):
    with pytest.raises(UnfitRowError, match=reason):
        parse(row)


def test_the_last_box_counts_and_a_nested_brace_does_not_end_it():
    assert last_boxed(r"so \boxed{1} or \boxed{\frac{1}{2}}.") == (
        r"\frac{1}{2}",
        r"so \boxed{1} or \frac{1}{2}.",
    )


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_file_of_one_row_is_refused(dataset, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", GSM8K[:1])
    with pytest.raises(TaskInputError, match=r"too few usable rows for \w+ \(1\)"):
        example(dataset, str(tmp_path), 0)


def test_a_problem_too_long_for_the_prompt_gives_way_to_another(tmp_path):
    long = {"question": "Word " * 400 + "?", "answer": "#### 1"}
    write_jsonl(tmp_path / "train.jsonl", [*GSM8K, long, {**long, "question": "Some " * 400}])
    wanted = settings(str(tmp_path), 600)
    for index in range(29):
        made = record("dapo_math", TOKENIZER, wanted, "train", 0, index)
        assert "Ann has" in made.prompt
    with pytest.raises(TaskInputError, match=r"no row of 32 .* too long for the target length"):
        record("dapo_math", TOKENIZER, settings(str(tmp_path), 100), "train", 0, 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-3", -3),
        ("1,000", 1000),
        (r"10,\!000", 10_000),
        (r"\$2.50", Fraction(5, 2)),
        (r"12\%", 12),
        (r"45^\circ", 45),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{7}{2}", Fraction(-7, 2)),
        (r"\frac12", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"18\text{ inches}", 18),
        (".5", Fraction(1, 2)),
        *[(text, None) for text in ("x", "", "1, 2", "3x", r"\sqrt{2}", r"\frac{1}{0}", "1" * 13)],
    ],
)
def test_numbers_are_told_from_other_answers(text, value):
    number = parse_number(text)
    assert (number and number.value) == value


ANSWERS = {
    "plain": ["0", "-1", "7", "7", "7", "12", "240", "85,000", "85000"],
    "decimal": ["0.05", "1.20", ".25", "3.75"],
    "fraction": [r"\frac{1}{9}", r"\frac23", r"\dfrac{7}{2}", r"-\frac{1}{2}"],
    "dollars": [r"\$2.50", r"\$3.00", r"\$12.75", r"\$0.40"],
}


@for_each("seed", range(40))
@pytest.mark.parametrize("kind", ANSWERS)
def test_wrong_numbers_answer_other_problems_and_look_alike(kind, seed):
    numbers = [parse_number(text) for texts in ANSWERS.values() for text in texts]
    found = groups(numbers)
    for right in map(parse_number, ANSWERS[kind]):
        wrong = wrong_numbers(np.random.default_rng(seed), right, found[right.look, right.value])
        assert len({right.value, *(other.value for other in wrong)}) == 4
        assert len({right.text, *(other.text for other in wrong)}) == 4
        for other in wrong:
            # The text that is written equals the number that is meant.
            assert parse_number(other.text).value == other.value
            assert other.value in {parse_number(text).value for text in ANSWERS[kind]}


def test_an_answer_written_like_fewer_than_three_others_gives_way():
    numbers = [parse_number(text) for text in ("1", "2", "3", "0.5")]
    group = groups(numbers)[numbers[0].look, numbers[0].value]
    with pytest.raises(UnfitRowError, match="written like fewer than three others"):
        wrong_numbers(np.random.default_rng(0), numbers[0], group)


def test_each_of_four_options_is_the_right_one_equally_often():
    """Twelve answers, one of them three times as common as the others."""
    numbers = [parse_number(f"{n}") for n in (1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10, 11, 12)]
    found = groups(numbers)
    rng, right, shown = np.random.default_rng(0), Counter(), Counter()
    for number in numbers * 400:
        wrong = wrong_numbers(rng, number, found[number.look, number.value])
        right[number.value] += 1
        shown.update(other.value for other in (number, *wrong))
    # Four standard deviations around a quarter of some 1,600 times, and of 4,800.
    for value, count in shown.items():
        assert abs(right[value] / count - 0.25) < 4 * (0.1875 / count) ** 0.5, value


@pytest.mark.skipif(shared_file("gsm8k_train.jsonl") is None, reason="GSM8K is not here")
@pytest.mark.parametrize("dataset", DATASETS)
def test_gsm8k_keeps_200_rows_for_validation(dataset):
    lines = shared_file("gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    questions = {row["question"].strip(): row["answer"] for row in rows}
    seen = set()
    for index in range(250):
        made = example(dataset, str(SHARED), index, "validation")
        (question,) = [question for question in questions if question in made.user]
        seen.add(question)
        answer = questions[question].split("####")[1].strip().replace(",", "")
        right = made.truth["answers"][0]
        right = right if dataset == "dapo_math" else made.truth["choices"][right]
        assert right == answer
    assert len(seen) == 200
    for index in range(3):
        check_record(
            record(dataset, TOKENIZER, settings(str(SHARED)), "train", 0, index), TOKENIZER, 1000
        )
