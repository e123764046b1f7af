"""The report in a browser: on a phone and on a screen, in light and in dark colours."""

import pytest

from recallm_jax.report import build_report
from tests.oracles.fake_run import write_run

pytest.importorskip("selenium")

from selenium.webdriver.common.by import By

from tests.oracles import browser

pytestmark = pytest.mark.skipif(not browser.INSTALLED, reason="needs chromium and its driver")

PHONE, SCREEN = (390, 844), (1280, 900)
LOOKS = [(*size, scheme) for size in (PHONE, SCREEN) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def driver():
    with browser.chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a_run"
    write_run(folder, examples=4)
    return build_report(folder).as_uri()


def opened(driver, page, width, height, scheme="light"):
    browser.set_screen(driver, width, height, scheme)
    driver.get_log("browser")
    driver.get(page)
    return driver


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_nothing_lies_beside_the_screen_and_the_console_is_silent(
    driver, page, width, height, scheme
):
    opened(driver, page, width, height, scheme)
    wide = driver.execute_script(
        """
        const screen = document.documentElement.clientWidth;
        const over = (e) => e.getBoundingClientRect().right > screen + 1;
        const shown = [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility());
        return shown.filter(over).map((e) => e.outerHTML.slice(0, 80));
        """
    )
    assert wide == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.get_log("browser") == []


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_text_stands_out_from_what_is_behind_it(driver, page, width, height, scheme):
    opened(driver, page, width, height, scheme)
    # The contrast that WCAG 2.2 asks of text, 1.4.3.
    faint = driver.execute_script(
        """
        const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (rgb) => {
          const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (e) => {
          for (; e; e = e.parentElement) {
            const found = numbers(getComputedStyle(e).backgroundColor);
            if (found.length < 4 || found[3] === 1) return found;
          }
          return [255, 255, 255];
        };
        const words = [...document.querySelectorAll("p, td, th, dt, dd, b, h1, h2, h3, label")];
        return words.filter((e) => e.checkVisibility() && e.textContent.trim()).filter((e) => {
          const pair = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
          return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) < 4.5;
        }).map((e) => e.outerHTML.slice(0, 80));
        """
    )
    assert faint == []


def test_a_phone_shows_each_number_under_its_name(driver, page):
    opened(driver, page, *PHONE)
    # The first row of a table is its title.
    row = driver.find_elements(By.CSS_SELECTOR, "table.scores tbody tr")[1]
    cells = row.find_elements(By.TAG_NAME, "td")
    named = driver.execute_script(
        "return arguments[0].map((e) => getComputedStyle(e, '::before').content)", cells
    )
    names = [name.strip('"') for name in named if name not in ("none", "normal")]
    assert names == [
        *("n", "questions", "exact match", "95 % interval"),
        *("verbatim spans", "reward", "finished", "tokens"),
    ]
    scale = driver.find_element(By.CSS_SELECTOR, "table.scores td.bar .scale")
    assert scale.is_displayed() and scale.text.split("\n") == ["0", "50", "100 %"]


def test_a_screen_shows_the_scale_of_the_bars_once(driver, page):
    opened(driver, page, *SCREEN)
    table = driver.find_element(By.CSS_SELECTOR, "table.scores")
    shown = [e for e in table.find_elements(By.CSS_SELECTOR, ".bar text") if e.is_displayed()]
    assert [e.text for e in shown] == ["0", "50", "100 %"]
