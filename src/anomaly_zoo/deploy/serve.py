"""`python -m anomaly_zoo serve`: a page to drop images on, and the small interface behind it.

Files come as the plain body of a request; their names are shown and never opened. Whatever a request brings is bounded:
its size, the pixels of its image, and the bytes of all requests that are being worked on.
"""

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_zoo.data.images import decode_image
from anomaly_zoo.deploy.adapting import adapt
from anomaly_zoo.deploy.inspecting import warn
from anomaly_zoo.deploy.products import Products
from anomaly_zoo.pictures import overlay

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import JSONResponse
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as missing:
    raise ValueError(f"{missing}. The page needs `pip install anomaly_zoo[serve]`.") from None

MAX_UPLOAD_BYTES = 32 * 2**20
MAX_UPLOAD_PIXELS = 2**25
MAX_BYTES_AT_WORK = 256 * 2**20
UPLOAD_TIMEOUT_S = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_FILES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(model: Path | None, folder: Path, method: str, options: list[str], host: str, port: int) -> None:
    """Serves until Ctrl-C, without password or encryption; ValueError or OSError if it cannot."""
    products = Products(folder, lambda root, category, report: adapt(method, root, category, options, report), model)
    warn(products.inspector("model").warnings if model else ())
    if host not in LOOPBACK:
        sys.stderr.write(f"warning: whoever reaches {host} can use this page; there is no password.\n")
    config = uvicorn.Config(create_app(products, host), host=host, port=port, log_level="warning", timeout_keep_alive=5)
    server = uvicorn.Server(config)
    try:
        socket = config.bind_socket()
    except SystemExit:  # after a line of uvicorn's that says why
        raise ValueError(f"nobody can listen on {host}, port {port}: choose another --port or --host.") from None
    socket.listen(config.backlog)  # whoever follows the address at once waits, instead of being refused
    sys.stdout.write(f"http://{host}:{socket.getsockname()[1]}/  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
        server.run(sockets=[socket])
    products.close()


def create_app(products: Products, host: str = "127.0.0.1") -> FastAPI:
    """The page and its interface."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]", host] if host in LOOPBACK else ["*"])
    uploads = _Uploads()
    at_work = asyncio.Semaphore(1)  # the model uses all cores for one image

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = _foreign(request) or await call_next(request)
        response.headers.update(_HEADERS)
        return response

    for route, kind in _FILES.items():
        app.add_api_route(route, _page_file(route[1:] or "page.html", kind), methods=["GET"])

    @app.get("/api/products")
    async def list_products() -> list[dict[str, Any]]:
        return await run_in_threadpool(products.describe)

    @app.post("/api/products/{product}/inspect")
    async def inspect(product: str, request: Request) -> dict[str, Any]:
        async with uploads.body(request) as data, at_work:
            return await run_in_threadpool(_inspect, products, product, data)

    @app.post("/api/adaptations", status_code=201)
    async def begin() -> dict[str, str]:
        return {"id": products.begin()}

    @app.get("/api/adaptations/{key}")
    async def look(key: str) -> dict[str, Any]:
        with _refusals("adaptation"):
            return asdict(products.adaptation(key))

    @app.post("/api/adaptations/{key}/images", status_code=201)
    async def add(key: str, request: Request) -> dict[str, int]:
        with _refusals("adaptation"):
            products.adaptation(key)
            async with uploads.body(request) as data, at_work:
                image = await run_in_threadpool(_decode, data)
                return {"images": await run_in_threadpool(products.add_image, key, image)}

    @app.post("/api/adaptations/{key}/start", status_code=202)
    async def start(key: str, name: str = "product") -> dict[str, str]:
        with _refusals("adaptation"):
            products.start(key, " ".join(name.split())[:80] or "product")
        return {"id": key}

    return app


def _page_file(name: str, kind: str) -> Callable[[], Response]:
    content = (Path(__file__).parent / "page" / name).read_bytes()
    return lambda: Response(content, media_type=kind)


class _Uploads:
    """Reads bodies as long as all that are being worked on fit into `MAX_BYTES_AT_WORK`."""

    def __init__(self) -> None:
        self._bytes_at_work = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise HTTPException(411, "say how long the file is (Content-Length)")
        if int(length) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"the file has more than {MAX_UPLOAD_BYTES // 2**20} MiB")
        if self._bytes_at_work + int(length) > MAX_BYTES_AT_WORK:
            raise HTTPException(503, "too many files at once: try again", headers={"Retry-After": "1"})
        self._bytes_at_work += int(length)
        try:
            yield await asyncio.wait_for(request.body(), UPLOAD_TIMEOUT_S)
        except TimeoutError:
            raise HTTPException(408, f"the file did not arrive within {UPLOAD_TIMEOUT_S:.0f} s") from None
        finally:
            self._bytes_at_work -= int(length)


def _foreign(request: Request) -> Response | None:
    """Refuses what another site makes the browser of a user send here."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
        return JSONResponse({"detail": "another site may not use this page"}, 403)
    return None


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Answers with a code where there is no such thing, or where it is not the time for it."""
    try:
        yield
    except KeyError:
        raise HTTPException(404, f"there is no such {what}") from None
    except ValueError as error:
        raise HTTPException(409, str(error)) from None


def _decode(data: bytes) -> np.ndarray:
    try:
        return decode_image(data, "the file", MAX_UPLOAD_PIXELS)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _inspect(products: Products, product: str, data: bytes) -> dict[str, Any]:
    with _refusals("product"):
        inspector = products.inspector(product)
    image = _decode(data)
    (found,) = inspector.inspect([image])
    picture = io.BytesIO()
    overlay(image, found.anomaly_map, inspector.scale).save(picture, format="PNG")
    content = base64.b64encode(picture.getvalue()).decode()
    return found.numbers(inspector.threshold) | {
        "warnings": inspector.warnings,
        "overlay": f"data:image/png;base64,{content}",
    }
