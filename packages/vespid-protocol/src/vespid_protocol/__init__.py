"""The public language of the Vespid runtime: frames, codec, ids, error codes and pure state machines."""
