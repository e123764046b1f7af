"""HELMET's tasks with their data, sizes, limits, metrics and forms."""

import dataclasses

from tasks.suites.helmet import (
    cited_answers,
    classification,
    long_documents,
    lookups,
    passages,
    scores,
)
from tasks.suites.helmet.selection import Reader

LENGTHS = (8192, 16_384, 32_768, 65_536, 131_072)
CATEGORIES = ("Recall", "RAG", "Re-rank", "Cite", "LongQA", "Summ", "ICL")
SAMPLES, ICL_SAMPLES = 100, 500


@dataclasses.dataclass(frozen=True)
class HelmetTask:
    """One row of HELMET's table.

    Attributes:
      sizes: the number of items, or of tokens of a long text, at each of LENGTHS.
      metrics: the metrics that count for the category's mean.
      request: the text in which the recall form asks for the answer.
      chat: whether the benchmark's form uses the chat template.
      joint: the text before the lead-in, if the form does not use the template.
      lead_in: put before an output of the plain form when it is scored. (The needles' lead-in is
        left out, because it differs by row and holds no value.)
    """

    name: str
    category: str
    reader: Reader
    sizes: tuple[int, ...]
    new_tokens: int
    score: scores.ScoreOutput
    metrics: tuple[str, ...]
    request: str
    chat: bool = False
    joint: str = "\n"
    lead_in: str = ""
    samples: int = SAMPLES


def _minus(tokens: int) -> tuple[int, ...]:
    return tuple(length - tokens for length in LENGTHS)


_LINE = "End your reply with one line: Answer: "
_VALUE = _LINE + "the value"
_SHORT = _LINE + "the answer, as short as it can be"
_TEXT = "Begin your reply, behind the thought, with Answer: and let the whole text follow."


def _needles(name: str, new_tokens: int, request: str) -> HelmetTask:
    return HelmetTask(
        name=f"ruler_niah_{name}",
        category="Recall",
        reader=lookups.needles,
        sizes=LENGTHS,  # The rows have the right length already.
        new_tokens=new_tokens,
        score=scores.ruler,
        metrics=("ruler_recall",),
        request=request,
    )


def _rag(name: str) -> HelmetTask:
    return HelmetTask(
        name=f"kilt_{name}",
        category="RAG",
        reader=passages.kilt,
        sizes=(50, 105, 220, 440, 1000),
        new_tokens=20,
        score=scores.contained("Answer:"),
        metrics=("substring_exact_match",),
        request=_SHORT,
        lead_in="Answer:",
    )


def _cite(name: str, score: scores.ScoreOutput, metric: str, request: str) -> HelmetTask:
    return HelmetTask(
        name=f"alce_{name}",
        category="Cite",
        reader=cited_answers.alce,
        sizes=(30, 75, 165, 345, 700),
        new_tokens=300,
        score=score,
        metrics=(metric, "citation_rec", "citation_prec"),
        request=request,
        chat=True,
        joint="\n\n",
    )


def _infbench(
    name: str, category: str, new_tokens: int, score: scores.ScoreOutput, metric: str, request: str
) -> HelmetTask:
    return HelmetTask(
        name=f"infbench_{name}",
        category=category,
        reader=long_documents.infbench,
        sizes=_minus(200 + new_tokens),
        new_tokens=new_tokens,
        score=score,
        metrics=(metric,),
        request=request,
        chat=True,
        joint="\n\n",
    )


def _icl(name: str, *sizes: int) -> HelmetTask:
    return HelmetTask(
        name=f"icl_{name}",
        category="ICL",
        reader=classification.labels,
        sizes=sizes,
        new_tokens=20,
        score=scores.label(classification.LEAD_IN),
        metrics=("exact_match",),
        request=_LINE + "label: and the number",
        lead_in=classification.LEAD_IN,
        samples=ICL_SAMPLES,
    )


TASKS = (
    _needles("mk_2", 50, _VALUE),
    _needles("mk_3", 100, _VALUE),
    _needles("mv", 50, _LINE + "the values, separated by commas"),
    HelmetTask(
        name="json_kv",
        category="Recall",
        reader=lookups.json_kv,
        sizes=(105, 220, 440, 900, 1800),
        new_tokens=100,
        score=scores.contained(lookups.VALUE_LEAD_IN),
        metrics=("substring_exact_match",),
        request=_VALUE,
        lead_in=lookups.VALUE_LEAD_IN,
    ),
    _rag("nq"),
    _rag("triviaqa"),
    _rag("hotpotqa"),
    _rag("popqa_3"),
    HelmetTask(
        name="msmarco_rerank_psg",
        category="Re-rank",
        reader=passages.msmarco,
        sizes=(50, 130, 285, 600, 1000),
        new_tokens=200,
        score=scores.ranking,
        metrics=("NDCG@10",),
        request=_LINE + "the IDs, best first, as in ID3 > ID1 > ID2",
        lead_in="Ranking:",
    ),
    _cite("asqa", scores.asqa, "str_em", _TEXT),
    _cite(
        "qampari",
        scores.qampari,
        "qampari_rec_top5",
        _LINE + "the list, separated by commas, each with its [n]",
    ),
    HelmetTask(
        name="narrativeqa",
        category="LongQA",
        reader=long_documents.narrativeqa,
        sizes=_minus(300),
        new_tokens=100,
        score=scores.graded_answer,
        metrics=("gpt-4-score",),
        request=_SHORT,
        chat=True,
    ),
    _infbench("qa_eng", "LongQA", 10, scores.rouge_answer, "rougeL_f1", _SHORT),
    _infbench("choice_eng", "LongQA", 10, scores.choice, "exact_match", _LINE + "the letter"),
    _infbench("sum_eng", "Summ", 1200, scores.summary("Answer:"), "gpt-4-f1", _TEXT),
    HelmetTask(
        name="multi_lexsum",
        category="Summ",
        reader=long_documents.multi_lexsum,
        sizes=_minus(700),
        new_tokens=400,
        score=scores.summary("Summary:"),
        metrics=("gpt-4-f1",),
        request=_TEXT,
        chat=True,
        joint="\n\n",
    ),
    _icl("trec_coarse", 400, 800, 1600, 3300, 6600),
    _icl("trec_fine", 400, 800, 1600, 3200, 6400),
    _icl("banking77", 360, 720, 1450, 2900, 5900),
    _icl("clinic150", 440, 880, 1750, 3525, 7050),
    _icl("nlu", 510, 1020, 2040, 4080, 8296),
)
