"""The server's pure rules: workflows, runs, selectors, quotas, policy. No I/O, no asyncio; time is handed in."""
