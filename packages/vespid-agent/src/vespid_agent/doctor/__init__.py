"""What is wrong with this machine, its way to the gateway and its agent: a line each, with cause and mend."""
