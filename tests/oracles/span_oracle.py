"""Brute force for the span rules: every allowed set by looking at every position of the prompt."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OraclePrompt:
    """One prompt, unpadded, with a flag a token."""

    tokens: list[int]
    copyable: list[bool]
    span_start: list[bool]
    span_end: list[bool]


def matches(prompt: OraclePrompt, copied: list[int], barriers: tuple[int, ...]) -> list[int]:
    """Return all places that `copied` may have been copied from."""
    found = []
    for start in range(len(prompt.tokens)):
        if not prompt.span_start[start]:
            continue
        places = range(start, start + max(1, len(copied)))
        if all(
            place < len(prompt.tokens)
            and prompt.copyable[place]
            and prompt.tokens[place] not in barriers
            for place in places
        ) and prompt.tokens[start : start + len(copied)] == list(copied):
            found.append(start)
    return found


def open_span(response: list[int], rules) -> list[int] | None:
    """Return the tokens copied by the span that is open after `response`, None outside a span."""
    copied = None
    for token in response:
        if copied is None:
            copied = [] if token == rules.start_token else None
        elif token == rules.end_token:
            copied = None
        else:
            copied = [*copied, token]
    return copied


def allowed_tokens(prompt: OraclePrompt, response: list[int], rules, budget: int) -> set[int]:
    """Return the tokens that may follow `response`; all of it may hold `budget` tokens."""
    left = budget - len(response)
    copied = open_span(response, rules)
    if copied is None:
        allowed = set(range(rules.vocab_size)) - {rules.end_token}
        if left < rules.min_length + 2 or not matches(prompt, [], rules.barriers):
            allowed -= {rules.start_token}
        return allowed
    if len(copied) >= rules.max_length or left <= 1:
        return {rules.end_token}
    depth = len(copied)
    going_on, closing = set(), False
    for start in matches(prompt, copied, rules.barriers):
        place = start + depth
        if (
            place < len(prompt.tokens)
            and prompt.copyable[place]
            and prompt.tokens[place] not in rules.barriers
        ):
            going_on.add(prompt.tokens[place])
        if depth >= rules.min_length and prompt.span_end[place - 1]:
            closing = True
    return going_on | ({rules.end_token} if closing or not going_on else set())
