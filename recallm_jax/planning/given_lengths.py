"""The response lengths that `plan --response_lengths` names: numbers, or a run's files."""

import math
from collections.abc import Sequence
from typing import Any

from recallm_jax.planning.lengths import LengthDistribution, log_normal, of_lengths
from recallm_jax.runtime import jsonl, metrics
from recallm_jax.runtime.errors import UserError
from storage.files import Path, as_path

FLAG = "--response_lengths"
# The deviation of log lengths where only the mean is known: a tenth of the responses have more
# than 2.2 times the mean, a hundredth more than 6.2 times.
SIGMA = 1.0
_FORMS = "give mean:TOKENS, mean:TOKENS,sigma:NUMBER, or a run's metrics.jsonl or folder"


def given_lengths(text: str, limit: int) -> LengthDistribution:
    """Return the distribution that the flag's value names.

    It is "mean:1000" or "mean:1000,sigma:0.6", a log-normal one; or a path, local or on gs://. From
    metrics the mean of `response_tokens` over all steps is taken, with `SIGMA`, because metrics
    do not tell the spread. Rows of an evaluation have their own lengths, which are taken as they
    are. A run's folder stands for its metrics, or if these have no lengths for its evaluations.

    Args:
      limit: the limit of a response in tokens.

    Raises:
      UserError: the value has another form, the mean is impossible, or there are no lengths.
    """
    if text.startswith(("mean:", "sigma:")):
        return _log_normal(text, limit)
    path = as_path(text)
    if not path.exists():
        raise UserError(f"{FLAG}={text}: there is no such file or folder; {_FORMS}")
    for files in _candidates(path):
        rows = [row for file in files for row in _rows(text, file)]
        if means := _values(rows, "response_tokens"):
            mean = sum(means) / len(means)
            _check_mean(text, mean, limit)
            found = log_normal(mean, SIGMA, limit)
            where = f"{len(means)} steps of {text}; the spread is assumed"
            return LengthDistribution(found.survival, f"{found.about} ({where})")
        if own := _values(rows, "completion_tokens"):
            found = of_lengths([round(length) for length in own], limit)
            return LengthDistribution(found.survival, f"{found.about} ({text})")
    raise UserError(
        f"{FLAG}={text} has no lengths: no step with response_tokens, and no response with "
        f"completion_tokens; {_FORMS}"
    )


def _log_normal(text: str, limit: int) -> LengthDistribution:
    values = {"sigma": SIGMA}
    for part in text.split(","):
        name, _, number = part.partition(":")
        if name not in ("mean", "sigma"):
            raise UserError(f"{FLAG}={text}: {part!r} is unknown; {_FORMS}")
        try:
            values[name] = float(number)
        except ValueError:
            values[name] = math.nan
        if not math.isfinite(values[name]):
            raise UserError(f"{FLAG}={text}: {number!r} is not a number; {_FORMS}")
    if "mean" not in values:
        raise UserError(f"{FLAG}={text} has no mean; {_FORMS}")
    if values["sigma"] <= 0:
        raise UserError(
            f"{FLAG}={text}: sigma is the deviation of log lengths; give one above 0, such as "
            f"{SIGMA:g}"
        )
    _check_mean(text, values["mean"], limit)
    return log_normal(values["mean"], values["sigma"], limit)


def _check_mean(text: str, mean: float, limit: int) -> None:
    if mean > limit:
        raise UserError(
            f"{FLAG}={text}: a mean of {mean:g} tokens exceeds the limit of a response, "
            f"config.decoding.max_new_tokens = {limit}; give a lower mean, or raise the limit"
        )
    if mean < 1:
        raise UserError(f"{FLAG}={text}: a mean of {mean:g} tokens is too low; give at least 1")


def _candidates(path: Path) -> list[Sequence[Path]]:
    """Return the sets of files that may hold lengths, the first choice first."""
    if not path.is_dir():
        return [[path]]
    patterns = (metrics.FILE, "eval/*/*.jsonl", "*.jsonl")
    return [sorted(path.glob(pattern)) for pattern in patterns]


def _rows(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        return list(jsonl.read_rows(path, {}))
    except UserError:
        raise UserError(f"{FLAG}={text}: {path} does not hold lines of JSON; {_FORMS}") from None


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if isinstance(row.get(name), jsonl.NUMBER)]
