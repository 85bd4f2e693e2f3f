"""Where the servers are: what a user writes goes in, a gRPC target comes out. Beside it: the defaults of a client."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["DEFAULT_ADDRESS", "DEFAULT_TIMEOUT_S", "target"]

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0


def target(address: str) -> tuple[str, str | None]:
    """The gRPC target of one address or of several, and the HTTP/2 authority where gRPC would make up a bad one.

    Args:
        address: "host:port", any gRPC target, or several "ip:port" with commas between them. Several names are refused:
            they would be looked up once and never again, where gRPC looks one name up anew whenever a server is lost.

    Raises:
        ValueError: It cannot be an address; says how to write it.
    """
    if not isinstance(address, str):
        raise TypeError(f"an address is a str, host:port, e.g. {DEFAULT_ADDRESS!r}; this is a {type(address).__name__}")
    address = address.strip()
    if "@" in address and not address.startswith("unix"):
        raise ValueError("an address is host:port, without a user or password before an @: a token goes into token=")
    scheme, separator, rest = address.partition("://")
    if separator and scheme in ("http", "https", "grpc", "grpcs"):
        raise ValueError(
            f"an address is host:port, e.g. {rest!r}; this is {address!r}"
            + (" (for TLS add tls=True)" if scheme in ("https", "grpcs") else "")
        )
    if not address:
        raise ValueError(f"an address is host:port, e.g. {DEFAULT_ADDRESS!r}; this one is empty")
    for place in address.split(",") if not address.startswith("unix") else ():
        port = place.rpartition(":")[2].strip()
        if port.isdecimal() and int(port) > 65535:  # of 99999, gRPC would call 34463
            raise ValueError(f"an address is host:port with a port of at most 65535; this is {address!r}")
    if "," not in address or address.startswith(("ipv4:", "ipv6:")):
        return address, None
    places = [_ip_and_port(place.strip()) for place in address.split(",")]
    versions = {version for version, _ in places}
    if len(versions) > 1:
        raise ValueError(f"several addresses are all IPv4 or all IPv6; {address!r} has both")
    return f"ipv{versions.pop()}:{','.join(place for _, place in places)}", places[0][1]


def _ip_and_port(place: str) -> tuple[int, str]:
    host, _, port = place.rpartition(":")
    try:
        ip, number = ip_address(host.strip("[]")), int(port)
    except ValueError:
        raise ValueError(
            f"several addresses are written ip:port,ip:port; {place!r} is not ip:port. "
            "For names, give one DNS name that has all the addresses, such as a headless Service's"
        ) from None
    return ip.version, f"[{ip}]:{number}" if ip.version == 6 else f"{ip}:{number}"
