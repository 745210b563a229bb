"""The public language of the Vespid runtime, for both ends. Pure: no asyncio, no clock, no I/O.

frames      every frame of the executor socket          codec         bytes to frames and back, sizes
codes       error codes, close codes, what is retried   ids           identifiers, requestIds, tokens
text        hygiene for text from outside               backoff       when to connect again

machine     what the state machines have in common      connection    the life of a socket
lease       the life of an execution                    journal       what an agent remembers of a request

gateway_peer, agent_peer    the two ends, as objects: frames and time in, effects out
effects     what the peers ask the world to do          reference     the made parts of docs/protocol.md
"""
