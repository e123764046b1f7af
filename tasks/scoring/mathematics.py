"""Decide whether answers are mathematically equal, by math-verify in a separate process."""

import atexit
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from tasks.scoring.answers import CHOICE, readings
from tasks.scoring.candidates import chosen_letter

MAX_EXPRESSION = 200
LIMIT_SECONDS = 2.0

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_DISPLAY = re.compile(r"\$\$?|\\[()\[\]]")
_NUMBER = r"-?\d{1,40}(?:,\d{3}){0,20}(?:\.\d{1,40})?"
_PLAIN = re.compile(_NUMBER)
_CURRENCY = re.compile(r"\\?[$\u20ac\u00a3]")
# A number with up to three words after it, its unit, and in a sentence with words before it.
_AMOUNT = re.compile(rf"({_NUMBER})(?: [A-Za-z'\u2019-]{{2,}}){{0,3}}")
_SENTENCE = re.compile(rf"(?:I |[A-Za-z'\u2019-]{{2,}} ){{1,6}}{_AMOUNT.pattern}")
# Words that are no unit: with them the value is another one.
_SCALES = frozenset(
    (
        *("hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "halves"),
        *("thirds", "tenths", "pi", "squared", "cubed", "factorial", "square", "root", "sqrt"),
        *("sin", "cos", "tan", "log", "ln", "base", "mod", "modulo", "minus", "negative", "plus"),
        *("times", "not", "no", "than", "least", "most", "about", "around", "nearly", "almost"),
        *("over", "under"),
    )
)
_LEAD_IN = re.compile(r"\b(?:is|are|equals|be)\b")
# Words that are not LaTeX commands.
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s?\{([^{}]{0,200})\}")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:!$]|[\s$]+")
# "4 2" is not "42".
_NEEDLESS = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")


def boxed(text: str) -> list[str]:
    """Return the content of every closed `\\boxed{}`; of nested ones only the outermost."""
    found, box = [], _BOXED.search(text)
    while box:
        start, depth = box.end(), 1
        for brace in _BRACE.finditer(text, start):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                found.append(text[start : brace.start()].strip())
                box = _BOXED.search(text, brace.end())
                break
        else:
            break
    return found


def final_expression(answer: str, reference: str = "") -> str:
    """Return the one expression that an answer gives, "" if it gives none or several.

    It is the content of `\\boxed{}`, which must be the same in all boxes. Without a box it is a
    number, with its unit, before an explanation (`answers.readings`); or what the last line ends
    in: the text after the last "is", "are", "equals" or "be", and after the last ":" and "=" unless
    the reference has one; or the number in which a sentence before an explanation ends. An answer
    that offers a choice, or states another number by itself or as the left side ("76 is 75"), gives
    none.
    """
    boxes = set(boxed(answer))
    if boxes:
        return boxes.pop() if len(boxes) == 1 else ""
    lines = [line for line in answer.splitlines() if line.strip()]
    if not lines or len(lines[-1]) > 2 * MAX_EXPRESSION or _chooses(answer, reference):
        return ""
    _, *parts = readings(answer)
    for part in parts:
        if _amount(part) is not None:
            return part
    tails = [_tail(line, reference) for line in (lines[-1], *reversed(parts))]
    values = [_amount(tail, in_sentence=True) for tail in tails]
    found = next((i for i, value in enumerate(values) if value is not None), 0)
    stated = {_amount(part) for part in re.split(r"[.;]\s|\n", answer)} - {None, values[found]}
    return "" if stated else tails[found]


def _tail(line: str, reference: str) -> str:
    """Return what a line says after its last verb or sign; "" if that is said of another number."""
    text = _DISPLAY.sub(" ", _CURRENCY.sub(" ", line))
    signs = "".join(sign for sign in ":=" if sign not in reference)
    *before, tail = re.split(rf"{_LEAD_IN.pattern}|[{signs}]" if signs else _LEAD_IN, text)
    sides = [part.strip(" ,;") for part in before]
    others = {_number(side) for side in sides if _PLAIN.fullmatch(side)}
    return "" if others - {_amount(tail)} else _bare(tail)


def _amount(text: str, *, in_sentence: bool = False) -> Fraction | None:
    """Return the number of a text that is one number with its currency or unit, else None.

    Args:
      in_sentence: whether up to six words may come before it.
    """
    text = _bare(" ".join(_CURRENCY.sub(" ", _TEXT.sub(r" \1 ", text)).split()))
    found = _AMOUNT.fullmatch(text) or (_SENTENCE.fullmatch(text) if in_sentence else None)
    if found is None or not _SCALES.isdisjoint(text.casefold().split()):
        return None
    return _number(found[1])


def _chooses(text: str, reference: str) -> bool:
    """Return whether a text offers a choice that the reference does not."""
    return bool(CHOICE.search(text)) and not CHOICE.search(reference)


_RELATIONS = re.compile(r"\\(?:approx|sim|simeq|neq|ne|not)(?![a-z])|\u2248|\u2260")


def equal_expressions(answer: str, reference: str) -> float:
    """Return 1 if the answer's final expression equals the reference mathematically.

    The paper tests whether the reference is a substring of the first `\\boxed{}`
    (arXiv 2604.09494, appendix D.3), so that "40, 41, 42" and "142" equal 42, but 0.5 does not
    equal 1/2. Ours asks math-verify; a list or several different boxes do not equal a number. An
    expression of more than MAX_EXPRESSION characters, or one that takes more than LIMIT_SECONDS,
    scores 0. Plain numbers are compared exactly, without math-verify, and so are numbers with a
    unit or a currency if the reference is a number.
    """
    inner = boxed(reference)
    reference = (inner[0] if inner else reference).strip().strip("$").strip()
    expression = final_expression(answer, reference)
    if not expression or not reference or len(expression) > MAX_EXPRESSION:
        return 0.0
    if _squeezed(expression) == _squeezed(reference):
        return 1.0
    if _chooses(expression, reference):
        return 0.0
    given, wanted = _amount(expression, in_sentence=True), _amount(reference)
    if given is not None and wanted is not None:
        return float(given == wanted)
    if len(_WORDS.findall(_TEXT.sub(" ", expression))) > 3:
        return 0.0
    # An expression with two values, such as 42 \approx 43: either could be meant.
    if set(_RELATIONS.findall(expression)) - set(_RELATIONS.findall(reference)):
        return 0.0
    return _verified(reference, expression)


def chosen_option(answer: str, letter: str, options: Mapping[str, str]) -> float:
    """Return 1 if the answer chooses an option by its letter or by its text.

    The paper tests whether the letter or the text is a substring of the first `\\boxed{}`
    (arXiv 2604.09494, appendix D.3), so that "A B C D" is always right. In ours the `\\boxed{}`, or
    without one the answer, must be the text of one option, up to spacing, or name one letter
    (`chosen_letter`). Several different boxes score 0.
    """
    boxes = boxed(answer)
    if len(set(boxes)) > 1:
        return 0.0
    given = boxes[0] if boxes else answer
    if len(given) <= 2 * MAX_EXPRESSION + max(map(len, options.values()), default=0):
        for reading in readings(given):
            bare, value = _bare(_squeezed(reading)), _amount(reading, in_sentence=True)
            meant = {n for n, text in options.items() if bare and bare == _bare(_squeezed(text))}
            if meant:
                return float(letter in meant)
            # Two options may have one number with different units.
            meant = {n for n, text in options.items() if _amount(text) == value}
            if value is not None and len(meant) == 1:
                return float(letter in meant)
    return chosen_letter(_TEXT.sub(r" \1 ", given).replace("$", " ").strip(), letter, options)


def _squeezed(text: str) -> str:
    """Return LaTeX without spacing and with all fractions written as \\frac."""
    text = _NEEDLESS.sub("", _SPACING.sub(" ", _TEXT.sub(r"\1", text)))
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _bare(text: str) -> str:
    return text.strip(" \t\"'`*").removesuffix(".").strip()


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


class _Worker:
    """A process that compares expressions.

    Raises:
      RuntimeError: it does not start, so that no answer can be scored.
    """

    def __init__(self):
        # -P: do not search this folder, the script's own, for modules.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        ready = False
        try:
            ready = self._read() == "ready"
        finally:
            if not ready:
                self.stop()
        if not ready:
            raise RuntimeError(
                "math-verify does not start; see why with python -m tasks.scoring.math_worker, "
                "or install it: pip install math-verify"
            )

    def ask(self, reference: str, expression: str) -> bool | None:
        """Return the verdict; None if the expressions made the process die."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([LIMIT_SECONDS, reference, expression]) + "\n")
            self.process.stdin.flush()
        except OSError:
            return None
        reply = self._read()
        return reply == "1" if reply else None

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        """End the process and close its pipes."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()


_worker: _Worker | None = None
_worker_lock = threading.Lock()


@functools.lru_cache(maxsize=4096)
def _verified(reference: str, expression: str) -> float:
    """Return 1 if math-verify finds two expressions equal within the time limit, else 0."""
    global _worker
    with _worker_lock:
        if _worker is not None and _worker.process.poll() is not None:
            _stop()
        _worker = _worker or _Worker()
        try:
            verdict = _worker.ask(reference, expression)
        except BaseException:
            # An interrupted caller, for example at a time limit, leaves a reply unread: the next
            # question must not find it.
            _stop()
            raise
        if verdict is None:
            _stop()
    return float(bool(verdict))


def forget_verdicts() -> None:
    """Forget all verdicts, so that every pair is compared again (for benchmarks)."""
    _verified.cache_clear()


def _stop() -> None:
    global _worker
    if _worker is not None:
        worker, _worker = _worker, None
        worker.stop()


def _forget() -> None:
    """Leave the process to the parent; a forked process must not write into its pipes."""
    global _worker, _worker_lock
    _worker, _worker_lock = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
