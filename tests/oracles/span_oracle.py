"""Brute force for the span rules: every allowed set by looking at every place of the context."""

import dataclasses

BEGINS, WORD_FIRST, WORD_LAST = 1, 2, 4


@dataclasses.dataclass(frozen=True)
class OraclePrompt:
    """One prompt, unpadded, with a flag a token."""

    tokens: list[int]
    copyable: list[bool]
    span_start: list[bool]
    span_end: list[bool]


def with_response(prompt: OraclePrompt, response: list[int], rules, before: int) -> OraclePrompt:
    """Return the prompt followed by a response, as a text to copy from.

    Args:
      before: the token that stands for the last of a prompt that has none.
    """
    tokens = [*(prompt.tokens[-1:] or [before]), *response]

    def boundary(i):
        """Whether a unit begins between response tokens i - 1 and i."""
        first, second = rules.edges[tokens[i]], rules.edges[tokens[i + 1]]
        return bool(second & BEGINS) and not (first & WORD_LAST and second & WORD_FIRST)

    boundaries = [boundary(i) for i in range(len(response))]
    spans = {rules.start_token, rules.end_token}
    return OraclePrompt(
        tokens=[*prompt.tokens, *response],
        copyable=[*prompt.copyable, *(token not in spans for token in response)],
        span_start=[*prompt.span_start, *boundaries],
        span_end=[*prompt.span_end, *boundaries[1:], True],
    )


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


def context_of(prompt: OraclePrompt, response: list[int], rules, before: int) -> OraclePrompt:
    """Return the text that the span open after `response`, or the next one, may copy from."""
    if rules.copy_source == "prompt":
        return prompt
    copied = open_span(response, rules)
    if copied is None:
        # As if the next token opened a span.
        return with_response(prompt, [*response, rules.start_token], rules, before)
    opened = len(response) - len(copied)
    return with_response(prompt, response[:opened], rules, before)


def allowed_tokens(
    prompt: OraclePrompt, response: list[int], rules, budget: int, before: int = 0
) -> set[int]:
    """Return the tokens that may follow `response`; all of it may hold `budget` tokens."""
    left = budget - len(response)
    copied = open_span(response, rules)
    if rules.paper_compatible:
        everywhere = [True] * len(prompt.tokens)
        prompt = OraclePrompt(prompt.tokens, everywhere, everywhere, everywhere)
        rules = dataclasses.replace(
            rules,
            barriers=(rules.start_token, rules.end_token),
            edges=bytes([BEGINS] * len(rules.edges)),
        )
    context = context_of(prompt, response, rules, before)
    if copied is None:
        allowed = set(range(rules.vocab_size))
        if rules.paper_compatible:
            return allowed
        if left < rules.min_length + 2 or not matches(context, [], rules.barriers):
            allowed -= {rules.start_token}
        return allowed - {rules.end_token}
    if len(copied) >= rules.max_length or (left <= 1 and not rules.paper_compatible):
        return {rules.end_token}
    depth = len(copied)
    going_on, closing = set(), rules.paper_compatible
    for start in matches(context, copied, rules.barriers):
        place = start + depth
        if (
            place < len(context.tokens)
            and context.copyable[place]
            and context.tokens[place] not in rules.barriers
        ):
            going_on.add(context.tokens[place])
        if depth >= rules.min_length and context.span_end[place - 1]:
            closing = True
    return going_on | ({rules.end_token} if closing or not going_on else set())
