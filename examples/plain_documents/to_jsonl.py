"""Write the questions with their documents, as the data set `own_questions` reads them.

    python examples/plain_documents/to_jsonl.py data

leaves own_questions_train.jsonl and own_questions_validation.jsonl (those held out) in `data`.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SPLITS = {"train": "train", "held_out": "validation"}


def rows(name: str) -> list[dict]:
    """Return the questions of a file, each with the text of its document."""
    found = []
    for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        file = HERE / row.pop("document_file")
        found.append({"document": file.read_bytes().decode(), **row})
    return found


def main(folder: str) -> None:
    """Write both files."""
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, split in SPLITS.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(name)]
        (out / f"own_questions_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{out}/own_questions_{split}.jsonl: {len(lines)} questions")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: give the folder to write to, such as data")
    main(sys.argv[1])
