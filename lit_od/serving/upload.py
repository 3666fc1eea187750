"""Uploads to /score: an image file, or a form of several; answers are rows."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from lit_od.images.sources import Source
from lit_od.scoring.result import COLUMNS, VALUES
from lit_od.serving.intake import require_plain
from lit_od.serving.limits import Limits, Refused
from lit_od.serving.map_answers import REGIONS
from lit_od.serving.sent_images import DecodingRoom, sent_file
from lit_od.serving.tensors import Column

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"

_ONE_FILE = re.compile(r"|application/octet-stream|application/x-www-form-urlencoded|image/.+")
"""Content types of a body that is one image file; the second last is that of `curl --data-binary`."""

MOST_HEADERS = 8
"""Header lines of a file in a form."""

MOST_HEADER = 4096
"""Bytes of such a line."""

logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # its errors are answers, not lines of a log


@dataclass(frozen=True, slots=True)
class Wish:
    """Parameters of an upload.

    Attributes:
        model: Name of the model; None if the address names none.
        regions: True if regions are wanted.
    """

    model: str | None
    regions: bool

    @classmethod
    def of(cls, request: Request) -> "Wish":
        """Read the parameters of an address.

        Raises:
            Refused: 400 if one is unknown, given twice or invalid.
        """
        given = request.query_params.multi_items()
        found = dict(given)
        for name in found.keys() - {"model", "regions"}:
            raise Refused(400, f"there is no parameter {name[:100]!r}: there are model and regions")
        if len(given) > len(found):
            raise Refused(400, "a parameter is given twice: give each once")
        regions = found.get("regions", "false")
        if regions not in ("true", "false"):
            raise Refused(400, f"regions must be true or false, got {regions[:40]!r}")
        return cls(found.get("model"), regions == "true")


@dataclass(frozen=True, slots=True)
class Upload:
    """Images of an upload.

    Attributes:
        sources: The images.
        names: Names of their files; None for a file without a name.
        form: True if they came as a form, so that the answer is a list.
    """

    sources: Sequence[Source]
    names: Sequence[str | None]
    form: bool


def boundary_of(request: Request) -> bytes | None:
    """Return the boundary of a form; None for one image file.

    Raises:
        Refused: 415 if the content type or encoding is not taken, 400 if a form has no boundary.
    """
    require_plain(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    name = kind.decode("latin-1").strip()
    if name == FORM:
        if not options.get(b"boundary"):
            raise Refused(400, f"a {FORM} names its boundary: this one names none")
        return options[b"boundary"]
    if not _ONE_FILE.fullmatch(name):
        raise Refused(415, f"content type {name[:100]} is not taken: send an image file, or files as {FORM}")
    return None


def read(body: bytearray, boundary: bytes | None, *, limits: Limits, decoding: DecodingRoom) -> Upload:
    """Read an upload.

    Args:
        body: The body.
        boundary: That of a form; None if the body is one image file.
        limits: Limits of images and pixels.
        decoding: Room that each image takes while it is decoded.

    Raises:
        Refused: 400 if it holds no file or is no form, 413 if it holds too many files.
    """
    files: list[tuple[str | None, bytes]] = [(None, bytes(body))] if boundary is None else []
    if boundary is not None:
        files += Form(limits.images).files(body, boundary)
    if not any(data for _, data in files):
        raise Refused(400, "no image came: send a file, as curl --data-binary @image.jpg or -F file=@image.jpg do")
    sources = [
        sent_file(data, name or f"file {row}", pixels=limits.pixels, decoding=decoding)
        for row, (name, data) in enumerate(files)
    ]
    return Upload(sources, [name for name, _ in files], boundary is not None)


def answer(upload: Upload, columns: Mapping[str, Column]) -> bytes:
    """Encode rows as JSON: a list for a form, else the one row.

    Args:
        upload: The upload.
        columns: Outputs by name, regions among them if they are wanted.
    """
    values = zip(*(np.asarray(columns[name]).tolist() for name in VALUES), strict=True)
    rows = []
    for name, error, found in zip(upload.names, columns["error"], values, strict=True):
        row = dict(zip(COLUMNS, (name, *([None] * len(VALUES) if error else found), error or None), strict=True))
        rows.append(row)
    for row, regions in zip(rows, columns.get(REGIONS, ()), strict=False):
        row[REGIONS] = msgspec.Raw(str(regions).encode())
    return msgspec.json.encode(rows if upload.form else rows[0])


class Form:
    """A reader of forms that counts files, and holds few bytes besides theirs.

    Args:
        most: Most files of a form.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: list[tuple[str | None, list[bytes]]] = []
        self._field, self._value = bytearray(), bytearray()
        self._disposition = ""
        self._complete = False

    def files(self, body: bytearray, boundary: bytes) -> list[tuple[str | None, bytes]]:
        """Return name and content of each file of a form.

        Raises:
            Refused: 400 if it is no form or holds other fields, 413 if it holds too many files.
        """
        callbacks: MultipartCallbacks = {
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._begin,
            "on_part_data": lambda data, start, end: self._files[-1][1].append(bytes(memoryview(data)[start:end])),
            "on_end": self._end,
        }
        try:
            parser = MultipartParser(boundary, callbacks, max_header_count=MOST_HEADERS, max_header_size=MOST_HEADER)
            parser.write(body)  # type: ignore[arg-type]  # a bytearray is searched and cut as well
            parser.finalize()
        except FormParserError as error:
            raise Refused(400, f"the body is no {FORM}: {error}") from None
        if not self._complete:
            raise Refused(400, f"the {FORM} is cut off: its last boundary is missing")
        return [(name, b"".join(pieces)) for name, pieces in self._files]

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._field, self._value = bytearray(), bytearray()

    def _begin(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = ""
        name = options.get(b"filename")
        if name is None:
            field = options.get(b"name", b"").decode(errors="replace")
            raise Refused(400, f"the field {field[:100]!r} is no file: send files alone, as -F file=@image.jpg does")
        if len(self._files) >= self._most:
            raise Refused(413, f"send at most {self._most} images a request")
        self._files.append((name.decode(errors="replace") or None, []))

    def _end(self) -> None:
        self._complete = True
