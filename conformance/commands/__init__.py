"""The subcommands of `lastwriter`, one module for each or for those that are alike."""
