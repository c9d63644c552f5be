"""What the service accepts, and how it says no."""

import pytest

from rotanext.serve.limits import Gate, Refused


def test_gate() -> None:
    gate = Gate(1)
    entered = gate.enter()
    with pytest.raises(Refused) as refused:
        gate.enter()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    gate.leave(entered)
    gate.leave(gate.enter() - 1000)
    assert 2 <= gate.wait <= 60
