import base64
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.images import decode_image, read_image
from anomaly_zoo.deploy import serve
from anomaly_zoo.deploy.adapting import Report
from anomaly_zoo.deploy.model_folder import Model, load, save
from anomaly_zoo.deploy.products import Products
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from tests.deploy.servers import Client, running


@pytest.fixture(scope="module")
def place(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    save(model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def client(place: Path, model: Model) -> Iterator[Client]:
    def adapted(root: Path, category: str, report: Report) -> Model:
        files = sorted((root / category / "train" / "good").iterdir())
        report("adapting", 1, 2)
        if len(files) == 2:
            raise ValueError("two are not enough")
        return replace(model, support=tuple(str(read_image(file).shape) for file in files))

    with running(Products(place / "products", adapted, place / "model")) as client:
        yield client


@pytest.fixture(scope="module")
def picture(test_images: list[Path]) -> bytes:
    return test_images[-1].read_bytes()


def test_the_page_and_its_files(client: Client) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = client.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert b"http" not in client.ask("GET", "/").body  # nothing comes from elsewhere


def test_an_image_is_inspected_as_by_predict(client: Client, place: Path, test_images: list[Path]) -> None:
    expectations = TorchInspector(load(place / "model")).inspect([read_image(path) for path in test_images])
    for path, expected in zip(test_images, expectations, strict=True):
        answer = client.ask("POST", "/api/products/model/inspect", path.read_bytes())
        assert answer.status == 200
        assert answer.json["image_score"] == pytest.approx(expected.image_score, rel=1e-6)
        assert answer.json["p_value"] == pytest.approx(expected.p_value, rel=1e-6)
        assert answer.json["decision"] == ("anomalous" if expected.is_anomalous else "normal")
        assert decode_image(base64.b64decode(answer.json["overlay"].split(",")[1]), "overlay").shape[1] > 48


def test_a_product_is_adapted_and_kept(client: Client, place: Path, test_images: list[Path], model: Model) -> None:
    key = client.ask("POST", "/api/adaptations").json["id"]
    for number, path in enumerate(test_images[:3]):
        assert client.ask("POST", f"/api/adaptations/{key}/images", path.read_bytes()).json == {"images": number + 1}
    assert client.ask("POST", f"/api/adaptations/{key}/start?name=%3Cb%3E..%2F..%2Fetc%2F%20x").status == 202
    state = wait_for(client, key)
    assert (state["state"], state["product"], state["error"]) == ("ready", key, "")
    listed = {product["id"]: product for product in client.ask("GET", "/api/products").json}
    assert listed[key]["name"] == "<b>../../etc/ x"
    assert listed[key]["shots"] == 3
    assert load(place / "products" / key).support == ("(48, 48, 3)",) * 3
    assert [path.name for path in (place / "products").iterdir()] == [key]  # the images are gone
    again = Products(place / "products", lambda *_: model)
    assert again.inspector(key).model.category == "<b>../../etc/ x"
    again.close()


def test_a_product_that_cannot_be_relied_on_says_so(model: Model, picture: bytes, tmp_path: Path) -> None:
    calibration = replace(model.calibration, threshold=None)
    save(replace(model, warnings=("one image alone",), calibration=calibration), tmp_path / "one")
    with running(Products(tmp_path, lambda *_: model)) as client:
        (listed,) = client.ask("GET", "/api/products").json
        assert (listed["warnings"], listed["threshold"]) == (["one image alone"], None)
        found = client.ask("POST", "/api/products/one/inspect", picture).json
        assert (found["warnings"], found["decision"], found["threshold"]) == (["one image alone"], "undecided", None)


def test_an_adaptation_that_fails_says_why(client: Client, picture: bytes) -> None:
    key = client.ask("POST", "/api/adaptations").json["id"]
    assert client.ask("POST", f"/api/adaptations/{key}/start").status == 409
    for _ in range(2):
        client.ask("POST", f"/api/adaptations/{key}/images", picture)
    client.ask("POST", f"/api/adaptations/{key}/start")
    assert wait_for(client, key)["error"] == "ValueError: two are not enough"
    assert client.ask("POST", f"/api/adaptations/{key}/images", picture).status == 409


def wait_for(client: Client, key: str) -> dict[str, str]:
    for _ in range(500):
        state: dict[str, str] = client.ask("GET", f"/api/adaptations/{key}").json
        if state["state"] in ("ready", "failed"):
            return state
        time.sleep(0.02)
    raise AssertionError(state)


def bomb(picture: bytes) -> bytes:
    """The picture with a header that promises 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + picture[24:29]
    return picture[:12] + header + struct.pack(">I", zlib.crc32(header)) + picture[33:]


def test_what_cannot_be_is_refused_with_a_code(client: Client, picture: bytes) -> None:
    inspect = "/api/products/model/inspect"
    for method, path, body, status in (
        ("POST", inspect, b"", 422),
        ("POST", inspect, b"no image", 422),
        ("POST", inspect, picture[: len(picture) // 2], 422),
        ("POST", inspect, bomb(picture), 422),
        ("POST", "/api/products/other/inspect", picture, 404),
        ("POST", "/api/products/..%2F..%2Fetc%2Fpasswd/inspect", picture, 404),
        ("GET", "/api/adaptations/0", None, 404),
        ("POST", "/api/adaptations/0/images", picture, 404),
        ("POST", "/api/adaptations/0/start", None, 404),
        ("GET", inspect, None, 405),
        ("GET", "/../../etc/passwd", None, 404),
    ):
        assert (path, client.ask(method, path, body).status) == (path, status)
    assert client.ask("POST", inspect, picture, Origin="http://evil.example").status == 403
    assert client.ask("POST", inspect, picture, Origin=client.url).status == 200
    assert client.ask("GET", "/", Host="evil.example").status == 400
    assert client.ask("POST", inspect, None, Transfer_Encoding="chunked").status in (400, 411)
    assert client.ask("POST", inspect, picture, Content_Length=str(2**40)).status == 413


def test_two_hundred_malformed_requests_get_an_error_and_harm_nothing(
    client: Client, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "UPLOAD_TIMEOUT_S", 0.2)
    rng = np.random.default_rng(0)
    line = b"POST /api/products/model/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head = line + b"Content-Length: %d\r\n\r\n" % len(picture)
    requests = []
    for number in range(200):
        data = bytearray(head + picture)
        if number % 4 == 0:  # noise over the request line and the headers
            for place in rng.integers(0, len(line), 8):
                data[place] = rng.integers(256)
        elif number % 4 == 1:  # noise over the image
            for place in rng.integers(len(head), len(data), 40):
                data[place] = rng.integers(256)
        elif number % 4 == 2:  # cut off somewhere in the image
            data = data[: rng.integers(len(head), len(data))]
        else:
            data = bytearray(rng.bytes(int(rng.integers(1, 3000))) + b"\r\n\r\n")
        requests.append(bytes(data))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(client.raw, requests))
    statuses = [int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None for answer in answers]
    assert set(statuses) <= {200, 400, 403, 404, 405, 408, 411, 413, 422}  # each has an answer, and none is 500
    assert set(statuses[2::4]) == {408}
    assert {200, 422} >= set(statuses[1::4]) >= {422}
    assert client.ask("POST", "/api/products/model/inspect", picture).status == 200


def test_fifty_uploads_at_once_all_get_the_same_answer(client: Client, picture: bytes) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.ask("POST", "/api/products/model/inspect", picture), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["image_score"] for answer in answers}) == 1


def test_more_bytes_than_can_be_worked_on_are_put_off(
    client: Client, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_BYTES_AT_WORK", int(2.5 * len(picture)))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.ask("POST", "/api/products/model/inspect", picture), range(20)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert all(answer.headers.get("retry-after") == "1" for answer in answers if answer.status == 503)
    monkeypatch.undo()
    assert client.ask("POST", "/api/products/model/inspect", picture).status == 200  # all of it was given back


def test_a_file_that_never_arrives_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "UPLOAD_TIMEOUT_S", 0.2)
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/products/model/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nxx"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_damaged_product_does_not_keep_the_others_from_being_listed(model: Model, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(model, tmp_path / name)
    (tmp_path / "a" / "tensors.safetensors").write_bytes(b"")
    products = Products(tmp_path, lambda *_: model)
    listed = {product["id"]: product for product in products.describe()}
    assert "is damaged or was changed" in listed["a"]["error"]
    assert listed["b"]["shots"] == 4
    products.close()


def test_pages_that_were_closed_leave_nothing_behind(model: Model, tmp_path: Path) -> None:
    products = Products(tmp_path, lambda *_: model)
    keys = [products.begin() for _ in range(3)]
    products.add_image(keys[0], np.zeros((8, 8, 3), np.uint8))
    for _ in range(20):
        products.begin()
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        products.adaptation(keys[0])
    last = products.begin()
    for _ in range(64):
        products.add_image(last, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="64 images already"):
        products.add_image(last, np.zeros((8, 8, 3), np.uint8))
    products.close()
