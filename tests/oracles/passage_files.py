"""Small files in the published layouts of the question-answering data sets, with known content.

Question number i asks for the number word of town i; its answer stands in the gold passages only.
"""

import json
import pathlib

TOWNS = ["Ardel", "Brimo", "Caskin", "Dorvale", "Elmwick", "Fenby", "Gorsten", "Hallow", "Ivre"]
MAYORS = ["Nadir", "Oskel", "Pavlo", "Quist", "Rowan", "Sabel", "Tamsin", "Ulric", "Vesna"]
FILLERS = [
    [f"Lake {name}", [f"Lake {name} is a lake of {size} hectares.", f" Its shore has {size} inns."]]
    for size, name in enumerate(
        (a + b for a in ("Mor", "Sel", "Tan", "Ruk", "Vol") for b in ("ea", "in", "usk", "ode")), 40
    )
]


def town(i: int) -> list:
    return [TOWNS[i], [f"{TOWNS[i]} is a town.", f" Its mayor is {MAYORS[i]} Holt.", " It rains."]]


def mayor(i: int) -> list:
    born = f" {MAYORS[i]} Holt was born in Port{i} Harbour."
    return [f"{MAYORS[i]} Holt", [f"{MAYORS[i]} Holt likes tea.", born]]


def trap(i: int) -> list:
    """A passage with the answer to question i that is not evidence for it."""
    return [f"Ferry {i}", [f"Ferry {i} is slow.", f" It calls at Port{i} Harbour on weekdays."]]


def hotpot(i: int) -> dict:
    return {
        "_id": f"h{i}",
        "question": f"Where was the mayor of {TOWNS[i]} born?",
        "answer": f"Port{i} Harbour",
        "supporting_facts": [[TOWNS[i], 1], [f"{MAYORS[i]} Holt", 1]],
        "context": [
            FILLERS[i],
            mayor(i),
            FILLERS[i + 1],
            town(i),
            *FILLERS[i + 2 : i + 8],
            trap(i),
        ],
        "type": "bridge",
        "level": "hard",
    }


def musique(i: int) -> dict:
    shown = [FILLERS[i], mayor(i), town(i), *FILLERS[i + 1 : i + 10], trap(i)]
    return {
        "id": f"2hop__{i}",
        "question": f"Where was the mayor of {TOWNS[i]} born?",
        "answer": f"Port{i} Harbour",
        "answer_aliases": [f"Harbour of Port{i}"],
        "answerable": True,
        "question_decomposition": [
            {"id": 1, "question": "who", "answer": f"{MAYORS[i]} Holt", "paragraph_support_idx": 2},
            {"id": 2, "question": "#1", "answer": f"Port{i} Harbour", "paragraph_support_idx": 1},
        ],
        "paragraphs": [
            {
                "idx": idx,
                "title": title,
                "paragraph_text": "".join(sentences),
                "is_supporting": idx in (1, 2),
            }
            for idx, (title, sentences) in enumerate(shown)
        ],
    }


def passage(paragraph: list) -> dict:
    return {"title": paragraph[0], "text": "".join(paragraph[1])}


def dpr(i: int) -> dict:
    return {
        "dataset": "nq_train_psgs_w100",
        "question": f"where was {MAYORS[i].lower()} holt born",
        "answers": [f"Port{i} Harbour", f"Harbour {i}"],
        "positive_ctxs": [{**passage(mayor(i)), "score": 1000, "passage_id": str(i)}],
        "negative_ctxs": [passage(FILLERS[i])],
        "hard_negative_ctxs": [passage(trap(i)), passage(town(i)), passage(FILLERS[i + 1])],
    }


def open_question(i: int) -> dict:
    return {
        "question": f"where was {MAYORS[i].lower()} holt born",
        "answer": [f"Port{i} Harbour", f"Harbour {i}"],
    }


def squad() -> dict:
    def paragraph(i: int) -> dict:
        text = "".join(mayor(i)[1])
        answer = {"text": f"Port{i} Harbour", "answer_start": text.index("Port")}
        return {
            "context": text,
            "qas": [
                {
                    "id": f"q{i}",
                    "question": f"Where was {MAYORS[i]} Holt born?",
                    "answers": [answer, answer],
                    "is_impossible": False,
                },
                {"id": f"n{i}", "question": "Why?", "answers": [], "is_impossible": True},
            ],
        }

    articles = [
        {"title": f"{MAYORS[i]}_Holt", "paragraphs": [paragraph(i)]} for i in range(len(TOWNS))
    ]
    return {"version": "v2.0", "data": articles}


def ranked(i: int, fillers: int = 12) -> dict:
    """Three relevant passages, of grades 1, 3 and 2, and judged ones that are not."""
    texts = [
        (f"Some say {MAYORS[i]} Holt was born near the sea, in Port{i}.", 1),
        (f"{MAYORS[i]} Holt was born in Port{i} Harbour in spring.", 3),
        (f"Port{i} Harbour is the birthplace of {MAYORS[i]} Holt and others.", 2),
        *((f"Judged {i}: {''.join(text)}", 0) for _, text in FILLERS[:fillers]),
    ]
    return {
        "qid": str(100 + i),
        "query": f"birthplace of {MAYORS[i]} Holt",
        "ctxs": [
            {"id": f"p{i}_{number}", "text": text, "label": label}
            for number, (text, label) in enumerate(texts)
        ],
    }


def alce(i: int) -> dict:
    towns = [passage([TOWNS[n], [f"{TOWNS[n]} is a town near a hill."]]) for n in range(9)]
    return {
        "id": f"a{i}",
        "question": f"Which towns are near {MAYORS[i]}?",
        "answers": [[TOWNS[i], f"{TOWNS[i]} Town"], [TOWNS[(i + 1) % 9]], ["Nowhere"]],
        "docs": [*towns, *map(passage, FILLERS)],
    }


def qampari(i: int) -> dict:
    def answer(n: int) -> dict:
        return {
            "answer_text": TOWNS[n],
            "aliases": [f"{TOWNS[n]} Town"],
            "proof": [
                {"proof_text": "This says nothing of it.", "found_in_url": "https://x.org/wiki/Y"},
                {
                    "proof_text": f"The town of {TOWNS[n]} lies near.",
                    "found_in_url": f"https://en.wikipedia.org/wiki/{TOWNS[n]}_%28town%29",
                },
            ],
        }

    return {
        "qid": f"q{i}",
        "question_text": f"Which towns are near {MAYORS[i]}?",
        "answer_list": [answer(i), answer((i + 1) % 9)],
    }


def write_json(path: pathlib.Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in value), encoding="utf-8")
    else:
        path.write_text(json.dumps(value), encoding="utf-8")


def write_multi_hop(folder: pathlib.Path) -> None:
    """Write all three data sets, their splits apart."""
    for split, numbers in (("train", range(6)), ("dev", range(6, 9))):
        rows = [hotpot(i) for i in numbers]
        name = "hotpot_train_v1.1" if split == "train" else "hotpot_dev_distractor_v1"
        write_json(folder / f"{name}.json", rows)
        write_json(folder / "2wiki" / f"{split}.json", rows)
        write_json(folder / f"musique_ans_v1.0_{split}.jsonl", [musique(i) for i in numbers])


def write_all(folder: pathlib.Path) -> None:
    write_multi_hop(folder)
    for split, numbers in (("train", range(6)), ("dev", range(6, 9))):
        write_json(folder / f"biencoder-nq-{split}.json", [dpr(i) for i in numbers])
        write_json(folder / f"biencoder-trivia-{split}.json", [dpr(i) for i in numbers])
        write_json(folder / "msmarco_v2" / f"{split}.jsonl", [ranked(i) for i in numbers])
        write_json(folder / "qampari" / f"{split}_data.jsonl", [qampari(i) for i in numbers])
