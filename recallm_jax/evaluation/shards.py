"""Parts of one evaluation, made by processes that do not talk to each other.

Shard i of n answers the records i, i + n, i + 2n, … of every task. Its rows lie in a folder of its
own below the evaluation's, with the config that made them and the list of all records:

    WORKDIR/eval/LABEL/shards/0_of_4/{config.json, examples.json, TASK.MODE.jsonl}

`merge.py` joins them.
"""

import dataclasses
import json
import re
from collections.abc import Sequence

from recallm_jax.runtime.errors import UserError
from storage.files import Path, read_text, write_whole
from tasks.prompts.record import Record

SHARDS, EXAMPLES = "shards", "examples.json"
# Example ids of the tasks, in their order.
Examples = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part `number`, counted from 0, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number}_of_{self.count}"

    def of(self, records: Sequence[Record]) -> list[Record]:
        """Return the shard's records."""
        return list(records[self.number :: self.count])


def parse_shard(text: str) -> Shard:
    """Return the shard that `--shard=i/n` names.

    Raises:
      UserError: the text does not name a shard.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(
            f"--shard={text} must be i/n with i from 0 to n - 1, such as 0/4 to 3/4 on four hosts"
        )
    return Shard(int(match[1]), int(match[2]))


def shard_folders(folder: Path) -> list[Path]:
    """Return the folders of an evaluation's shards, in order of their names."""
    return sorted(path.parent for path in folder.glob(f"{SHARDS}/*/config.json"))


def note_examples(folder: Path, task: str, records: Sequence[Record]) -> None:
    """Write the ids of a task's records into a shard's folder; the join reads them."""
    ids = [record.example_id for record in records]
    examples = read_examples(folder)
    if examples.get(task) != ids:
        write_whole(folder / EXAMPLES, json.dumps(examples | {task: ids}))


def read_examples(folder: Path) -> Examples:
    """Return the records of each task, as `note_examples` wrote them.

    Raises:
      UserError: it is damaged.
    """
    path = folder / EXAMPLES
    if not path.exists():
        return {}
    try:
        examples = json.loads(read_text(path))
        if not isinstance(examples, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and run its shard again"
        ) from None
    return examples
