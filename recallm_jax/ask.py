"""Ask about a document, and see what the answer quotes from where.

    python -m recallm_jax.ask --document=README.md
    python -m recallm_jax.ask --document=README.md --model=runs/quickstart

Where no model is named, SmolLM2-135M-Instruct answers with the adapter in the box. On a terminal
this asks for one question after the other; the document is read once. `--question` asks one
question, and `--questions` those of a JSONL file, with one JSON object an answer on standard
output: `question`, and `document` or `document_file` where --document is not given.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from decoding.sampling import Sampling
from recallm_jax.answering import box
from recallm_jax.answering.arguments import add_model_arguments, check_limit, named_reader
from recallm_jax.answering.console import show_as_it_comes
from recallm_jax.answering.files import answer_row, read_document, read_questions
from recallm_jax.config.load import JobParser, path_argument
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import USER, keep_programs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.ask", __doc__)
    add_model_arguments(parser)
    parser.add_argument(
        "--document", type=path_argument, help="text file; its text may be recalled"
    )
    parser.add_argument("--question", help="ask this one and end")
    parser.add_argument(
        "--questions", type=path_argument, metavar="FILE.jsonl", help="ask these and end"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0, help="of what is sampled; 0")
    parser.add_argument("--quote_first", action="store_true", help="begin with a recall span")
    arguments = parser.parse_args(argv)
    if arguments.question is not None and arguments.questions is not None:
        parser.error("give --question or --questions, not both")
    if arguments.document is None and arguments.questions is None:
        parser.error("--document is missing; give a text file")
    # What is wrong with files is said before the model is loaded.
    document = None if arguments.document is None else read_document(arguments.document)
    pairs = read_questions(arguments.questions, document) if arguments.questions else []
    check_limit(arguments)
    sampling = Sampling(temperature=arguments.temperature)
    keep_programs(USER)
    _say(f"loading {arguments.model or f'the model in the box, {box.NAME}'}")
    reader = named_reader(arguments)
    options = dataclasses.replace(
        reader.options,
        sampling=sampling,
        seed=arguments.seed,
        quote_first=arguments.quote_first,
    )
    reader = dataclasses.replace(reader, options=options)
    if pairs:
        for answer in tqdm(reader.ask(pairs), "answers", total=len(pairs)):
            print(json.dumps(answer_row(answer), ensure_ascii=False), flush=True)
        return
    assert document is not None
    _say(f"reading {len(document):,} characters")
    opened = reader.open(document)
    questions = [arguments.question] if arguments.question is not None else _typed()
    for question in questions:
        try:
            show_as_it_comes(opened.stream(question))
        except UserError as error:
            if arguments.question is not None:
                raise
            print(f"error: {error}", file=sys.stderr)


def _say(line: str) -> None:
    """Print what takes a while, beside the answers."""
    print(f"{line} …", file=sys.stderr, flush=True)


def _typed() -> Iterator[str]:
    """Yield the questions that are typed, or come on standard input, a line each."""
    terminal = sys.stdin.isatty()
    if terminal:
        print("Ask about the document; an empty line ends.", flush=True)
    read = functools.partial(input, "\n> " if terminal else "")
    while True:
        try:
            line = read()
        except EOFError:
            return
        if line.strip():
            yield line
        elif terminal:
            return


if __name__ == "__main__":
    sys.exit(main())
