"""The commands that need nothing but the client, one a file; each is a function (argv) -> exit code."""
