"""Routes from addresses to answers."""

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lit_od.serving import page, protocol
from lit_od.serving.gate import FAILURE, Gate, refused
from lit_od.serving.intake import CountedAnswer, Intake, Room, require_type
from lit_od.serving.limits import ClientGone, Limits, Refused
from lit_od.serving.map_answers import large_bytes
from lit_od.serving.models import Answers, Model, joined
from lit_od.serving.normal_images import NormalImages
from lit_od.serving.protocol import LENGTH_HEADER, ScoreRequest
from lit_od.serving.sent_images import DecodingRoom
from lit_od.serving.work_queue import WorkQueue
from lit_od.versions import __version__


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """State that the addresses answer from.

    Attributes:
        models: Models by name.
        queue: Queue that scores images.
        intake: Reader of bodies.
        decoding: Room for images that are being decoded.
        normal: The normal images; None if there are none.
    """

    models: Mapping[str, Model]
    queue: WorkQueue
    intake: Intake
    decoding: DecodingRoom
    normal: NormalImages | None

    def model(self, request: Request) -> Model:
        """Return the model that an address names.

        Raises:
            Refused: 404 if there is no such model, or not in that version.
        """
        name, version = request.path_params["name"], request.path_params.get("version", protocol.VERSION)
        if name not in self.models:
            raise Refused(404, f"there is no model {name[:100]!r}: here are {', '.join(self.models)}")
        if version != protocol.VERSION:
            raise Refused(404, f"model {name} has no version {version[:40]!r}: its only one is {protocol.VERSION}")
        return self.models[name]

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
            columns = joined(await self._scored(request, model, parsed, room))
        if "error" not in parsed.outputs:
            for row, error in enumerate(columns["error"]):
                if error:  # else the client would only see a NaN
                    raise Refused(400, f"image {row}: {error}. Ask for the output error to have the others scored")
        text, length = protocol.answer(model.name, parsed, columns)
        if length is None:
            return CountedAnswer(text, self.intake, media_type="application/json")
        headers = {LENGTH_HEADER: str(length)}
        return CountedAnswer(text, self.intake, media_type="application/octet-stream", headers=headers)

    async def _scored(self, request: Request, model: Model, parsed: ScoreRequest, room: Room) -> list[Answers]:
        """Score a request, and drop the work if its client leaves.

        Returns:
            The answers to its pieces.

        Raises:
            Refused: 503 if the queue or memory is full, 504 if scoring takes too long.
            ClientGone: If the client leaves.
        """
        limit = self.intake.limits.time
        pieces = self.queue.submit(model, parsed.sources, frozenset(parsed.outputs))

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
        """Report that a model is ready: the server starts only once all are."""
        return JSONResponse({"name": self.model(request).name, "ready": True})

    async def picture(self, request: Request) -> Response:
        """Send the small picture of a normal image.

        Raises:
            Refused: 404 if there is no such image.
        """
        number = request.path_params["number"]
        row = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else -1
        if self.normal is None or not 0 <= row < len(self.normal.pictures):
            raise Refused(404, "there is no such normal image")
        return Response(self.normal.pictures[row], media_type="image/jpeg", headers={"cache-control": "max-age=600"})


def application(
    models: Mapping[str, Model],
    queue: WorkQueue,
    *,
    limits: Limits,
    normal: NormalImages | None = None,
    hosts: Collection[str] = (),
) -> ASGIApp:
    """Build the ASGI application.

    Args:
        models: Models by name.
        queue: Queue that scores their images.
        limits: Limits of requests.
        normal: Normal images that the page shows. None shows none.
        hosts: Names of this server besides localhost and IP addresses.
    """
    page.read()
    site = Site(models, queue, Intake(limits), DecodingRoom(limits.decoding), normal)
    about = {"name": "lit_od", "version": __version__, "extensions": protocol.EXTENSIONS}
    routes = [
        Route("/", page.serve),
        Route("/models", partial(_constant, {"models": [model.card() for model in models.values()]})),
        Route("/normal/{number}", site.picture),
        Route("/v2", partial(_constant, about)),
        Route("/v2/health/live", partial(_constant, {"live": True})),
        Route("/v2/health/ready", partial(_constant, {"ready": True})),
    ]
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
    return Gate(inner, frozenset(host.lower() for host in hosts), limits.drain)


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
    path = request.url.path[:200]
    message = f"there is nothing at {path}" if failure.status_code == 404 else f"{path} takes no {request.method}"
    return JSONResponse({"error": message}, failure.status_code, dict(failure.headers or {}))
