"""What tests of an agent need: a gateway in one file that does as it is told, good or bad."""
