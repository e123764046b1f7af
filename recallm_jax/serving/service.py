"""One model that answers the questions of many clients, one after the other."""

import asyncio
import collections
import contextlib
import dataclasses
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from recallm_jax.answering.answer import Answer
from recallm_jax.answering.questions import Options
from recallm_jax.answering.reader import OpenDocument, Reader

# The end of a job's answers.
_END = object()


class Busy(Exception):
    """More questions wait than the service takes."""


@dataclasses.dataclass(frozen=True)
class Inquiry:
    """A question about a document, and the system prompt in the place of the reader's own."""

    document: str
    question: str
    options: Options
    system: str | None = None


@dataclasses.dataclass(frozen=True)
class _Job:
    inquiry: Inquiry
    emit: Callable[[Any], None]
    gone: threading.Event


class Service:
    """Answers inquiries in their order, in a thread of its own, which alone uses the model.

    Documents that were read last are kept, so that further questions about them are answered at
    once. An answer depends on its inquiry alone.
    """

    def __init__(self, reader: Reader, *, most_waiting: int, most_documents: int):
        self.reader = reader
        self._waiting: queue.Queue[_Job | None] = queue.Queue(most_waiting)
        self._documents: collections.OrderedDict[tuple[str | None, str], OpenDocument]
        self._documents = collections.OrderedDict()
        self._most_documents = most_documents
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of inquiries that wait for their turn."""
        return self._waiting.qsize()

    async def answers(self, inquiry: Inquiry) -> AsyncGenerator[Answer, None]:
        """Yield the answer so far now and then, at last the whole one.

        If the caller stops before, so does the model.

        Raises:
          Busy: as many inquiries wait as the service takes.
          InputError: the inquiry can't be answered, because of what it asks.
        """
        loop, results = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def emit(result: Any) -> None:
            # The loop may have ended, and nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(results.put_nowait, result)

        job = _Job(inquiry, emit, threading.Event())
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise Busy from None
        try:
            while (result := await results.get()) is not _END:
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            job.gone.set()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            if job.gone.is_set():
                continue
            try:
                inquiry = job.inquiry
                for answer in self._opened(inquiry).stream(inquiry.question, inquiry.options):
                    if job.gone.is_set():
                        break
                    job.emit(answer)
                job.emit(_END)
            except Exception as error:
                job.emit(error)

    def _opened(self, inquiry: Inquiry) -> OpenDocument:
        """Return the document of an inquiry, read if it is not kept."""
        key = (inquiry.system, inquiry.document)
        if key not in self._documents:
            reader = self.reader
            if inquiry.system is not None:
                settings = dataclasses.replace(reader.settings, system=inquiry.system)
                reader = dataclasses.replace(reader, settings=settings)
            while len(self._documents) >= self._most_documents:
                self._documents.popitem(last=False)
            self._documents[key] = reader.open(inquiry.document, inquiry.options)
        self._documents.move_to_end(key)
        return self._documents[key]
