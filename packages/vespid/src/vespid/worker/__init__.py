"""The worker: steps runs as they become due, runs work of the server's own kinds, sweeps up what was left behind."""
