"""Engines that are programs of this machine's user: Claude Code and Codex, each driven by its streaming JSON mode."""
