"""The page in a real browser: images dropped on it, and a product adapted from it."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.deploy.adapting import Report, adapt
from anomaly_zoo.deploy.model_folder import Model, save
from anomaly_zoo.deploy.products import Products
from tests.compare.report.test_browser import browser  # noqa: F401 - a fixture
from tests.deploy.servers import Client, running

pytestmark = pytest.mark.slow

QUICK = ["--data.image_size=64", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def client(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("page")
    save(model, folder / "model")

    def adapted(root: Path, category: str, report: Report) -> Model:
        return adapt("patchcore", root, category, QUICK, report)

    with running(Products(folder / "products", adapted, folder / "model")) as client:
        yield client


@pytest.fixture
def tab(browser: Any, client: Client) -> Iterator[Any]:  # noqa: F811
    complaints: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    shown = context.new_page()
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(client.url)
    yield shown
    context.close()
    assert all(url.startswith((client.url, "data:", "blob:")) for url in requests)
    assert [text for text in complaints if "422" not in text] == []


def drop(tab: Any, target: str, files: list[Path]) -> None:
    """Drops files as a mouse does."""
    tab.evaluate(
        """([target, files]) => {
            const transfer = new DataTransfer();
            for (const [name, data] of files)
                transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
            const drop = new DragEvent("drop", {dataTransfer: transfer, cancelable: true});
            document.querySelector(target).dispatchEvent(drop);
        }""",
        [target, [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in files]],
    )


def test_dropped_images_are_decided(tab: Any, test_images: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "<img src=x onerror=alert(1)>.png"
    damaged.write_bytes(b"no image")
    drop(tab, "#inspect-drop", [*test_images, damaged])
    tab.wait_for_function("() => document.querySelectorAll('#results li').length === 10")
    assert tab.locator("#results li.anomalous").count() >= 3
    pictures = "[...document.querySelectorAll('#results img')]"
    widths = tab.evaluate(f"Promise.all({pictures}.map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) == 9
    assert min(widths) > 48
    assert re.fullmatch(r"10 of 10 inspected: \d anomalous, 1 failed", tab.locator("#count").text_content())
    assert "cannot read the file as an image" in tab.locator("#results").text_content()
    assert damaged.name in tab.locator("#results").text_content()  # as text


def test_a_product_is_adapted_from_dropped_images(tab: Any, tiny_root: Path, test_images: list[Path]) -> None:
    normal = sorted((tiny_root / "alpha" / "train" / "good").iterdir())
    tab.get_by_label("Name").fill("bracket <b>")
    said = tab.evaluate_handle(
        """() => { const said = new Set();
            new MutationObserver(() => said.add(document.querySelector("#status").textContent))
                .observe(document.querySelector("#status"), {childList: true});
            return said; }"""
    )
    drop(tab, "#adapt-drop", normal)
    tab.wait_for_function("() => document.querySelector('#status').textContent.startsWith('Ready')", timeout=60_000)
    assert {"6 of 6 images sent", "Ready: drop images above."} <= set(said.evaluate("said => [...said]"))
    chosen = tab.evaluate("document.querySelector('#product').selectedOptions[0].textContent")
    assert chosen == "bracket <b>"
    assert "6 normal images" in tab.locator("#about").text_content()
    tab.locator("#inspect-files").set_input_files([str(path) for path in test_images])
    tab.wait_for_function("() => document.querySelectorAll('#results li').length === 9")
    assert tab.locator("#results li.anomalous").count() >= 3


@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_the_screen_and_names_its_controls(width: int, tab: Any, test_images: list[Path]) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    drop(tab, "#inspect-drop", test_images[:2])
    tab.wait_for_function("() => document.querySelectorAll('#results li').length === 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    named = "[...document.querySelectorAll('input, select')].every(control => control.labels.length === 1)"
    assert tab.evaluate(named)
    assert tab.evaluate("[...document.images].every(image => image.alt.length > 10)")
