"""How the answers of all data sets may be dressed, and what may not score.

A right answer scores 1 in the reward and in every metric, whatever it is dressed in. The exceptions
are in `DIFFERENT`, each with its reason.
"""

import pathlib

import pytest

from tasks.datasets.paper import paper_dataset
from tasks.datasets.registry import find
from tasks.metrics import metric_functions, recall_spans
from tasks.scoring.answers import bare_answer, extract_answer
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import ground_truth
from tests.tasks.datasets.test_contract import NAMES, each_draft, right_answer

RECALLED = "<|start_recall|>{}<|end_recall|>"
# {} is the right answer.
DRESSED = {
    "plain": "Answer: {}",
    "full stop": "Answer: {}.",
    "bold": "Answer: **{}**",
    "italic": "Answer: *{}*",
    "bold label": "**Answer:** {}",
    "all bold": "**Answer: {}**",
    "double quotes": 'Answer: "{}"',
    "single quotes": "Answer: '{}'",
    "curly double quotes": "Answer: \u201c{}\u201d",
    "curly single quotes": "Answer: \u2018{}\u2019",
    "quotes before a full stop": "Answer: \u201c{}\u201d.",
    "guillemets": "Answer: \u00ab{}\u00bb",
    "low quotes": "Answer: \u201e{}\u201c",
    "corner brackets": "Answer: \u300c{}\u300d",
    "backticks": "Answer: `{}`",
    "parentheses": "Answer: ({})",
    "brackets": "Answer: [{}]",
    "list dash": "Answer: - {}",
    "bullet": "Answer: \u2022 {}",
    "new line": "Answer:\n{}",
    "ideographic full stop": "Answer: {}\u3002",
    "recalled": f"Answer: {RECALLED}",
    "recalled, full stop": f"Answer: {RECALLED}.",
    "recalled in quotes": f'Answer: "{RECALLED}"',
    "LaTeX": r"Answer: \text{{{}}}",
    "LaTeX in dollars": r"Answer: $\text{{{}}}$",
    "emphasis": r"Answer: \emph{{{}}}",
    "box": r"Answer: \boxed{{{}}}",
    "HTML": "Answer: <b>{}</b>",
    "unseen characters": "Answer: \ufeff{}\u200b",
    "lead-in": "Answer: The answer is {}",
    "bold word": "**Answer**: {}",
    "space before the colon": "Answer : {}",
    "capitals": "ANSWER: {}",
    "explanation after a dash": "Answer: {} \u2014 as the context says",
    "explanation after a comma": "Answer: {}, as the context says",
    "sentence after it": "Answer: {}. The context says so.",
    "line after it": "Answer: {}\n\nDone.",
}
# (dressing, data set, metric): (the score that it has, why).
SQUADS = "token F1 is SQuAD's: it counts all words of the answer, and knows ASCII punctuation only"
DIFFERENT = {
    (dressing, name, "f1"): (pytest.approx(0.6, abs=0.25), SQUADS)
    for dressing in (
        *("explanation after a dash", "explanation after a comma", "sentence after it"),
        *("line after it", "ideographic full stop"),
    )
    for name in ("hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa", "own_questions")
}


def cases(name, data_dir):
    """Yield the fields of the truth, the gold texts, and the right answer of some examples."""
    for draft in each_draft(name, data_dir):
        example = draft.example(min(2, draft.most))
        gold = tuple(example.user[low:high] for low, high in example.gold)
        yield {**example.truth, "gold_documents": gold}, gold, right_answer(name, example)


def scores(name, fields, response):
    """Return the answer's score in the reward, its exact match, and all metrics."""
    dataset, truth = find(name), ground_truth(name, fields)
    answer, spans = extract_answer(response), recall_spans(response)
    found = {"reward": dataset.score(answer, spans, truth, SETTINGS["train"])}
    if dataset.exact_match is not None:
        found["match"] = dataset.exact_match(answer, spans, truth, SETTINGS["train"])
    (metrics,) = metric_functions(dataset)
    return found | {key: value / 100 for key, value in metrics([fields], [response]).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_scores_in_full_however_it_is_dressed(name, data_dir):
    for fields, gold, answer in cases(name, data_dir):
        thought = "".join(RECALLED.format(text) for text in gold)
        for dressing, form in DRESSED.items():
            response = f"{thought}</think>\n{form.format(answer)}"
            for metric, found in scores(name, fields, response).items():
                expected, _ = DIFFERENT.get((dressing, name, metric), (pytest.approx(1.0), ""))
                assert found == expected, (dressing, metric, response)


@pytest.mark.parametrize("name", NAMES)
def test_what_gives_no_answer_scores_nothing(name, data_dir):
    for fields, gold, answer in cases(name, data_dir):
        thought = "".join(RECALLED.format(text) for text in gold)
        truth = ground_truth(name, fields)
        candidates = [*truth.choices] or [*truth.wrong, answer]
        nothing = {
            "empty": "Answer:",
            "punctuation": "Answer: ** . **",
            "no label": answer,
            "inside the thought": f"Answer: {answer}</think>",
            "an empty span": f"Answer: {RECALLED.format('')}",
            "not it": "Answer: I cannot tell from the context.",
        }
        if len(candidates) > 3:
            nothing["all candidates"] = f"Answer: {', '.join(candidates)}"
        for what, response in nothing.items():
            whole = response if "</think>" in response else f"</think>\n{response}"
            found = scores(name, fields, f"{thought}{whole}")
            assert not any(found.values()), (what, found, whole)


LABELS, RANKED = ("banking77", "massive"), ("msmarco_v2",)
REFERENCES = ("hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa", "own_questions")
# Where the paper's rule gives another score than ours, by case: the data sets, ours, the paper's.
# docs/tasks.md has the same table, with the reasons.
DEPARTURES = {
    # To the paper these responses have no answer, which it finds in every reference.
    **dict.fromkeys(
        ("bold word", "space before the colon", "capitals"),
        (tuple(name for name in NAMES if name not in REFERENCES), 1.0, "less"),
    ),
    **dict.fromkeys(
        (
            *("bullet", "LaTeX", "LaTeX in dollars", "emphasis", "box", "HTML"),
            *("unseen characters", "lead-in"),
            *("recalled", "recalled, full stop", "recalled in quotes"),
        ),
        (LABELS + RANKED, 1.0, "less"),
    ),
    "list dash": (RANKED, 1.0, "less"),
    **dict.fromkeys(
        (
            *("curly double quotes", "curly single quotes", "quotes before a full stop"),
            *("guillemets", "low quotes", "corner brackets", "ideographic full stop"),
            *("explanation after a dash", "explanation after a comma"),
            *("sentence after it", "line after it"),
        ),
        (LABELS, 1.0, "less"),
    ),
    **dict.fromkeys(
        (
            *("nothing", "marks alone", "the answer or something else"),
            *("the answer, then another", "a comma and a name after it"),
        ),
        (REFERENCES, 0.0, "more"),
    ),
    "all candidates": (("quality", "majority_vote"), 0.0, "more"),
}
GAMED = {
    "nothing": "Answer:",
    "marks alone": "Answer: ** . **",
    "the answer or something else": "Answer: {} or something else",
    "the answer, then another": "Answer: {}; Ines Roth",
    "a comma and a name after it": "Answer: {}, France",
    "not it": "Answer: I cannot tell from the context.",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_rule_differs_only_where_the_docs_say_so(name, data_dir):
    found: dict[str, set[str]] = {}
    for fields, gold, answer in cases(name, data_dir):
        thought = "".join(RECALLED.format(text) for text in gold)
        truth = ground_truth(name, fields)
        candidates = [*truth.choices] or [*truth.wrong, answer]
        forms = DRESSED | GAMED
        if len(candidates) > 3:
            forms["all candidates"] = f"Answer: {', '.join(candidates)}"
        for what, form in forms.items():
            response = f"{thought}</think>\n{form.format(answer)}"
            spans = recall_spans(response)
            ours = find(name).score(extract_answer(response), spans, truth, SETTINGS["train"])
            papers = paper_dataset(find(name)).score(
                bare_answer(response), spans, truth, SETTINGS["train"]
            )
            if ours != pytest.approx(papers, abs=0.01):
                found.setdefault(what, set()).add("more" if papers > ours else "less")
                assert ours == pytest.approx(DEPARTURES[what][1]), (what, response)
    expected = {what: {way} for what, (names, _, way) in DEPARTURES.items() if name in names}
    assert found == expected


QUOTES = ("curly double quotes", "curly single quotes", "quotes before a full stop")
QUOTES += ("guillemets", "low quotes", "corner brackets", "unseen characters")


def test_the_paper_does_not_find_a_name_of_four_letters_in_quotes_of_other_scripts():
    fields = {"answers": ["Oslo"], "parts": [["Oslo"]], "gold_documents": [], "grades": {"1": 1}}
    truth, settings = ground_truth("qampari", fields), SETTINGS["train"]
    for what, form in DRESSED.items():
        if "qampari" in DEPARTURES.get(what, ((),))[0]:
            continue
        response = f"</think>\n{form.format('Oslo [1]')}"
        ours = find("qampari").score(extract_answer(response), ["[1]"], truth, settings)
        papers = paper_dataset(find("qampari")).score(
            bare_answer(response), ["[1]"], truth, settings
        )
        # The citations are four fifths of the score.
        assert (ours, papers) == pytest.approx((1.0, 0.8 if what in QUOTES else 1.0)), what


def test_the_docs_name_every_departure():
    text = pathlib.Path("docs/tasks.md").read_text(encoding="utf-8")
    _, _, section = text.partition("### Where our scores depart from the paper's")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    named = {what.strip() for row in rows for what in row.split("|")[1].split(";")}
    assert DEPARTURES.keys() <= named
