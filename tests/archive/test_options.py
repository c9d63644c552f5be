"""Which options and sources ask for a cluster, and which for prediction in this process; needs no Ray."""

from typing import Any

import pytest

from rotanext.archive.options import ClusterOptions, cluster_options
from rotanext.errors import UserError


def test_plain_prediction_has_no_cluster() -> None:
    assert cluster_options(["a.png", "b.png"], None, device="cuda") is None


def test_a_cluster() -> None:
    assert cluster_options(["s3://b/in"], "local") == ClusterOptions()
    asked = cluster_options(["in"], "auto", workers=2, cores=1, chunk=5, device="cpu")
    assert asked == ClusterOptions("auto", 2, 1, 5, "cpu")


@pytest.mark.parametrize(
    ("sources", "address", "options", "message"),
    [
        (["a.png"], None, {"workers": 2}, "belong to --ray"),
        (["a.png"], None, {"cores": 2}, "belong to --ray"),
        (["a.png"], None, {"chunk": 2}, "belong to --ray"),
        (["a.png", "s3://b/in"], None, {}, "s3://b/in: addresses and lists of them are read with --ray local"),
        (["scenes.txt"], None, {}, r"scenes\.txt: addresses and lists"),
        (["a", "b", "c"], "local", {}, "--ray takes one source, and not 3"),
    ],
)
def test_what_does_not_go_together(sources: list[str], address: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster_options(sources, address, **options)
