"""Head families: each owns its module, priors, decoding, assignment, losses and configuration; `contract` is what others know."""

from rotanext.heads.retina import RetinaConfig

# With a second family: Annotated[RetinaConfig | OtherConfig, Field(discriminator="kind")]
HeadConfig = RetinaConfig
