"""The subcommands of `stemwire` that need the extra `train`."""
