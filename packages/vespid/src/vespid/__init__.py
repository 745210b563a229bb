"""The server side of the Vespid runtime: control plane, gateway, worker, engine-runner."""
