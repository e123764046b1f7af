"""The page in a browser, with a service that answers by hand."""

import asyncio
import re
import threading
import time

import pytest

from recallm_jax.answering.answer import Answer, Span
from recallm_jax.answering.questions import Options
from recallm_jax.serving.app import make_app
from recallm_jax.serving.chat import Served
from recallm_jax.serving.service import Busy, Service
from storage.errors import InputError
from tests.oracles.http_server import running

pytest.importorskip("selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.oracles import browser

pytestmark = pytest.mark.skipif(not browser.INSTALLED, reason="needs chromium and its driver")

OPEN, CLOSE = "<|start_recall|>", "<|end_recall|>"
# Emoji are one character for the server and two for the page.
KEEPERS = "🙂 The log.\r\nAda Thorne 🕯 kept the lamp.\r\nIt burned oil.\r\nAda Thorne 🕯 left.\r\n"


class Scripted(Service):
    """Answers with given states: one at once, each further one when it is let go.

    Attributes:
      script: the states, or an error in the place of one.
      inquiries: what was asked.
      ended: whether the last answer ended, by itself or because its client went away.
    """

    def __init__(self):
        self.begin([])

    def begin(self, script):
        self.script, self.inquiries = script, []
        self.ended, self._free = threading.Event(), threading.Semaphore()

    def let_go(self, states=1):
        self._free.release(states)

    @property
    def waiting(self):
        return 0

    def close(self):
        pass

    async def answers(self, inquiry):
        self.inquiries.append(inquiry)
        try:
            for state in self.script:
                while not self._free.acquire(blocking=False):
                    await asyncio.sleep(0.01)
                if isinstance(state, Exception):
                    raise state
                yield state
        finally:
            self.ended.set()


def state(document, text, *, finished=True):
    """Return the answer that a text is, with spans where its recall tags stand."""
    spans = []
    for found in re.finditer(r"<\|start_recall\|>(.*?)(<\|end_recall\|>|$)", text, re.DOTALL):
        copied = found[1].rstrip("\ufffd")
        places = [place.span() for place in re.finditer(re.escape(copied), document)]
        spans.append(Span(found[1], found.span(1), tuple(places), bool(found[2])))
    return Answer(
        number=0,
        document=document,
        question="?",
        text=text,
        answer="",
        spans=tuple(spans),
        finished=finished,
        prompt_tokens=1200,
        tokens=34,
    )


@pytest.fixture(scope="module")
def service():
    return Scripted()


@pytest.fixture(scope="module")
def server(service):
    model = Served("lamp <b>7</b>", Options(), thinks=True)
    with running(make_app(service, model, max_body_bytes=2_000_000)) as address:
        yield address


@pytest.fixture(scope="module")
def driver():
    with browser.chromium() as driver:
        yield driver


@pytest.fixture
def page(driver, server, service):
    browser.set_screen(driver, 1280, 800)
    driver.get(server)
    yield Page(driver, service)
    # Errors of the page's code, and what the Content-Security-Policy forbids.
    log = driver.get_log("browser")
    assert not [line for line in log if line["source"] != "network"]


class Page:
    """The page as its user sees it."""

    def __init__(self, driver, service):
        self.driver, self.service = driver, service

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, seconds=10):
        """Wait for a condition; return what it found."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    def paste(self, document):
        self.js(
            "const text = document.getElementById('text'); text.value = arguments[0];"
            "text.dispatchEvent(new Event('input'))",
            document,
        )

    def drop(self, content, name="log.txt"):
        """Drop a file of the given bytes on the page."""
        self.js(
            "const dataTransfer = new DataTransfer();"
            "dataTransfer.items.add(new File([new Uint8Array(arguments[0])], arguments[1]));"
            "for (const type of ['dragover', 'drop']) document.body.dispatchEvent("
            "new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))",
            list(content),
            name,
        )

    def ask(self, *script, question="Who kept it?"):
        self.service.begin(script)
        self.find("#question").send_keys(question, Keys.ENTER)

    def ask_all(self, *script, question="Who kept it?"):
        """Ask, and wait for the whole answer."""
        answers = len(self.all("article"))
        self.ask(*script, question=question)
        self.service.let_go(len(script))
        self.until(lambda: self.all("article[aria-busy=false]")[answers:])

    def shown(self, selector):
        """Return the text of an element without numbers of quotes."""
        return self.js(
            "const node = document.querySelector(arguments[0]).cloneNode(true);"
            "for (const small of node.querySelectorAll('small')) small.remove();"
            "return node.textContent",
            selector,
        )

    def marked(self):
        """Return the ranges of UTF-16 units that are marked in the document."""
        return self.js(
            "return [...document.querySelectorAll('mark')].map((mark) => {"
            "  const before = document.createRange();"
            "  before.setStart(document.getElementById('reader'), 0); before.setEndBefore(mark);"
            "  const low = before.toString().length;"
            "  return [low, low + mark.textContent.length] })"
        )

    def in_view(self, element, panel):
        return self.js(
            "const [a, b] = [arguments[0], arguments[1]].map((e) => e.getBoundingClientRect());"
            "return a.top >= Math.max(0, b.top) && a.bottom <= Math.min(innerHeight, b.bottom)",
            element,
            self.find(panel),
        )


GROWING = [
    "I look",
    f"I look: {OPEN}Ada Thorne 🕯 ke",
    f"I look: {OPEN}Ada Thorne 🕯 kept{CLOSE}. <|start_re",
    f"I look: {OPEN}Ada Thorne 🕯 kept{CLOSE}.\n</think>\nIt was {OPEN}Ada Thorne{CLOSE} caf\ufffd",
]
WHOLE = f"I look: {OPEN}Ada Thorne 🕯 kept{CLOSE}.\n</think>\nIt was {OPEN}Ada Thorne{CLOSE} café."


def test_a_growing_answer_is_shown_without_tags_and_marked_where_it_stands(page):
    page.drop(KEEPERS.encode())
    page.ask(*[state(KEEPERS, text, finished=False) for text in GROWING], state(KEEPERS, WHOLE))
    for thought in ("I look", "I look: Ada Thorne 🕯 ke", "I look: Ada Thorne 🕯 kept."):
        page.until(lambda thought=thought: page.shown(".thought") == thought)
        page.service.let_go()
    page.until(lambda: page.shown(".reply") == "It was Ada Thorne caf")
    page.service.let_go()
    page.until(lambda: page.all("article[aria-busy=false]"))
    assert page.shown(".thought") == "I look: Ada Thorne 🕯 kept."
    assert page.shown(".reply") == "It was Ada Thorne café."
    units = KEEPERS.encode("utf-16-le")
    marked = {units[2 * low : 2 * high].decode("utf-16-le") for low, high in page.marked()}
    # The second quote stands in both lines, and is a part of the first one.
    assert marked == {"Ada Thorne", " 🕯 kept"} and len(page.marked()) == 3


def test_a_click_on_a_quote_goes_to_its_places_in_turn_and_back(page):
    document = "\n".join(f"{n}: the lamp" if n in (0, 250) else f"{n}" for n in range(300))
    page.paste(document)
    page.ask_all(state(document, f"{OPEN}the lamp{CLOSE}</think>Lit by {OPEN}the lamp{CLOSE}."))
    quote = page.find(".reply .quote")
    for place, (first, second) in enumerate([(True, False), (False, True), (True, False)]):
        quote.click()
        top, bottom = page.all("mark")
        assert (page.in_view(top, "#reader"), page.in_view(bottom, "#reader")) == (first, second)
        assert f"{place % 2 + 1} of 2" in page.find("#size").text
    page.all("mark")[0].click()
    page.until(lambda: "on" in page.find(".reply .quote").get_attribute("class"))


def test_text_that_looks_like_html_stays_text(page):
    document = "<img src=x onerror=\"document.title='broken'\"> <b>lamp</b>"
    page.paste(document)
    page.ask_all(state(document, f"</think><i>{OPEN}<b>lamp</b>{CLOSE}</i> & <script>1</script>"))
    assert page.shown(".reply") == "<i><b>lamp</b></i> & <script>1</script>"
    assert page.find("#reader").text == document and not page.all("#reader img")
    assert "lamp <b>7</b>" in page.find("header").text and page.driver.title != "broken"


def test_an_error_is_said_in_a_line_and_the_question_stays(page):
    page.paste("The lamp.")
    page.ask(InputError("the question has no word"), question="?!")
    page.until(lambda: page.find("#message").text == "the question has no word")
    assert page.find("#question").get_attribute("value") == "?!" and not page.all("article")
    page.find("#question").clear()
    page.ask(Busy())
    page.until(lambda: "too many questions wait" in page.find("#message").text)


def test_a_stopped_answer_ends_its_request_and_keeps_what_has_come(page):
    page.paste("The lamp.")
    page.ask(*[state("The lamp.", "I look" + "." * n, finished=False) for n in range(9)])
    page.service.let_go()
    page.until(lambda: page.shown(".thought") == "I look.")
    assert not page.find("#ask").is_enabled()
    page.find("#stop").click()
    page.until(lambda: page.all("article[aria-busy=false]"))
    # The server sees it when it writes the next state.
    page.service.let_go()
    assert page.service.ended.wait(5)
    assert "Stopped." in page.find(".note").text and page.find("#ask").is_enabled()


@pytest.mark.parametrize("how", ["dropped", "picked"])
def test_a_file_is_sent_byte_for_byte(page, how, tmp_path):
    if how == "dropped":
        page.drop(KEEPERS.encode())
    else:
        path = tmp_path / "log.txt"
        path.write_bytes(KEEPERS.encode())
        page.find("#file").send_keys(str(path))
    page.until(lambda: page.find("#name").text == "log.txt")
    page.ask_all(state(KEEPERS, "</think>No."))
    (inquiry,) = page.service.inquiries
    assert (inquiry.document, inquiry.question) == (KEEPERS, "Who kept it?")
    assert "No quote" in page.find(".note").text


def test_a_file_that_is_no_text_is_refused_and_the_document_stays(page):
    page.paste("The lamp.")
    page.drop(b"\xff\xfe\x00", "picture.png")
    page.until(lambda: "picture.png is not text in UTF-8" in page.find("#message").text)
    assert page.find("#text").get_attribute("value") == "The lamp."


def test_answers_stay_and_an_edit_takes_their_marks_away(page):
    page.paste("The lamp burned oil.")
    page.ask_all(state("The lamp burned oil.", f"</think>{OPEN}oil{CLOSE}"), question="What?")
    page.ask_all(state("The lamp burned oil.", f"</think>{OPEN}lamp{CLOSE}"), question="Which?")
    assert [title.text for title in page.all("article h3")] == ["Which?", "What?"]
    assert page.marked() == [[4, 8]]
    page.find("#edit").click()
    page.paste("Another lamp.")
    page.find("#edit").click()
    assert page.marked() == [] and page.find("#reader").text == "Another lamp."
    page.find(".quote").click()
    assert page.marked() == []


def test_a_cut_answer_says_so(page):
    page.paste("The lamp.")
    page.ask_all(state("The lamp.", "I think and think", finished=False))
    assert "Cut at the limit of 34 tokens." in page.find(".note").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width, scheme):
    browser.set_screen(page.driver, width, 800, scheme)
    document = "The keeper wrote " + "a very long line about the lamp " * 12 + "x" * 400
    page.paste(document)
    quote = document[17:220]
    page.ask_all(
        state(document, f"{OPEN}{quote}{CLOSE} {OPEN}{'x' * 400}{CLOSE}</think>{'y' * 300}")
    )
    wide = "return [...document.querySelectorAll('html, #answers, #reader')]"
    wide += ".filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.id)"
    assert page.js(wide) == []
    page.find(".sources button").click()
    assert page.js(wide) == []
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_on_a_phone_a_quote_opens_the_document_and_there_is_a_way_back(page):
    browser.set_screen(page.driver, 390, 800)
    document = "A line.\n" * 200 + "The lamp burned oil."
    page.paste(document)
    page.ask_all(state(document, f"</think>{OPEN}The lamp{CLOSE}"))
    assert not page.find("#reader").is_displayed()
    page.find(".reply .quote").click()
    assert page.in_view(page.find("mark"), "body") and not page.find("#questions").is_displayed()
    page.find("#fold").click()
    assert page.find("#questions").is_displayed() and not page.find("#reader").is_displayed()


@pytest.mark.parametrize("end", ["\n", " 🙂 "])
def test_a_long_document_is_marked_without_a_long_wait(page, end):
    """In a single line, too: laid out as one block, the second takes a quarter of a minute."""
    line = f"The keeper wrote the log and lit the lamp again.{end}"
    document = line * 4000 + f"The oil was rapeseed.{end}" + line * 4000
    assert len(document) > 390_000
    page.drop(document.encode())
    page.until(lambda: page.find("#name").text == "log.txt")
    # A span that has only begun stands in thousands of places.
    texts = [f"</think>{OPEN}T", f"</think>{OPEN}The oil was rapeseed{CLOSE}"]
    page.ask(state(document, texts[0], finished=False), state(document, texts[1]))
    page.until(lambda: "8,001 places" in page.find("#answers").text)
    page.service.let_go()
    page.until(lambda: page.all("mark"))
    page.find(".quote").click()
    mark = page.find("mark.on")
    assert page.in_view(mark, "#reader") and mark.text == "The oil was rapeseed"


def test_quotes_that_overlap_are_marked_together(page):
    page.paste("oil burned")
    page.ask_all(
        state("oil burned", f"{OPEN}oil b{CLOSE} {OPEN}l burned{CLOSE} {OPEN}gas{CLOSE}</think>No.")
    )
    assert page.marked() == [[0, 2], [2, 5], [5, 10]]
    numbers = "return [...document.querySelectorAll('mark')].map((mark) => mark.dataset.numbers)"
    assert page.js(numbers) == [None, "1", "2"]
    assert page.find("#reader").text == "oil burned"
    unknown = page.all(".quote")[2]
    assert unknown.get_attribute("aria-disabled") == "true"


def test_the_keyboard_asks_and_goes_to_a_quote(page):
    page.paste("The lamp burned oil.")
    page.find("#question").send_keys("Which", Keys.SHIFT, Keys.ENTER, Keys.NULL)
    page.ask_all(state("The lamp burned oil.", f"</think>{OPEN}oil{CLOSE}"), question="one?")
    assert page.service.inquiries[0].question == "Which\none?"
    page.find(".quote").send_keys(Keys.ENTER)
    assert page.find("mark.on").text == "oil"


def test_a_broken_answer_is_kept_and_the_question_comes_back(page):
    page.paste("The lamp.")
    page.ask(state("The lamp.", "I look", finished=False), InputError("broken on purpose"))
    page.until(lambda: page.all(".thought") and page.shown(".thought") == "I look")
    page.service.let_go()
    page.until(lambda: "The connection broke." in page.find(".note").text)
    assert page.find("#question").get_attribute("value") == "Who kept it?"
    assert page.find("#message").text and page.find("#ask").is_enabled()
