"""The report in a real browser, from disk."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        # a container has neither the kernel's sandbox nor much shared memory
        opened = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """The report in a tab; complaints and requests are errors at the end."""
    complaints: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    shown = context.new_page()
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(page.as_uri())
    yield shown
    context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {page.as_uri()}


def open_all(tab: Any) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
    )


def column(tab: Any, number: int) -> list[str]:
    rows = "[...document.querySelectorAll('#results tbody tr')].filter(row => !row.hidden)"
    texts: list[str] = tab.evaluate(f"{rows}.map(row => row.cells[{number}].textContent.trim())")
    return texts


def test_every_figure_and_every_picture_is_drawn(tab: Any) -> None:
    open_all(tab)
    drawn = tab.evaluate("""[...document.querySelectorAll('.plot')].map(plot => {
        const box = plot.querySelector('.main-svg').getBoundingClientRect();
        return [box.width, box.height, plot.querySelectorAll('.scatterlayer .trace').length];
    })""")
    assert len(drawn) == 7
    assert all(width > 200 and height > 200 and traces > 0 for width, height, traces in drawn)
    pictures = tab.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(pictures) == 12 * (1 + 3) * 2 + 8  # two categories with pictures, one of them with masks on 8 images
    assert set(pictures) == {32}


def test_a_heading_sorts_by_click_both_ways(tab: Any) -> None:
    head = tab.get_by_role("columnheader", name="image_auroc").get_by_role("button")
    for direction, reverse in (("ascending", False), ("descending", True)):
        head.click()
        found = [float(text.split(" ")[0]) for text in column(tab, 5)]
        assert found == sorted(found, reverse=reverse)
        assert len(set(found)) > 3
        assert tab.locator(f"#results th[aria-sort={direction}]").count() == 1
    tab.get_by_role("columnheader", name="shots").first.get_by_role("button").click()
    shots = [int(text) for text in column(tab, 2)]
    assert shots == sorted(shots)


def test_words_filter(tab: Any) -> None:
    every = column(tab, 3)
    tab.get_by_label("Filter").fill("bottle COFT 8")
    assert (column(tab, 1), column(tab, 2), column(tab, 3)) == (["bottle"], ["8"], ["coft"])
    assert tab.locator("#shown").text_content() == f"1 of {len(every)}"
    tab.get_by_label("Filter").fill("")
    assert column(tab, 3) == every


def test_dark_is_a_click_away_and_follows_the_system(tab: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    light = tab.evaluate(colour), tab.evaluate(text)
    tab.get_by_role("button", name="Dark").click()
    dark = tab.evaluate(colour), tab.evaluate(text)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    tab.get_by_role("button", name="Light").click()
    assert (tab.evaluate(colour), tab.evaluate(text)) == light
    tab.reload()
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"() => {text} === '{dark[1]}'")
    assert tab.evaluate(colour) == dark[0]


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_it_fits_the_screen(width: int, tab: Any) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    open_all(tab)
    fits = "svg => svg.getBoundingClientRect().right <= innerWidth"
    tab.wait_for_function(f"() => [...document.querySelectorAll('.main-svg')].every({fits})")  # a moment later
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_everything_is_open_and_light(tab: Any, tmp_path: Path) -> None:
    tab.emulate_media(color_scheme="dark")
    closed = tab.locator("details:not([open])").count()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details:not([open])").count() == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details:not([open])").count() == closed
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert len(tab.pdf()) > 20_000


def test_the_widest_table_fits_on_paper(tab: Any) -> None:
    tab.set_viewport_size({"width": 718, "height": 1000})  # A4 less the margins, in CSS pixels
    tab.emulate_media(media="print")
    assert tab.evaluate("document.getElementById('results').rows[0].cells.length") == 14
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718


def test_the_best_is_marked(tab: Any) -> None:
    shown = (
        "[...document.querySelectorAll('#results tbody tr')].filter(row => row.cells[1].textContent === 'bottle' && "
    )
    first = f"{shown} row.cells[2].textContent === '8')"
    scores = tab.evaluate(f"{first}.map(row => Number(row.cells[5].dataset.value))")
    marks = tab.evaluate(f"{first}.map(row => row.cells[5].firstElementChild?.tagName ?? '')")
    assert sorted(zip(scores, marks, strict=True), reverse=True)[0][1] == "STRONG"
    assert sorted(marks) == ["", "STRONG", "U"]


def test_people_who_do_not_see_get_names(tab: Any) -> None:
    open_all(tab)
    assert tab.evaluate("[...document.images].every(image => image.alt.length > 10)")
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every(plot => plot.ariaLabel.length > 10)")
    assert tab.evaluate("document.documentElement.lang") == "en"
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
