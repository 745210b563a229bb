"""The brain: takes dispatches over the internal HTTP and waits for what comes of them."""
