"""Routes from addresses to answers."""

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from lit_od.images.sources import Source
from lit_od.serving import openapi, page, protocol, upload
from lit_od.serving.access import Token
from lit_od.serving.gate import FAILURE, Gate, Operation, refused
from lit_od.serving.intake import CountedAnswer, Intake, Room, require_type
from lit_od.serving.limits import ClientGone, Limits, Refused
from lit_od.serving.log import Log
from lit_od.serving.map_answers import REGIONS, large_bytes
from lit_od.serving.metrics import CONTENT_TYPE, Metrics
from lit_od.serving.models import Answers, Model, joined
from lit_od.serving.protocol import LENGTH_HEADER, PLAIN
from lit_od.serving.sent_images import DecodingRoom
from lit_od.serving.shelf import Shelf
from lit_od.serving.work_queue import WorkQueue
from lit_od.versions import __version__

OTHER = "other"
"""Name of all unknown addresses together in the metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """State that the addresses answer from.

    Attributes:
        shelf: Models by name, and the normal images.
        queue: Queue that scores images.
        intake: Reader of bodies.
        decoding: Room for images that are being decoded.
        metrics: Metrics of this application.
    """

    shelf: Shelf
    queue: WorkQueue
    intake: Intake
    decoding: DecodingRoom
    metrics: Metrics

    def model(self, request: Request) -> Model:
        """Return the model that an address names.

        Raises:
            Refused: 404 if there is no such model, or not in that version; 503 while models are loaded.
        """
        model = self.shelf.named(request.path_params["name"])
        version = request.path_params.get("version", protocol.VERSION)
        if version != protocol.VERSION:
            raise Refused(
                404, f"model {model.name} has no version {version[:40]!r}: its only one is {protocol.VERSION}"
            )
        return model

    async def infer(self, request: Request) -> Response:
        """Score the images of a request.

        Raises:
            Refused: If the request is refused, or an image cannot be read and errors are not among its outputs.
            ClientGone: If the client leaves.
        """
        model = self.model(request)
        require_type(request)
        with self.intake.room() as room:
            body = await self.intake.body(request, room)
            parsed = await asyncio.to_thread(
                protocol.read,
                body,
                request.headers.get(LENGTH_HEADER),
                known=model.outputs,
                most=self.intake.limits.images,
                pixels=self.intake.limits.pixels,
                decoding=self.decoding,
            )
            columns = joined(await self._scored(request, model, parsed.sources, parsed.outputs, room))
        if "error" not in parsed.outputs:
            for row, error in enumerate(columns["error"]):
                if error:  # else the client would only see a NaN
                    raise Refused(400, f"image {row}: {error}. Ask for the output error to have the others scored")
        text, length = protocol.answer(model.name, parsed, columns)
        if length is None:
            return CountedAnswer(text, self.intake, media_type="application/json")
        headers = {LENGTH_HEADER: str(length)}
        return CountedAnswer(text, self.intake, media_type="application/octet-stream", headers=headers)

    async def score(self, request: Request) -> Response:
        """Score uploaded files.

        Raises:
            Refused: If the request is refused.
            ClientGone: If the client leaves.
        """
        wish = upload.Wish.of(request)
        model = self.shelf.only() if wish.model is None else self.shelf.named(wish.model)
        if wish.regions and REGIONS not in model.outputs:
            raise Refused(400, f"the detector of {model.name} has no maps, hence no regions: leave regions out")
        boundary = upload.boundary_of(request)
        outputs = [*PLAIN, REGIONS] if wish.regions else PLAIN
        with self.intake.room() as room:
            body = await self.intake.body(request, room)
            sent = await asyncio.to_thread(
                upload.read, body, boundary, limits=self.intake.limits, decoding=self.decoding
            )
            columns = joined(await self._scored(request, model, sent.sources, outputs, room))
        return CountedAnswer(upload.answer(sent, columns), self.intake, media_type="application/json")

    async def _scored(
        self, request: Request, model: Model, sources: Sequence[Source], outputs: Collection[str], room: Room
    ) -> list[Answers]:
        """Score images, and drop the work if the client leaves.

        Args:
            request: Its request.
            model: The model.
            sources: The images.
            outputs: Names of the wanted outputs.
            room: The request's memory.

        Returns:
            The answers to its pieces.

        Raises:
            Refused: 503 if the queue or memory is full, 504 if scoring takes too long.
            ClientGone: If the client leaves.
        """
        limit = self.intake.limits.time
        pieces = self.queue.submit(model, sources, frozenset(outputs))

        async def counted(piece: "Future[Answers]") -> Answers:
            answers = await asyncio.wrap_future(piece)
            room.take(large_bytes(answers))
            return answers

        counts = [asyncio.ensure_future(counted(piece)) for piece in pieces]
        scored = asyncio.gather(*counts)
        scored.add_done_callback(_notice)
        gone = asyncio.ensure_future(request.receive())  # the body has been read: only a disconnect can come
        try:
            both: set[asyncio.Future[Any]] = {scored, gone}
            await asyncio.wait(both, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if scored.done():
                return scored.result()
            if gone.done():
                raise ClientGone
            raise Refused(504, f"not scored within {limit:g} s: send fewer images, or start with --max-time")
        finally:
            for each in counts:
                each.cancel()
            gone.cancel()
            self.queue.done()

    async def describe(self, request: Request) -> Response:
        """Describe a model's inputs and outputs."""
        return JSONResponse(self.model(request).metadata())

    async def model_ready(self, request: Request) -> Response:
        """Report that a model is ready: all are, or none."""
        return JSONResponse({"name": self.model(request).name, "ready": True})

    async def ready(self, request: Request) -> Response:
        """Report if the models are loaded."""
        return JSONResponse({"ready": self.shelf.ready}, 200 if self.shelf.ready else 503)

    async def cards(self, request: Request) -> Response:
        """Describe the models for the page. Raises Refused 503 while they are loaded."""
        return JSONResponse({"models": [model.card() for model in self.shelf.models.values()]})

    async def picture(self, request: Request) -> Response:
        """Send the small picture of a normal image.

        Raises:
            Refused: 404 if there is no such image.
        """
        number, normal = request.path_params["number"], self.shelf.normal
        row = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else -1
        if normal is None or not 0 <= row < len(normal.pictures):
            raise Refused(404, "there is no such normal image")
        return Response(normal.pictures[row], media_type="image/jpeg", headers={"cache-control": "max-age=600"})

    async def measured(self, request: Request) -> Response:
        """Send the metrics."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


def application(
    shelf: Shelf,
    queue: WorkQueue,
    *,
    limits: Limits,
    metrics: Metrics,
    log: Log | None = None,
    hosts: Collection[str] = (),
    token: Token | None = None,
) -> ASGIApp:
    """Build the ASGI application.

    Args:
        shelf: Models by name, which may be loaded later.
        queue: Queue that scores their images.
        limits: Limits of requests.
        metrics: Metrics of the application.
        log: The log. None writes text.
        hosts: Names of this server besides localhost and IP addresses.
        token: Token that requests must carry. None wants none.
    """
    page.read()
    openapi.page()
    site = Site(shelf, queue, Intake(limits), DecodingRoom(limits.decoding), metrics)
    metrics.held = {
        "lit_od_held_bytes": ("Bytes of bodies and unread answers.", lambda: site.intake.held),
        "lit_od_decoding_bytes": ("Bytes of images that are being decoded.", lambda: site.decoding.held),
        "lit_od_waiting_requests": ("Requests that wait or are being scored.", lambda: queue.requests),
    }
    about = {"name": "lit_od", "version": __version__, "extensions": protocol.EXTENSIONS}
    routes = [
        Route("/", page.serve),
        Route("/models", site.cards),
        Route("/normal/{number}", site.picture),
        Route("/score", site.score, methods=["POST"]),
        Route("/metrics", site.measured),
        Route("/openapi.json", openapi.serve_document),
        Route("/docs", openapi.serve_page),
        Route("/v2", partial(_constant, about)),
    ]
    for base in ("/health", "/v2/health"):
        routes += [Route(f"{base}/live", partial(_constant, {"live": True})), Route(f"{base}/ready", site.ready)]
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(base, site.describe),
            Route(f"{base}/ready", site.model_ready),
            Route(f"{base}/infer", site.infer, methods=["POST"]),
        ]
    inner = Starlette(
        routes=routes, exception_handlers={Refused: _refused, HTTPException: _http_error, Exception: _failed}
    )
    inner.router.redirect_slashes = False
    paths: dict[object, str] = {route.endpoint: route.path for route in reversed(routes)}

    def path(scope: Scope) -> str:
        return paths.get(scope.get("endpoint"), OTHER)

    operation = Operation(metrics, log or Log(), path)
    return Gate(inner, frozenset(host.lower() for host in hosts), limits.drain, token, operation)


def _notice(scored: "asyncio.Future[list[Answers]]") -> None:
    """Take note of an error: asyncio prints those of futures that nobody asks."""
    if not scored.cancelled():
        scored.exception()


async def _constant(content: object, request: Request) -> Response:
    return JSONResponse(content)


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refused)
    return refused(refusal)


async def _failed(request: Request, defect: Exception) -> Response:
    """Answer 500; Starlette raises the defect again for the gate to log."""
    return refused(FAILURE)


async def _http_error(request: Request, failure: Exception) -> Response:
    """Answer for an unknown address or method, in the protocol's form."""
    assert isinstance(failure, HTTPException)
    path, headers = request.url.path[:200], dict(failure.headers or {})
    message = f"there is nothing at {path}"
    if failure.status_code != 404:
        message = f"{path} takes {headers['Allow']}, not {request.method}" if "Allow" in headers else failure.detail
    return JSONResponse({"error": message}, failure.status_code, headers)
