"""The service: end points, answers and headers, as an ASGI application."""

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.errors import UserError
from rotanext.images.drawing import class_colour
from rotanext.images.scenes import ImageScene
from rotanext.inference.detector import Detector
from rotanext.serve.answers import About, Class, Health, Prediction, geojson, prediction_json, refusal, says_no
from rotanext.serve.batching import Abandoned, Batcher
from rotanext.serve.guard import HEADERS, Guard, KnownHosts
from rotanext.serve.limits import Gate, Limits, Refused
from rotanext.serve.metrics import Metrics
from rotanext.serve.receive import FIELD, receive_upload
from rotanext.serve.site import page_files
from rotanext.serve.uploads import Upload

log = logging.getLogger("rotanext.serve")
OPTIONS = ("score", "format", "preview")  # of POST /predict, in its address
PREVIEW = 4096  # the longest side of a preview
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "description": "A PNG, JPEG, GeoTIFF or JPEG 2000 file: the part `file` of a form, or the whole body.",
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "string", "format": "binary"}}}
        },
        **dict.fromkeys(("image/png", "image/jpeg", "image/tiff", "image/jp2", "application/octet-stream"), _BINARY),
    },
}
_SAID = "Oriented objects in images: one `POST /predict` an image. Boxes follow one convention: " + CONVENTION + "."


@dataclass(frozen=True)
class Wish:
    """What a request asks for besides its image."""

    score: float | None
    form: Literal["json", "geojson", "both"]
    preview: int


class Service:
    """What the end points share: the detector behind its queue, the gate, threads that decode, and figures."""

    def __init__(self, detector: Detector, limits: Limits, batch: int) -> None:
        self.detector, self.limits, self.batch = detector, limits, batch
        self.gate = Gate(limits.concurrency)
        self.metrics = Metrics(detector.class_names)
        self.batcher = Batcher(detector, batch, self.metrics.batch)
        self.pool = ThreadPoolExecutor(limits.concurrency, "rotanext-request")
        self.metrics.in_flight.set_function(lambda: self.gate.inside)
        self.metrics.tiles_waiting.set_function(lambda: self.batcher.waiting)

    def warm_up(self) -> None:
        """Detect once as requests do: only the batcher's thread may use the network (docs/log.md says what two threads cost)."""
        side = min(64, self.detector.config.predict.tile)
        noise = ImageScene(np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8))
        self.detector.on_scene(noise, score_threshold=0.0, detect_crops=partial(self.batcher.detect, abandoned=threading.Event()))

    def close(self) -> None:
        """Stop computing."""
        self.batcher.close()
        self.pool.shutdown(wait=True, cancel_futures=True)

    async def predict(self, request: Request, wish: Wish) -> bytes:
        """Receive, decode and compute; the place in the gate is given back when the last thread has let go of the image."""
        entered = self.gate.enter()
        handed_over = False
        try:
            data = await receive_upload(request, self.limits)
            self.metrics.uploaded.inc(len(data))
            abandoned = threading.Event()
            future = self.pool.submit(self.compute, data, wish, abandoned)
            handed_over = True
            future.add_done_callback(lambda _: self.gate.leave(entered))
            return await self._result(request, future, abandoned, self.limits.seconds - (time.monotonic() - entered))
        finally:
            if not handed_over:
                self.gate.leave(entered)

    async def _result(self, request: Request, future: "Future[bytes]", abandoned: threading.Event, seconds: float) -> bytes:
        """The answer, unless it takes too long or the sender goes."""
        work = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_gone(request))
        try:
            both: set[asyncio.Future[Any]] = {work, gone}
            await asyncio.wait(both, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise Refused(400, "the connection closed before the answer was there")
            wait = {"Retry-After": str(self.gate.wait)}
            advice = "Send a smaller image, or ask for a longer time: rotanext serve --timeout."
            raise Refused(504, f"the answer took longer than {self.limits.seconds:g} seconds. {advice}", wait)
        finally:
            abandoned.set()
            gone.cancel()
            work.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard, even if too late

    def compute(self, data: bytes, wish: Wish, abandoned: threading.Event) -> bytes:
        """The body of the answer; runs in a thread."""
        try:
            with Upload(data, self.limits) as upload:
                if wish.form == "geojson" and upload.georeference is None:
                    geojson(upload, self._nothing())  # says why not, before anything is computed
                threshold = self.detector.config.predict.score_threshold if wish.score is None else wish.score
                queue = partial(self.batcher.detect, abandoned=abandoned)
                found = self.detector.on_scene(upload, score_threshold=threshold, batch_size=self.batch, detect_crops=queue)
                self.metrics.pixels.inc(upload.width * upload.height)
                for name in found.names:
                    self.metrics.detections.labels(name).inc()
                if wish.form == "geojson":
                    return geojson(upload, found)
                return prediction_json(upload, found, threshold, both=wish.form == "both", preview=wish.preview)
        except UserError as error:
            raise Refused(422, str(error)) from error
        except Abandoned:
            raise Refused(504, "nobody is waiting for this answer any more") from None
        except (MemoryError, torch.OutOfMemoryError) as error:
            log.error("out of memory: %s", error)
            wait = {"Retry-After": str(self.gate.wait)}
            raise Refused(503, "there is not enough memory to compute now. Retry, or send a smaller image.", wait) from error

    def _nothing(self) -> Any:
        from rotanext.detections import Detections

        none = torch.zeros(0)
        return Detections(none.reshape(0, 5), none, none.long(), self.detector.class_names)

    def about(self, token: bool) -> About:
        """The detector and the limits."""
        names, config = self.detector.class_names, self.detector.config
        return About(
            version=__version__,
            name=config.name,
            classes=[Class(name=name, colour="#{:02x}{:02x}{:02x}".format(*class_colour(i))) for i, name in enumerate(names)],
            box_convention=CONVENTION,
            score_threshold=config.predict.score_threshold,
            tile=config.predict.tile,
            image_size=config.predict.image_size,
            device=str(self.detector.device),
            token=token,
            max_upload=self.limits.upload,
            max_pixels=self.limits.pixels,
            timeout=self.limits.seconds,
            concurrency=self.limits.concurrency,
        )


async def _gone(request: Request) -> None:
    """Returns when the sender has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _token_check(token: str | None) -> Callable[..., None]:
    """A dependency that refuses requests without the token, in a time that does not depend on what is wrong with it."""

    def check(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]) -> None:
        said = sent.credentials if sent is not None else ""
        if not hmac.compare_digest(said.encode("utf-8", "replace"), (token or "").encode()):
            advice = "Send the header 'Authorization: Bearer TOKEN'."
            raise Refused(401, f"the token is {'wrong' if said else 'missing'}. {advice}", {"WWW-Authenticate": "Bearer"})

    return check if token is not None else lambda: None


def _same_site(request: Request) -> None:
    """Refuse what a page of another site has a browser send: a server on loopback is within every such page's reach."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and origin.partition("://")[2] != host  # browsers leave the other header out on plain http
    if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Refused(403, "a page of another site sent this request; it is answered for this server's own page only")


def _known_options(request: Request) -> None:
    """Refuse misspelt options: their defaults would be taken without a word."""
    for name in request.query_params:
        if name not in OPTIONS:
            raise Refused(422, f"there is no option '{name[:40]}'; expected {', '.join(OPTIONS)}")


def create_app(
    detector: Detector, limits: Limits, *, batch: int, token: str | None = None, hosts: tuple[str, ...] | None = None
) -> FastAPI:
    """The ASGI application that serves a detector; `batch` is the most tiles computed at once.

    hosts: the names it may be called by (None: any); a page whose own name was made to lead here has another. Its threads start
    with it and end with its lifespan, or by `app.state.service.close()`.
    """
    service = Service(detector, limits, batch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="rotanext", version=__version__, description=_SAID, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(KnownHosts, names=hosts)
    app.add_middleware(Guard, metrics=service.metrics)
    _answer_mistakes(app)
    _add_predict(app, service, token)
    _add_facts(app, service, token)
    _add_page(app)
    return app


def _answer_mistakes(app: FastAPI) -> None:
    """Whatever is wrong is told as a `Problem`."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said = [f"{'.'.join(map(str, e['loc'][1:])) or 'request'}: {e['msg']}" for e in error.errors()[:5]]
        return refusal(422, "; ".join(said))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return refusal(
            500, "the server made a mistake; its log says more", {**HEADERS, "Cache-Control": "no-store"}
        )  # outside of the guard


def _add_predict(app: FastAPI, service: Service, token: str | None) -> None:
    described = {"content": {"application/geo+json": {"schema": {"type": "object"}}}, "description": "The detections."}

    @app.post(
        "/predict",
        summary="Detect objects in one image",
        response_model=Prediction,
        responses={200: described, **says_no(400, 401, 403, 408, 413, 415, 422, 429, 503, 504)},
        openapi_extra={"requestBody": _BODY},
        dependencies=[Depends(_token_check(token)), Depends(_same_site), Depends(_known_options)],
    )
    async def predict(
        request: Request,
        score: Annotated[float | None, Query(ge=0, le=1, description="Lowest score; the model's own by default.")] = None,
        format: Annotated[
            Literal["json", "geojson", "both"],
            Query(description="GeoJSON needs a georeferenced image; `both` is JSON with the GeoJSON in it where there is one."),
        ] = "json",
        preview: Annotated[int, Query(ge=0, le=PREVIEW, description="Longest side of the preview; 0: none.")] = 0,
    ) -> Response:
        """Boxes are in the image's stored pixels. Larger images are cut into tiles whose detections are merged."""
        body = await service.predict(request, Wish(score, format, preview))
        return Response(body, media_type="application/geo+json" if format == "geojson" else "application/json")


def _add_facts(app: FastAPI, service: Service, token: str | None) -> None:
    @app.get("/health", summary="Whether images can be computed", responses=says_no(503))
    async def health() -> Health:
        if not service.batcher.alive:
            raise Refused(503, "the thread that computes has ended; restart the server")
        return Health(status="ok", version=__version__)

    @app.get("/about", summary="The detector, and what the server takes")
    async def about() -> About:
        return service.about(token is not None)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **says_no(401)},
        dependencies=[Depends(_token_check(token))],
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    """The files of the page, read once: no request's path is ever looked up on disk."""
    files = page_files()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(name: str = "index.html") -> Response:
        if name not in files:
            raise Refused(404, "there is no such file")
        data, kind = files[name]
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})
