"""The service: a detector behind gRPC. Start with `server.app`; an image's way is `server.inference.pipeline`."""
