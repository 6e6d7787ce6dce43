"""The services, one package a role. They never import each other."""

import os

# gRPC's core writes lines of its own past every formatter: one for each TLS handshake that fails,
# so anybody who reaches a port could fill the log. It reads this when it is imported, once, and a
# service's package is imported before anything else.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
