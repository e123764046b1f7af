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

from tasks.scoring.candidates import chosen_letter

MAX_EXPRESSION = 200
LIMIT_SECONDS = 2.0

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_DISPLAY = re.compile(r"\$\$?|\\[()\[\]]")
_PLAIN = re.compile(r"-?\d{1,40}(?:,\d{3})*(?:\.\d{1,40})?")
_LEAD_IN = re.compile(r"\b(?:is|are|equals|be)\b")
# Words that are not LaTeX commands.
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s?\{([^{}]{0,200})\}")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:!]|[\s$]+")
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

    It is the content of `\\boxed{}`, which must be the same in all boxes. Without a box it is the
    text after the last "is", "are", "equals" or "be" of the last line, and after the last ":" and
    "=" unless the reference has one.
    """
    boxes = set(boxed(answer))
    if boxes:
        return boxes.pop() if len(boxes) == 1 else ""
    lines = [line for line in answer.splitlines() if line.strip()]
    if not lines or len(lines[-1]) > 2 * MAX_EXPRESSION:
        return ""
    text = _DISPLAY.sub(" ", lines[-1])
    text = _LEAD_IN.split(text)[-1]
    for sign in ":=":
        text = text if sign in reference else text.rpartition(sign)[2]
    return _bare(text)


_RELATIONS = re.compile(r"\\(?:approx|sim|simeq|neq|ne|not)(?![a-z])|\u2248|\u2260")


def equal_expressions(answer: str, reference: str) -> float:
    """Return 1 if the answer's final expression equals the reference mathematically.

    The paper tests whether the reference is a substring of the first `\\boxed{}`
    (arXiv 2604.09494, appendix D.3), so that "40, 41, 42" and "142" equal 42, but 0.5 does not
    equal 1/2. Ours asks math-verify; a list or several different boxes do not equal a number. An
    expression of more than MAX_EXPRESSION characters, or one that takes more than LIMIT_SECONDS,
    scores 0. Plain numbers are compared exactly, without math-verify.
    """
    inner = boxed(reference)
    reference = (inner[0] if inner else reference).strip().strip("$").strip()
    expression = final_expression(answer, reference)
    if not expression or not reference or len(expression) > MAX_EXPRESSION:
        return 0.0
    if _squeezed(expression) == _squeezed(reference):
        return 1.0
    if _PLAIN.fullmatch(expression) and _PLAIN.fullmatch(reference):
        return float(_number(expression) == _number(reference))
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
    given = _TEXT.sub(r" \1 ", boxes[0] if boxes else answer).replace("$", " ").strip()
    if len(given) <= 2 * MAX_EXPRESSION + max(map(len, options.values()), default=0):
        bare = _bare(_squeezed(given))
        meant = {n for n, value in options.items() if bare and bare == _bare(_squeezed(value))}
        if meant:
            return float(letter in meant)
    return chosen_letter(given, letter, options)


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
