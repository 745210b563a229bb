"""What models may have called on this host. `scope.py` is what every source of tools is given."""
