"""Files to deploy with."""
