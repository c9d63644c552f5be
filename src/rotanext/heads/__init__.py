"""Head families: each owns its module, priors, decoding, assignment, losses and configuration."""
