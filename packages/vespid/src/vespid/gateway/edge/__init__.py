"""The edge: sockets of executors, and everything that is said on them.

socket      the upgrade, and the loop that reads
connection  one socket: carries out what the protocol's `GatewayPeer` says
transport   frames of one loop turn as one write
registry    the connections of this process, and what Redis is told of them
grants      offers become leases, leases become `execute`
results     results become commits, commits become `execute_ack`
streams     remote events in batches
orders      what other processes and people tell an edge
"""
