"""Addresses of the public Internet: those outside all special-purpose ranges."""

import ipaddress

# IANA's special-purpose registries (iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry,
# RFC 6890), whole, including ranges that are reachable (AS112, AMT, anycast): no images are served from there. Python's
# `is_global` depends on its version.
SPECIAL_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private use
    "100.64.0.0/10",  # shared address space
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link local, clouds' metadata among them
    "172.16.0.0/12",  # private use
    "192.0.0.0/24",  # IETF protocol assignments: DS-Lite, dummy address, PCP, TURN, NAT64 discovery
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays, deprecated
    "192.168.0.0/16",  # private use
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast (RFC 5771)
    "240.0.0.0/4",  # reserved; broadcast
)
SPECIAL_IPV6 = (
    "::/96",  # unspecified, loopback, IPv4-compatible (deprecated)
    "::ffff:0:0:0/96",  # IPv4-translated (RFC 7915)
    "64:ff9b::/96",  # NAT64
    "64:ff9b:1::/48",  # NAT64 for local use
    "100::/64",  # discard only
    "100:0:0:1::/64",  # dummy prefix
    "2001::/23",  # IETF protocol assignments: Teredo, benchmarks, AMT, AS112, ORCHID, drones
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
    "5f00::/16",  # segment routing
    "fc00::/7",  # unique local
    "fe80::/10",  # link local
    "fec0::/10",  # site local, deprecated (RFC 3879)
    "ff00::/8",  # multicast (RFC 4291)
)
_SPECIAL = [ipaddress.ip_network(network) for network in (*SPECIAL_IPV4, *SPECIAL_IPV6)]


def is_public(address: str) -> bool:
    """Return True for an address of the public Internet; an IPv4-mapped one counts as its IPv4 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not any(ip in network for network in _SPECIAL)
