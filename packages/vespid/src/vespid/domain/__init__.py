"""The server's pure rules: workflows, runs, selectors, quotas, policy. No I/O, no asyncio, no clock: time is handed in."""
