"""One module a subcommand, or a few that belong together."""
