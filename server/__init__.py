"""The service: a detector behind gRPC. Start with `server.app`; the road of one request is in `server.service`."""
