"""What the service accepts, and how it says no."""

from http import HTTPStatus

import pytest

from rotanext.serve.limits import Gate, Refused, check_pixels, problem, too_large
from serving import LIMITS


def test_gate() -> None:
    gate = Gate(1)
    entered = gate.enter()
    with pytest.raises(Refused) as refused:
        gate.enter()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    gate.leave(entered)
    gate.leave(gate.enter() - 1000)
    assert 2 <= gate.wait <= 60


SIZES = (  # width, height, bytes a pixel, and the answer of a server that takes 4,000,000 pixels of 16 bytes
    (2000, 2000, 16, None),
    (4_000_000, 1, 1, None),
    (2001, 2000, 1, (413, "the image is 2001 x 2000 = 4,002,000 pixels; this server takes up to 4,000,000")),
    (2000, 2000, 17, (413, "68 million bytes once decoded; this server takes up to 64")),
    (0, 5, 1, (422, "the image is 0 x 5 pixels; expected at least one")),
    (5, -1, 1, (422, "expected at least one")),
)


@pytest.mark.parametrize(("width", "height", "depth", "answer"), SIZES)
def test_pixels_are_checked_before_they_are_decoded(width: int, height: int, depth: int, answer: tuple | None) -> None:
    if answer is None:
        check_pixels(width, height, LIMITS, depth)
        return
    with pytest.raises(Refused) as refused:
        check_pixels(width, height, LIMITS, depth)
    assert refused.value.status == answer[0]
    assert answer[1] in refused.value.detail


def test_refusals_are_problems_of_rfc_9457() -> None:
    refused = too_large(LIMITS)
    assert (refused.status, refused.headers) == (413, {})
    assert problem(refused.status, refused.detail) == {
        "type": "about:blank",
        "title": HTTPStatus(413).phrase,
        "status": 413,
        "detail": "the upload is larger than the 2 MB that this server takes. Cut or compress it.",
    }


def test_the_gate_counts_who_is_inside_and_says_when_to_come_back() -> None:
    gate = Gate(2)
    entered = [gate.enter(), gate.enter()]
    assert gate.inside == 2
    with pytest.raises(Refused, match="2 requests are being served"):
        gate.enter()
    assert gate.inside == 2  # who was refused takes no place
    for one in entered:
        gate.leave(one)
    assert (gate.inside, gate.wait) == (0, 1)
    for _ in range(50):
        gate.leave(gate.enter() - 1e6)
    assert gate.wait == 60  # never longer
