"""The subcommands of `stemwire`."""
