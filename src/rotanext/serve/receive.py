"""Reading the body of a request within its limits, into memory or a file without a name."""

import asyncio

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from rotanext.serve.limits import Limits, Refused, too_large

FIELD = "file"
_ENVELOPE = 64_000  # bytes of a multipart body besides the image
_RAW = ("image/", "application/octet-stream")
STALLED = 10.0  # seconds without a byte, after which an upload gives its place to others


async def receive_upload(request: Request, limits: Limits) -> bytes:
    """The bytes of the image in a request: its whole body, or the part `file` of a form. The name of a file is not looked at.

    Raises `Refused`: 400 for a malformed form, 408 where it comes too slowly or stops, 411 and 413 by its length, 415 for another
    kind of body, 422 for a form without an image.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not form and not kind.startswith(_RAW):
        found = f"a body of type '{kind}'" if kind else "a body without a type"
        raise Refused(415, f"found {found[:120]}; expected multipart/form-data with the part '{FIELD}', or image/... as it is")
    most = limits.upload + (_ENVELOPE if form else 0)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large(limits) if length.isdecimal() else Refused(400, "the header Content-Length is not a number")
    request = _hurried(request)
    try:
        async with asyncio.timeout(limits.seconds):
            return await (_form(request, limits, most) if form else _raw(request, limits))
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {limits.seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the connection closed before the upload was complete") from None


def _hurried(request: Request) -> Request:
    """The request, refused once nothing comes any more."""

    async def soon() -> Message:
        try:
            async with asyncio.timeout(STALLED):
                return await plain()
        except TimeoutError:
            raise Refused(408, f"nothing of the upload came for {STALLED:g} seconds") from None

    plain = request.receive
    return Request(request.scope, soon)


async def _raw(request: Request, limits: Limits) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limits.upload:
            raise too_large(limits)
    return bytes(data)


async def _form(request: Request, limits: Limits, most: int) -> bytes:
    """The part `file`; beyond a megabyte Starlette puts it into a temporary file without a name."""
    came = 0
    plain = request.receive

    async def counted() -> Message:
        nonlocal came
        message = await plain()
        came += len(message.get("body", b""))
        if came > most:
            raise too_large(limits)
        return message

    counting = Request(request.scope, counted)
    parser = MultiPartParser(counting.headers, counting.stream(), max_files=1, max_fields=8, max_part_size=_ENVELOPE)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError, ValueError) as error:
        raise Refused(
            400, f"the form cannot be read ({getattr(error, 'message', None) or error or type(error).__name__})"
        ) from None
    try:
        part = form.get(FIELD)
        if part is None or isinstance(part, str):
            raise Refused(422, f"the form has no image; expected a file in its part '{FIELD}'")
        if (part.size or 0) > limits.upload:
            raise too_large(limits)
        return await part.read()
    finally:
        await form.close()
