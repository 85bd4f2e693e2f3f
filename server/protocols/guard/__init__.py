"""Guard mode: in front of another KServe v2 server."""
