"""gRPC itself: connections, messages, calls with their statuses, streams, health, reflection."""
