"""Figures for Prometheus."""

from rotanext import __version__
from rotanext.serve.metrics import Metrics
from serving import Server, encoded, noise


def test_about_and_metrics(server: Server) -> None:
    facts = server.client.get("/about").json()
    assert [one["name"] for one in facts["classes"]] == ["plane", "ship"]
    assert (facts["max_upload"], facts["max_pixels"], facts["token"]) == (2_000_000, 4_000_000, False)
    server.post(encoded(noise(150, 100)))
    text = server.client.get("/metrics").text
    for line in ("rotanext_batch_tiles_count", 'rotanext_detections_total{class="plane"}', "rotanext_pixels_total"):
        assert line in text
    assert "rotanext_predictions_in_flight 0.0" in text
    assert server.client.get("/health").json()["status"] == "ok"


def test_figures_of_one_server() -> None:
    metrics, other = Metrics(["plane", "ship"]), Metrics(["plane"])
    for tiles, seconds in ((1, 0.2), (4, 0.02)):
        metrics.batch(tiles, seconds)
    metrics.detections.labels("ship").inc(3)
    lines = metrics.text().decode().splitlines()
    for line in (
        f'rotanext_info{{version="{__version__}"}} 1.0',
        "rotanext_batch_tiles_sum 5.0",
        "rotanext_batch_tiles_count 2.0",
        'rotanext_batch_tiles_bucket{le="2.0"} 1.0',
        'rotanext_batch_seconds_bucket{le="0.025"} 1.0',
        'rotanext_detections_total{class="plane"} 0.0',  # there before the first detection
        'rotanext_detections_total{class="ship"} 3.0',
    ):
        assert line in lines
    assert "rotanext_batch_tiles_sum 0.0" in other.text().decode()  # of no other server


def test_gauges_are_asked_when_they_are_read() -> None:
    metrics, inside = Metrics([]), [2]
    metrics.in_flight.set_function(lambda: inside[0])
    assert "rotanext_predictions_in_flight 2.0" in metrics.text().decode()
    inside[0] = 5
    assert "rotanext_predictions_in_flight 5.0" in metrics.text().decode()
