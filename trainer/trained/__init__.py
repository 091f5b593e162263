"""Models that exist already: our checkpoints, exported backbones and anybody's module, and what they say of scans."""
