"""Figures for Prometheus."""

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
