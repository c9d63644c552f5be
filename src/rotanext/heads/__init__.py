"""Head families: each owns its module, priors, decoding, assignment, losses and configuration; `contract` is what others know."""

from typing import Annotated

from pydantic import Field

from rotanext.heads.aligned import AlignedConfig
from rotanext.heads.retina import RetinaConfig
from rotanext.heads.rtmdet import RTMDetConfig

HeadConfig = Annotated[AlignedConfig | RetinaConfig | RTMDetConfig, Field(discriminator="kind")]
