"""Votes are counted from the prompt's text, at many sizes."""

import re
from collections import Counter

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.aggregation import majority_sequence, top_sequence
from tasks.datasets.registry import find
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tests.oracles.loops import for_each

TOKENIZER = tiny_tokenizer()
SETTINGS = TaskSettings(target_length=2000)
DATASETS = ("majority_vote", "top_n_vote")
# By the number of options: the bounds of the winner's share.
SHARES = {2: (0.60, 0.70), **dict.fromkeys((3, 4, 5), (0.40, 0.55))}
SHARES |= dict.fromkeys((6, 7, 8, 9, 10), (0.30, 0.40))
TOP = {3: ((8, 12), 1.5, 3.0), 5: ((12, 20), 1.0, 1.5), 10: ((20, 30), 0.5, 1.1)}
SIZES = (*range(45), 97, 150, 333, 1000, 4000)


def draft(dataset, index):
    return find(dataset).draft(SETTINGS, "train", 0, index, 0)


def ballot(example):
    """Return the (delegate, option) pairs of a prompt, read from its text."""
    ((low, high),) = example.documents
    lines = [re.fullmatch("(.+) votes for: (.+)", x) for x in example.user[low:high].split("\n")]
    return [match.groups() for match in lines]


def totals(example):
    return Counter(option for _, option in ballot(example))


@for_each("index", range(25))
def test_one_option_wins_with_its_levels_share_at_every_size(index):
    made = draft("majority_vote", index)
    for size in SIZES:
        example = made.example(size)
        (winner, most), (_, second) = totals(example).most_common(2)
        assert most > second
        assert example.truth["answers"] == [winner, winner.split()[-1]]
        assert set(example.truth["wrong"]) == set(totals(example)) - {winner}
        low, high = SHARES[len(totals(example))]
        assert low <= most / totals(example).total() <= high


@for_each("index", range(25))
def test_the_top_options_are_ahead_of_all_others_at_every_size(index):
    made = draft("top_n_vote", index)
    for size in SIZES:
        example = made.example(size)
        counts, truth = totals(example), example.truth
        names = [name for name, _ in truth["parts"]]
        assert truth["parts"] == [[name, name.split()[-1]] for name in names]
        assert truth["answers"] == [", ".join(names)]
        assert min(counts[name] for name in names) > max(counts[name] for name in truth["wrong"])
        assert set(names) | set(truth["wrong"]) == set(counts)
        low, high = TOP[len(names)][0]
        assert low <= len(counts) <= high
        assert [counts[name] for name in names] == sorted(
            [counts[name] for name in names], reverse=True
        )


@for_each("seed", range(20))
@pytest.mark.parametrize("percent", [(60, 70), (40, 55), (30, 40)])
def test_no_share_however_near_its_bounds_makes_a_tie(percent, seed):
    rng = np.random.default_rng(seed)
    low, high = percent
    share = rng.choice([low, high, rng.uniform(low, high)]) / 100
    number = {60: 1, 40: int(rng.integers(2, 5)), 30: int(rng.integers(5, 10))}[low]
    # As uneven as the greatest part of the winner's share, 0.8, allows.
    largest = min(0.8 * share / (1 - share), 1.0)
    others = [largest] + [(1 - largest) / max(1, number - 1)] * (number - 1)
    sequence = majority_sequence(share, others, percent)
    counts = [0] * (number + 1)
    for votes in range(1, 800):
        counts[next(sequence)] += 1
        if votes >= max(10, 2 * (number + 1)):
            assert low * votes <= 100 * counts[0] <= high * votes
            assert counts[0] > max(counts[1:])
            assert min(counts) > 0
    # Exactly the shares, but for a vote or so.
    assert counts[0] == pytest.approx(share * votes, abs=1.01)
    assert np.subtract(counts[1:], np.multiply(others, votes - counts[0])).max() < 2


def test_shares_of_the_top_votes_follow_the_zipf_law_and_the_separation():
    seen = set()
    for index in range(30):
        made = draft("top_n_vote", index)
        example = made.example(8000)
        counts = [count for _, count in totals(example).most_common()]
        top = len(example.truth["parts"])
        seen.add(top)
        _, zipf, separation = TOP[top]
        assert counts[top - 1] / counts[top] == pytest.approx(separation, rel=0.05)
        for first, last in ((0, top - 1), (top, len(counts) - 1)):
            wanted = ((last + 1) / (first + 1)) ** zipf
            assert counts[first] / counts[last] == pytest.approx(wanted, rel=0.1)
    assert seen == {3, 5, 10}


def test_the_next_after_the_winner_has_four_fifths_of_its_votes_at_most():
    for index in range(150):
        counts = totals(draft("majority_vote", index).example(500))
        (_, most), (_, second) = counts.most_common(2)
        assert second <= 0.8 * most + 3 or len(counts) == 2


def test_votes_come_in_random_order():
    first = {"majority_vote": 0, "top_n_vote": 0}
    for dataset in first:
        for index in range(100):
            example = draft(dataset, index).example(50)
            lines = [option for _, option in ballot(example)]
            truth = example.truth
            right = {name for name, _ in truth.get("parts", [truth["answers"]])}
            shares = sum(option in right for option in lines) / len(lines)
            first[dataset] += (lines[0] in right) - shares
    # Four standard deviations of 100 draws.
    assert max(map(abs, first.values())) < 20


def test_the_top_stay_ahead_though_their_shares_are_hardly_larger():
    # 10 of 30, the shares of places 10 and 11 a thousandth apart.
    shares = [0.034] * 10 + [0.033] * 20
    sequence = top_sequence(shares, 10)
    counts = [0] * 30
    for votes in range(1, 3000):
        counts[next(sequence)] += 1
        if votes >= 40:
            assert min(counts[:10]) > max(counts[10:])


@pytest.mark.parametrize("dataset", DATASETS)
@for_each("index", range(4))
def test_one_more_filler_is_one_more_vote_and_no_delegate_votes_twice(dataset, index):
    made = draft(dataset, index)
    # Asked for in another order than by size.
    large = ballot(made.example(300))
    for size in (0, 7, 299):
        smaller, larger = ballot(made.example(size)), ballot(made.example(size + 1))
        assert len(larger) == len(smaller) + 1
        kept = [vote for vote in larger if vote in set(smaller)]
        assert kept == smaller
    assert ballot(draft(dataset, index).example(300)) == large
    assert len({delegate for delegate, _ in large}) == len(large)
    assert len({delegate for delegate, _ in ballot(made.example(made.most))}) == 12_000


@pytest.mark.parametrize("dataset", DATASETS)
def test_identifiers_are_the_last_words_and_tell_the_options_apart(dataset):
    for index in range(30):
        options = list(totals(draft(dataset, index).example(0)))
        words = [word for option in options for word in option.split()]
        assert len(set(words)) == len(words)
        assert all(re.fullmatch("[A-Z][2-9]", option.split()[-1]) for option in options)


def test_levels_come_at_their_rates():
    options = [len(totals(draft("majority_vote", index).example(0))) for index in range(400)]
    rates = [sum(low <= n <= high for n in options) / 400 for low, high in ((2, 2), (3, 5))]
    tops = [len(draft("top_n_vote", index).example(0).truth["parts"]) for index in range(400)]
    rates += [tops.count(top) / 400 for top in (3, 5)]
    # Four standard deviations of a rate of 0.45.
    assert rates == pytest.approx([0.45] * 4, abs=0.1)
    assert options.count(2) + sum(3 <= n <= 5 for n in options) < 390
    assert tops.count(10) > 10


@pytest.mark.parametrize(("dataset", "target"), [("majority_vote", 750), ("top_n_vote", 900)])
def test_short_prompts_have_easier_levels_and_hold_them(dataset, target):
    for length in (target, 1200, 1650):
        settings = TaskSettings(target_length=length)
        for index in range(60):
            example = find(dataset).draft(settings, "train", 0, index, 0).example(0)
            prompt = TOKENIZER.chat_prompt(example.system, example.user)
            assert len(TOKENIZER.encode(prompt)) <= length


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("size", [0, 4000])
def test_a_demonstration_gives_the_totals_and_the_answer_and_recalls_nothing(dataset, size):
    wordings = set()
    for index in range(8):
        example = draft(dataset, index).example(size)
        demonstration = example.demonstrate(generator("test", 0, index))
        (thought,) = demonstration.thought
        counted = dict(re.findall(r"^(.+): (\d+)$", thought, re.MULTILINE))
        assert {name: int(count) for name, count in counted.items()} == totals(example)
        assert demonstration.answer == example.truth["answers"][0]
        assert len(thought) < 1500
        wordings.add(thought.partition("\n")[0])
    assert len(wordings) > 2


def test_the_winner_of_a_demonstration_has_the_votes_it_names():
    for index in range(10):
        example = draft("majority_vote", index).example(50)
        (thought,) = example.demonstrate(generator("test", 0, index)).thought
        count, winner, runner_up = re.search(
            r"The most votes, (\d+), went to (.+); next comes (.+)\.$", thought
        ).groups()
        ranked = totals(example).most_common()
        assert (winner, int(count)) == ranked[0]
        assert totals(example)[runner_up] == ranked[1][1]
        example = draft("top_n_vote", index).example(50)
        (thought,) = example.demonstrate(generator("test", 0, index)).thought
        top, last, votes, following, fewer = re.search(
            r"Place (\d+) goes to (.+) with (\d+) votes, ahead of (.+) with (\d+)\.$", thought
        ).groups()
        counts = totals(example)
        ranked = counts.most_common()
        assert counts[last] == int(votes) == ranked[int(top) - 1][1]
        assert counts[following] == int(fewer) == ranked[int(top)][1]
