import os
import signal
import threading
import time

import pytest

from tasks.scoring import mathematics, paper
from tasks.scoring.answers import extract_answer
from tasks.scoring.mathematics import boxed, chosen_option, equal_expressions, final_expression


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{42}", ["42"]),
        (r"so \boxed{\frac{1}{2}} or \boxed{ 3 }", [r"\frac{1}{2}", "3"]),
        (r"\boxed{\boxed{1}}", [r"\boxed{1}"]),
        (r"Therefore $\boxed {42}$ apples remain.", ["42"]),
        (r"\boxed{1", []),
        (r"}\boxed{}", [""]),
        ("42", []),
    ],
)
def test_boxes_close_at_their_own_brace(text, contents):
    assert boxed(text) == contents


@pytest.mark.parametrize(
    ("answer", "expression"),
    [
        ("42", "42"),
        ("The answer is $42$.", "42"),
        ("x = 6 * 7 = 42", "42"),
        (r"I get \boxed{42}, so \boxed{42}", "42"),
        (r"\boxed{41} or \boxed{42}", ""),
        ("first line\nx: 42", "42"),
        ("", ""),
        ("4" * 401, ""),
    ],
)
def test_an_answer_gives_one_expression(answer, expression):
    assert final_expression(answer) == expression


def test_signs_of_the_reference_stay():
    assert final_expression("y = 2x", "y = 2x") == "y = 2x"
    assert final_expression("3:4", "3:4") == "3:4"


@pytest.mark.parametrize(
    ("answer", "reference", "ours", "papers"),
    [
        (r"\boxed{42}", "42", 1.0, 1.0),
        ("42", "42", 1.0, 0.0),
        ("1,042.0", "1042", 1.0, 0.0),
        (r"\boxed{142}", "42", 0.0, 1.0),
        (r"\boxed{40, 41, 42}", "42", 0.0, 1.0),
        (r"\boxed{41 or 42}", "42", 0.0, 1.0),
        (r"\boxed{4 2}", "42", 0.0, 0.0),
        (r"\boxed{42 \approx 43}", "42", 0.0, 1.0),
        (r"\boxed{42 \neq 43}", "42", 0.0, 1.0),
        (r"\boxed{41} \boxed{42}", "42", 0.0, 0.0),
        (r"\boxed{42} \boxed{41}", "42", 0.0, 1.0),
        (r"\boxed{\dfrac{1}{2}}", r"\frac{1}{2}", 1.0, 0.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0, 0.0),
        (r"\boxed{2\sqrt{2}}", r"$\sqrt{8}$", 1.0, 0.0),
        (r"\boxed{1+x}", "x+1", 1.0, 0.0),
        (r"\boxed{42}", r"\boxed{42}", 1.0, 0.0),
        (r"\boxed{-42}", "42", 0.0, 1.0),
        (r"\boxed{42x}", "42", 0.0, 1.0),
        (r"\boxed{}", "42", 0.0, 0.0),
        ("", "42", 0.0, 0.0),
        ("no number at all in these words", "42", 0.0, 0.0),
    ],
)
def test_mathematical_equality(answer, reference, ours, papers):
    assert equal_expressions(answer, reference) == ours
    assert paper.equal_expressions(answer, reference) == papers


RIGHT = (
    *("75 dollars", r"\boxed{75 dollars}", r"\boxed{75\text{ cookies}}", "75 people", "75 eggs"),
    *("75 miles per hour", r"\boxed{75.}", r"\boxed{\$75}", "$75", "75.00 dollars", "$75$ books"),
    *(
        "75. The text says so.",
        "75 \u2014 25 for each of the 3",
        "75, because he has 3",
        "75\nDone.",
    ),
    *(
        "She earned $75",
        "It is 75. The text says so.",
        "The answer is 75 cents.",
        "75. There are 3.",
    ),
    *("There are 25. Each costs 3, so it is 75.", "25 * 3 = 75", "100 - 25 = 75", "100 - 25"),
    r"She sold $\boxed{75}$ cookies",
)
WRONG = (
    *(
        "76 or maybe the answer is 75",
        "It could be 76; it could be 75",
        "76 is 75",
        "76, is 75",
        "76 = 75",
    ),
    *("either it is 76\nor it is 75", r"\boxed{75 \text{ (or 76)}}", r"\boxed{75 or 76}", "76: 75"),
    *("76\n75", "75\n76", "75; 76", "75, 76", "75 - 76", "75 (76)", "76. It is 75.", "75. 76."),
    *("75 thousand", r"\boxed{75 hundred}", "not 75", "minus 75", "more than 75", "7,5"),
    r"\boxed{75} and \boxed{76}",
)


def test_a_number_may_have_a_unit_and_an_explanation_but_no_second_one_beside_it():
    for score, answers in ((1.0, RIGHT), (0.0, WRONG)):
        for answer in answers:
            assert equal_expressions(answer, "75") == score, answer
            # As the answer of a response, where a box around all of it is taken off.
            read = extract_answer(f"</think>Answer: {answer}")
            assert equal_expressions(read, "75") == score, answer
    assert equal_expressions("1,000 dollars", "1000") == 1.0


@pytest.mark.parametrize("text", ["1" + ",000" * 9000, "7 is " * 9000, "a " * 9000 + "75"])
def test_a_long_answer_is_no_number_and_takes_no_time(text):
    start = time.monotonic()
    for answer in (text, f"{text}\n75 \u2014 it is so", f"{text}. It is so"):
        assert equal_expressions(answer, "7") == 0.0
    assert time.monotonic() - start < 10


def test_endless_powers_are_stopped_and_the_next_question_is_answered(monkeypatch):
    monkeypatch.setattr(mathematics, "LIMIT_SECONDS", 0.5)
    mathematics.forget_verdicts()
    start = time.monotonic()
    assert equal_expressions(r"\boxed{9^{9^{9^{9}}}}", "42") == 0.0
    assert time.monotonic() - start < 20
    assert equal_expressions(r"\boxed{\frac{84}{2}}", "42") == 1.0


def test_threads_may_ask_at_the_same_time():
    verdicts = {}

    def ask(number):
        verdicts[number] = equal_expressions(rf"\frac{{{2 * number}}}{{2}}", str(number % 5))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert verdicts == {number: float(number < 5) for number in range(10)}


def test_a_killed_process_is_started_again():
    assert equal_expressions(r"\frac{6}{2}", "3") == 1.0
    mathematics._worker.process.kill()
    mathematics._worker.process.wait()
    mathematics.forget_verdicts()
    assert equal_expressions(r"\frac{6}{2}", "3") == 1.0


class Interrupted(BaseException):
    pass


def test_a_caller_that_stops_waiting_leaves_no_verdict_for_the_next_question():
    def stop(number, frame):
        raise Interrupted

    assert equal_expressions(r"\frac{14}{2}", "7") == 1.0
    worker = mathematics._worker.process
    os.kill(worker.pid, signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Interrupted):
            equal_expressions(r"\frac{16}{2}", "8")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if worker.poll() is None:
        os.kill(worker.pid, signal.SIGCONT)
    assert equal_expressions(r"\frac{18}{2}", "8") == 0.0
    assert equal_expressions(r"\frac{18}{2}", "9") == 1.0


def test_a_worker_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(mathematics, "_worker", None)
    monkeypatch.setattr(mathematics.sys, "executable", "/bin/false")
    mathematics.forget_verdicts()
    with pytest.raises(RuntimeError, match="pip install math-verify"):
        equal_expressions(r"\frac{10}{2}", "5")


OPTIONS = {"A": "12", "B": r"$\frac{1}{2}$", "C": "0.25", "D": "(1, 2]"}


@pytest.mark.parametrize(
    ("answer", "letter", "papers"),
    [
        (r"\boxed{B}", "B", "B"),
        (r"\boxed{\text{B}}", "B", "B"),
        (r"\boxed{\dfrac{1}{2}}", "B", ""),
        (r"\boxed{(1,2]}", "D", ""),
        # The other brackets are another interval.
        (r"\boxed{[1,2)}", "", ""),
        ("B", "B", ""),
        ("The answer is (B)", "B", ""),
        ("12", "A", ""),
        ("112", "", ""),
        (r"\boxed{\$12}", "A", "A"),
        ("the answer is 12", "A", ""),
        ("12 dollars", "A", ""),
        ("12. The text says so.", "A", ""),
        ("12 or 0.25", "", ""),
        ("12; 0.25", "", ""),
        ("not B", "", ""),
        (r"\boxed{A B C D}", "", "ABCD"),
        (r"\boxed{12 0.25}", "", "AC"),
        (r"\boxed{A}\boxed{B}", "", "A"),
        (r"\boxed{}", "", ""),
        ("", "", ""),
    ],
)
def test_an_option_is_chosen_by_letter_or_text(answer, letter, papers):
    for name in OPTIONS:
        assert chosen_option(answer, name, OPTIONS) == (name == letter)
        assert paper.chosen_option(answer, name, OPTIONS) == (name in papers)


def test_a_number_without_its_unit_does_not_choose_between_two_units():
    options = {"A": "75 cents", "B": "75 dollars", "C": "80 dollars"}
    assert chosen_option("75 dollars", "B", options) == 1.0
    assert chosen_option("75", "A", options) == chosen_option("75", "B", options) == 0.0
    assert chosen_option("80", "C", options) == 1.0


def test_an_empty_answer_chooses_no_option_even_one_with_a_blank_text():
    assert chosen_option("", "A", {"A": "'", "B": "2"}) == 0.0
