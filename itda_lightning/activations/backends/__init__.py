"""Run a language model over rows: in memory, streamed from disk, or remote."""
