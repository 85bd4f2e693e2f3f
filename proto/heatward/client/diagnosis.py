"""What gRPC says when no server answered goes in; one sentence that names the cause and the mend comes out.

What a server says itself stays as it is. The texts are those of gRPC's core, which has had them for years; one that is
not known stays as well.
"""

from __future__ import annotations

import re
import socket

__all__ = ["diagnose"]

# What gRPC says, and what it means. The first that fits counts.
CAUSES = {
    r"DNS resolution failed|[Nn]ame or service not known|Domain name not found": (
        "the name of the server {address} cannot be resolved: check its spelling, and this machine's DNS"
    ),
    r"HTTP proxy returned response code (?P<what>\d+)": (
        "the proxy does not connect to {address}: it answers with HTTP status {what}"
    ),
    r"Connection refused": (
        "nothing listens at {address} (connection refused): start a server with `heatward serve`, or check the address"
    ),
    r"No such file or directory|Permission denied": (
        "there is no socket at {address} that can be opened: start the server that makes it, or check the address"
    ),
    r"backend unhealthy": (
        "the server at {address} says NOT_SERVING: it is still loading, or draining; wait_for_ready=True waits for it"
    ),
    r"WRONG_VERSION_NUMBER|UNEXPECTED_MESSAGE|wrong version number": (
        "what listens at {address} does not speak TLS: leave out tls (--tls, --tls-roots), or name the port that does"
    ),
    r"CERTIFICATE_VERIFY_FAILED:? ?(?P<what>[\w ]*)": (
        "the certificate of {address} is not trusted ({what}): name its authority's roots (tls=, --tls-roots)"
    ),
    r"Peer name (?P<what>\S+) is not in peer certificate|Hostname Verification Check failed": (
        "the certificate of {address} is for another name than {what}: give that (server_name=, --tls-server-name)"
    ),
    r"Failed parsing HTTP/2|http1\.x|Unexpected HTTP1": (
        "what listens at {address} speaks HTTP/1, not gRPC: is it the metrics port, or a web server?"
    ),
    r"before receiving SETTINGS|Handshake read failed|[Hh]andshake.*(timed out|shutdown)|handshaker shutdown": (
        "{address} takes connections but does not answer: the server hangs, or is none of gRPC"
    ),
    r"Socket closed|[Cc]onnection reset|Broken pipe|EOF|Ssl handshake failed|TSI_PROTOCOL_FAILURE": (
        "{address} ends the connection {at_once}"
    ),
    r"unreachable|No route to host|timed out|FD [Ss]hutdown|timeout": (
        "{address} cannot be reached from here: a firewall, or a wrong address"
    ),
}
AT_ONCE = {
    False: "at once: it expects TLS (tls=, --tls, --tls-roots), or is no gRPC server",
    True: "during TLS: it may ask for yours (certificate=, --tls-certificate)",
}
"""By whether the client speaks TLS."""
LOOPBACK = ("127.0.0.1", "[::1]")
LOCAL = re.compile(r"(?:dns:/*|ipv[46]:)?(localhost\.?|127\.0\.0\.1|\[::1\]):(\d+)", re.IGNORECASE)
NEVER_CONNECTED = re.compile(r"connections to all backends failing|failed to connect to all addresses|DNS resolution")
LOST = re.compile(r"^(Socket closed|recvmsg|Connection reset|Broken pipe|.*ping timeout|.*keepalive|GOAWAY|.*pings)")
TOO_LARGE = re.compile(r"Received message larger than max \((\d+) vs\.? (\d+)\)")
NO_METHOD = re.compile(r"Method not found|unknown (service|method)|not implemented|http2 header with status: 404", re.I)
GATEWAY = re.compile(r"Received http2 header with status: (\d+)")


def diagnose(code: str, details: str, *, address: str, tls: bool, proxy: str = "") -> str:
    """The message of an error.

    Args:
        code: Name of its gRPC status.
        details: What gRPC or the server says.
        address: Where the client looks for its servers.
        tls: Whether it speaks TLS.
        proxy: The environment variable whose proxy stands between, if one does.
    """
    if code == "UNAVAILABLE" and NEVER_CONNECTED.search(details):
        if proxy and "certificate" not in details.lower():
            reason = re.sub(r"^[A-Z_]+: ", "", details.rpartition("last error: ")[2])
            return (
                f"{address} is not reached through the proxy that the environment variable {proxy} names ({reason}):"
                " mend it, or add the host to no_proxy to go past it"
            )
        return _cause(details, address, tls)
    if code == "UNAVAILABLE" and LOST.search(details):
        return f"the connection to {address} was lost before the answer ({details})"
    if match := TOO_LARGE.search(details):
        count, most = match.groups()
        what = "the answer" if details.startswith("CLIENT") else "the request"
        return f"{what} has {count} bytes, and {most} are taken: send smaller images, or fewer at once"
    if match := GATEWAY.search(details):
        return f"{address} answers with HTTP status {match[1]}: a gateway without a server behind it, or a web server"
    if code == "UNIMPLEMENTED" and NO_METHOD.search(details):
        return f"what listens at {address} is no heatward server, or an older one ({details})"
    if code == "DEADLINE_EXCEEDED" and details.startswith("Deadline Exceeded"):
        if _listening(address) == "":
            return _cause("Connection refused", address, tls)
        through = f", which may be the proxy's fault that the environment variable {proxy} names" if proxy else ""
        return f"no answer from {address} before the deadline: the server is busy, hangs, or cannot be reached{through}"
    if code == "NOT_FOUND" and not details:
        return f"the server at {address} has no service of that name"
    return details


def _cause(details: str, address: str, tls: bool) -> str:
    if "Connection refused" in details and (place := _listening(address)) and place not in address:
        if tls:
            fault = "speaks no TLS, has a certificate that is not trusted, or asks for yours (tls=, certificate=)"
        else:
            fault = "expects TLS (tls=, --tls, --tls-roots), or is no gRPC server"
        return f"what listens at {place}, one address of {address}, {fault}: name {place} to hear which"
    for pattern, meaning in CAUSES.items():
        if match := re.search(pattern, details):
            what = match.groupdict().get("what") or "the one asked for"
            return meaning.format(address=address, what=what.strip(), at_once=AT_ONCE[tls])
    return f"no server answers at {address} ({details})"


def _listening(address: str) -> str | None:
    """Where on this machine something listens after all, "" for nowhere; None: this cannot be found out at once.

    localhost is two addresses, and gRPC tells of either one's error; and of none where the deadline passes first.
    """
    if not (match := LOCAL.fullmatch(address)):
        return None
    for host in LOOPBACK if match[1].lower().startswith("localhost") else (match[1],):
        try:
            with socket.create_connection((host.strip("[]"), int(match[2])), timeout=0.2):
                return f"{host}:{match[2]}"
        except TimeoutError:  # it takes no more connections
            return None
        except (OSError, OverflowError):
            continue
    return ""
