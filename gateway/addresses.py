"""Addresses: which of them are of this machine, and which belong to a list of networks."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone: `localhost`, 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is, or None; one of IPv4 that is written as IPv6 is that of IPv4.

    A zone (`fe80::1%eth0`) is left out: it has a meaning on one machine only, and any text would do.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or IPv6Address(int(address))) if isinstance(address, IPv6Address) else address


def neighbourhood(text: str | None) -> str:
    """Return an address as clients are counted by it: a client with one IPv6 address has the 64 bits of it."""
    address = address_of(text or "")
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), 64), strict=False))
    return "unknown" if address is None else str(address)


def networks(texts: Sequence[str]) -> list[Network]:
    """Return the networks that texts name, `10.0.0.0/8` or one address; raises ValueError with a remedy."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError:
            try:
                remedy = f"write {ip_network(text, strict=False)}"
            except ValueError:
                remedy = "write an address, 10.1.2.3, or a network, 10.0.0.0/8"
            raise ValueError(f"is no network; {remedy}") from None
    return found
